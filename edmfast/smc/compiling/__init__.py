"""A step of a run as compiled graphs, which a GPU captures and repeats."""
