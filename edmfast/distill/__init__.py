"""Training: energies on a pretrained denoiser, networks of interpolants, and few-step models, with checkpoints."""

from edmfast.distill.averages.post_hoc import post_hoc_ema
from edmfast.distill.checkpoint import load_ema
from edmfast.distill.config import DistillConfig
from edmfast.distill.conservative import NonConservativeWarning
from edmfast.distill.data import DataScaleWarning, TrainingData, open_data
from edmfast.distill.interpolant import InterpolantLoss, train_interpolant
from edmfast.distill.objectives import (
    NoisePairs,
    OfflinePSOLoss,
    PSOLoss,
    RectifiedLoss,
    load_pairs,
    make_pairs,
    train_pso,
    train_pso_offline,
    train_rectified,
)
from edmfast.distill.recording import JsonLines, Logger, TensorBoard, WeightsAndBiases
from edmfast.distill.trainer import DistillResult, distill

__all__ = [
    "DataScaleWarning",
    "DistillConfig",
    "DistillResult",
    "InterpolantLoss",
    "JsonLines",
    "Logger",
    "NoisePairs",
    "NonConservativeWarning",
    "OfflinePSOLoss",
    "PSOLoss",
    "RectifiedLoss",
    "TensorBoard",
    "TrainingData",
    "WeightsAndBiases",
    "distill",
    "load_ema",
    "load_pairs",
    "make_pairs",
    "open_data",
    "post_hoc_ema",
    "train_interpolant",
    "train_pso",
    "train_pso_offline",
    "train_rectified",
]
