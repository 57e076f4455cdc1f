"""Evaluation of a model: distances of its samples, its consistency at every noise level, and its likelihood."""

from edmfast.evaluation.digit_features import DigitFeatures, load_digit_features
from edmfast.evaluation.evaluation import Evaluation
from edmfast.evaluation.features import load_features
from edmfast.evaluation.frechet import (
    FrechetDistance,
    frechet_of_features,
    frechet_of_moments,
    noise_floor,
)
from edmfast.evaluation.likelihood import Likelihood, likelihoods
from edmfast.evaluation.moments import Moments
from edmfast.evaluation.networks import register_features, save_features
from edmfast.evaluation.run import evaluate
from edmfast.evaluation.samples import SOLVERS
from edmfast.evaluation.tables import Table

__all__ = [
    "SOLVERS",
    "DigitFeatures",
    "Evaluation",
    "FrechetDistance",
    "Likelihood",
    "Moments",
    "Table",
    "evaluate",
    "frechet_of_features",
    "frechet_of_moments",
    "likelihoods",
    "load_digit_features",
    "load_features",
    "noise_floor",
    "register_features",
    "save_features",
]
