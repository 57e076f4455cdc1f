"""Objectives that share the trainer of `distill`: Rectified Diffusion and pairwise sample optimisation."""

from edmfast.distill.objectives.make_pairs import make_pairs
from edmfast.distill.objectives.pairs import NoisePairs, load_pairs
from edmfast.distill.objectives.pso import PSOLoss, train_pso
from edmfast.distill.objectives.pso_offline import OfflinePSOLoss, train_pso_offline
from edmfast.distill.objectives.rectified import RectifiedLoss, train_rectified

__all__ = [
    "NoisePairs",
    "OfflinePSOLoss",
    "PSOLoss",
    "RectifiedLoss",
    "load_pairs",
    "make_pairs",
    "train_pso",
    "train_pso_offline",
    "train_rectified",
]
