"""Adaptive systematic resampling in exact integers."""

from edmfast.ops.systematic_resample.operator import Resampled, systematic_resample

__all__ = ["Resampled", "systematic_resample"]
