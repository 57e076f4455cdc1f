"""Longer measurements, each with its own command."""
