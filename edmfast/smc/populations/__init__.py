"""Populations of particles [P, N]: their state, how a process holds them, and how ancestors are read."""
