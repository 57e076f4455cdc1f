"""Feynman–Kac models of sequential Monte Carlo: how particles move, and what each move weighs."""
