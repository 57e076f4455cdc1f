"""Training: energies on a pretrained denoiser, and the networks of interpolants, with checkpoints and resuming."""

from edmfast.distill.checkpoint import load_ema
from edmfast.distill.config import DistillConfig
from edmfast.distill.conservative import NonConservativeWarning
from edmfast.distill.data import DataScaleWarning, TrainingData, open_data
from edmfast.distill.interpolant import InterpolantLoss, train_interpolant
from edmfast.distill.recording import JsonLines, Logger, TensorBoard, WeightsAndBiases
from edmfast.distill.trainer import DistillResult, distill

__all__ = [
    "DataScaleWarning",
    "DistillConfig",
    "DistillResult",
    "InterpolantLoss",
    "JsonLines",
    "Logger",
    "NonConservativeWarning",
    "TensorBoard",
    "TrainingData",
    "WeightsAndBiases",
    "distill",
    "load_ema",
    "open_data",
    "train_interpolant",
]
