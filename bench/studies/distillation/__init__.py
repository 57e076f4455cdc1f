"""Measure what students of an exact teacher learn, against each other at equal steps."""
