"""Judge the weights of a run from its own record, and warn where they cannot be trusted."""
