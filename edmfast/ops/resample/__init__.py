"""Resampling by one of six schemes, with any number of offspring."""

from edmfast.ops.resample.operator import resample

__all__ = ["resample"]
