"""Test numbers of evaluations in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import pytest
import torch

from edmfast import analytic
from edmfast.evaluation import evaluate, frechet_of_features, likelihoods, noise_floor
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table

PAIR = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
X = torch.linspace(-1, 1, 12).reshape(6, 2).square()
NOTHING = {"samples": 0, "level_states": 0, "likelihood_states": 0}


def distances(**options):
    small = {"samples": 4, "nfe": (3,), "solvers": "euler", "sigma_min": 0.1, "sigma_max": 9.0}
    return evaluate(PAIR, data=X, **(NOTHING | small | options))


def densities(**options):
    small = {"sigma_min": 0.5, "sigma_max": 9.0, "levels": 4, "paths": 1, "tolerance": 0.1}
    return likelihoods(PAIR, X.double(), **(small | options))


CASES = [
    *table(
        "evaluate",
        distances,
        samples=(COUNT, 3, -1, 1),
        sigma_min=(REAL, 0.25, 0.0, 1e-30),
        sigma_max=(REAL, 4.0, 0.0, 1e30),
        bootstrap=(COUNT, 2, -1, 1),
        batch_size=(COUNT, 3, 0),
        seed=(SEED, 7),
    ),
    row("evaluate", "nfe", COUNT, 3, lambda n: distances(nfe=[n]), 0, 10**9),
    *table(
        "evaluate",
        lambda **o: evaluate(PAIR, data=X, sigma_min=0.5, sigma_max=9.0, **(NOTHING | o)),
        level_states=(COUNT, 2, -1, 1),
        likelihood_states=(COUNT, 2, -1, 1),
        bin_width=(REAL, 0.5, 0.0),
    ),
    row(
        "evaluate",
        "levels",
        REAL,
        0.5,
        lambda s: evaluate(PAIR, data=X, levels=[2.0, s], **(NOTHING | {"level_states": 2})),
        0.0,
        3.0,
    ),
    *table(
        "frechet_of_features",
        lambda **o: frechet_of_features(X, X + 1, **o),
        replicates=(COUNT, 2, -1, 1),
        seed=(SEED, 7),
    ),
    *table(
        "noise_floor",
        lambda **o: noise_floor(X, **o),
        size=(COUNT, 2, 1, 5),
        replicates=(COUNT, 2, -1, 1),
        seed=(SEED, 7),
    ),
    *table(
        "likelihoods",
        densities,
        sigma_min=(REAL, 0.25, 0.0),
        sigma_max=(REAL, 8.0, 0.0),
        levels=(COUNT, 3, 1),
        paths=(COUNT, 2, 0),
        probes=(COUNT, 2, 0),
        tolerance=(REAL, 0.5, 0.0),
        batch_size=(COUNT, 4, 0),
        seed=(SEED, 7),
    ),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
