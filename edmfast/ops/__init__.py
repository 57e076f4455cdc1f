"""The operators: functions from tensors to tensors, with one folder for each.

A folder holds

operator.py    the public function, its checks, the schema, the shapes of its outputs and its derivatives
reference.py   the formula in plain torch: what the tests compare with, and the fallback where no kernel runs
cpu.py         the operator by torch's own CPU kernels, for operators without a C++ kernel
triton_*.py    the Triton kernels. triton_ops is the host side, which the dispatcher calls; triton_launch chooses
               sizes and launches; triton_tiles holds the device functions that kernels share; the other modules
               hold kernels. A small operator keeps its kernel and its host function together in triton_ops.

The C++ kernels are csrc/cpu/<operator>.cpp, the CUDA kernels csrc/cuda/<operator>.cu. `_shared` holds what several
operators use.
"""

from edmfast.ops.attention import attention
from edmfast.ops.curvature import curvature, curvature_matched
from edmfast.ops.linear_combination import linear_combination
from edmfast.ops.mlp_potential import Perceptron, mlp_potential, mlp_potentials
from edmfast.ops.noise import rng_state, standard_normal
from edmfast.ops.norms import group_norm, layer_norm, rms_norm
from edmfast.ops.potential import potential, potential_assemble
from edmfast.ops.propagate import propagate
from edmfast.ops.resample import resample
from edmfast.ops.reversal import reversal
from edmfast.ops.score_gram import score_gram
from edmfast.ops.signs import random_signs
from edmfast.ops.systematic_resample import Resampled, systematic_resample
from edmfast.ops.weigh import Weights, weigh_and_resample

__all__ = [
    "Perceptron",
    "Resampled",
    "Weights",
    "attention",
    "curvature",
    "curvature_matched",
    "group_norm",
    "layer_norm",
    "linear_combination",
    "mlp_potential",
    "mlp_potentials",
    "potential",
    "potential_assemble",
    "propagate",
    "random_signs",
    "resample",
    "reversal",
    "rms_norm",
    "rng_state",
    "score_gram",
    "standard_normal",
    "systematic_resample",
    "weigh_and_resample",
]
