"""Distillation: training an energy on a pretrained denoiser, with checkpoints and resuming."""

from edmfast.distill.checkpoint import load_ema
from edmfast.distill.config import DistillConfig
from edmfast.distill.conservative import NonConservativeWarning
from edmfast.distill.data import DataScaleWarning
from edmfast.distill.trainer import DistillResult, distill

__all__ = [
    "DataScaleWarning",
    "DistillConfig",
    "DistillResult",
    "NonConservativeWarning",
    "distill",
    "load_ema",
]
