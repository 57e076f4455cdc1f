"""edmfast."""
