"""The result of a run: weighted particles, estimates, genealogies and cost."""
