"""Longer measurements, each with a command of its own."""
