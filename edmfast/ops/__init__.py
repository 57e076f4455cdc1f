"""Ground floor: operators, tensors in and tensors out."""

from edmfast.ops.attention import attention
from edmfast.ops.mlp_potential import Perceptron, mlp_potential, mlp_potentials
from edmfast.ops.noise import rng_state, standard_normal
from edmfast.ops.norms import group_norm, layer_norm, rms_norm
from edmfast.ops.potential import potential, potential_assemble
from edmfast.ops.propagate import propagate
from edmfast.ops.resample import resample
from edmfast.ops.score_gram import score_gram
from edmfast.ops.systematic_resample import Resampled, systematic_resample
from edmfast.ops.weigh import Weights, weigh_and_resample

__all__ = [
    "Perceptron",
    "Resampled",
    "Weights",
    "attention",
    "group_norm",
    "layer_norm",
    "mlp_potential",
    "mlp_potentials",
    "potential",
    "potential_assemble",
    "propagate",
    "resample",
    "rms_norm",
    "rng_state",
    "score_gram",
    "standard_normal",
    "systematic_resample",
    "weigh_and_resample",
]
