"""Test numbers of guidance in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.sampling import guidance
from tests.spellings import REAL, check_bad, check_good, name, table

X = torch.linspace(-1, 1, 6).reshape(3, 2)
LABEL = X.flip(0)


def denoiser(x, sigma, label=0.0):
    return 0.5 * x + torch.tanh(label * x)


def guided(kind, *models, interval=0.5, **options):
    bounds = (interval, 4.0)
    return kind(*models, **({"weight": 2.0, "interval": bounds} | options))(X, 1.0, label=LABEL)


def classifier_free(**options):
    empty = {"label": 0.0}
    return guided(guidance.ClassifierFreeGuidance, denoiser, unconditional=empty, **options)


def perpendicular(**options):
    branches = {"unconditional": {"label": 0.0}, "negative": {"label": -2.0}}
    return guided(guidance.PerpendicularNegative, denoiser, **branches, **options)


def auto(**options):
    return guided(guidance.AutoGuidance, denoiser, lambda x, sigma, label: x, **options)


def reinforcement(weight):
    models = denoiser, lambda x, sigma, label: x
    return guidance.ReinforcementLearningGuidance(*models, weight)(X, 1.0, label=LABEL)


WEIGHT, BOUND = (REAL, 0.5, math.inf), (REAL, 0.25, -1.0, 4.0)
CASES = [
    *table(
        "ClassifierFreeGuidance",
        classifier_free,
        weight=WEIGHT,
        interval=BOUND,
        rescale=(REAL, 0.5, -0.1, 1.1),
    ),
    *table(
        "PerpendicularNegative",
        perpendicular,
        weight=WEIGHT,
        interval=BOUND,
        negative_weight=(REAL, 0.5, math.inf),
    ),
    *table("AutoGuidance", auto, weight=WEIGHT, interval=BOUND),
    *table("ReinforcementLearningGuidance", reinforcement, weight=WEIGHT),
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
