"""Measure control where the truth is known."""
