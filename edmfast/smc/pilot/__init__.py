"""Pilot runs: what they record, and how the numbers of a calibration follow from it."""
