"""Group, layer and RMS normalisation with scale, shift and SiLU in one pass, to second order."""

from edmfast.ops.norms.operator import group_norm, layer_norm, rms_norm

__all__ = ["group_norm", "layer_norm", "rms_norm"]
