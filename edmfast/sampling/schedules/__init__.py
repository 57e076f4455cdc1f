"""Schedules of noise levels, and the variance-preserving schedules of time behind some of them."""
