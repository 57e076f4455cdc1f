"""Training data: the protocol of a source of samples, and the sources."""

from edmfast.distill.data.scale import DataScaleWarning, spread_of, warn_of_scale
from edmfast.distill.data.source import TrainingData
from edmfast.distill.data.tensors import TensorData, check_data

__all__ = [
    "DataScaleWarning",
    "TensorData",
    "TrainingData",
    "check_data",
    "spread_of",
    "warn_of_scale",
]
