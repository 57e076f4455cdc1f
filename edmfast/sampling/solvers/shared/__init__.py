"""Formulas and checks that several solvers share."""
