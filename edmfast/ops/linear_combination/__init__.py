"""Sums of tensors with coefficients, and of normals from a counter, in one pass."""

from edmfast.ops.linear_combination.operator import linear_combination

__all__ = ["linear_combination"]
