"""Benchmark cases: one file per operator, and per job made of several."""
