"""Random calls of raw operators."""
