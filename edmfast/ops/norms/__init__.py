"""Group, layer and RMS norm with scale, shift and SiLU in one pass, differentiable twice."""

from edmfast.ops.norms.operator import group_norm, layer_norm, rms_norm

__all__ = ["group_norm", "layer_norm", "rms_norm"]
