"""Helpers for every floor of the package. Nothing here is public."""
