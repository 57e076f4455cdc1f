"""Training data: the protocol of a source of samples, and the sources."""

from edmfast.distill.data.checks import check_data
from edmfast.distill.data.opening import DataLike, open_data
from edmfast.distill.data.scale import DataScaleWarning, spread_of, warn_of_scale
from edmfast.distill.data.source import TrainingData
from edmfast.distill.data.tensors import TensorData

__all__ = [
    "DataLike",
    "DataScaleWarning",
    "TensorData",
    "TrainingData",
    "check_data",
    "open_data",
    "spread_of",
    "warn_of_scale",
]
