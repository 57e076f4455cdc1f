"""Helpers that every floor of the package may use. Nothing here is public."""
