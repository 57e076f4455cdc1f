"""Curvatures of a target by random probes, and the proposal that follows them."""

from edmfast.ops.curvature.operator import curvature, curvature_matched

__all__ = ["curvature", "curvature_matched"]
