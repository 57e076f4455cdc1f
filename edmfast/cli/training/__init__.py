"""The command `edmfast distill`: its settings, its models and data, the run, and the estimate of a dry run."""
