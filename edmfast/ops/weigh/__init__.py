"""Log-weights, log Z, the decision to resample and the ancestors in one operator."""

from edmfast.ops.weigh.operator import Weights, weigh_and_resample

__all__ = ["Weights", "weigh_and_resample"]
