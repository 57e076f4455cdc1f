"""Measure what a job costs as its size grows."""
