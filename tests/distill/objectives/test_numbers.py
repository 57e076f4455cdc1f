"""The objectives accept every spelling of their numbers and refuse invalid ones; see `tests.spellings`."""

from __future__ import annotations

import pytest

import edmfast
from edmfast.distill import (
    DistillConfig,
    NoisePairs,
    OfflinePSOLoss,
    PSOLoss,
    RectifiedLoss,
    make_pairs,
    train_pso,
    train_pso_offline,
    train_rectified,
)
from tests.small_models import PAIR, X, mlp
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, name, row, table

CONFIG = DistillConfig(steps=2, batch_size=4)
LEVELS = [8.0, 2.0, 0.5]


def student():
    return edmfast.Denoiser(mlp())


def pairs(**options):
    return make_pairs(PAIR, **({"shape": (2,), "count": 4, "sigmas": LEVELS} | options))


def total(x):
    return x.sum(1)


def rectified(**options):
    return train_rectified(student(), pairs(), config=CONFIG, progress=False, **options).losses


def pso(**options):
    arguments = {"shape": (2,), "sigmas": LEVELS} | options
    return train_pso(student(), total, config=CONFIG, progress=False, **arguments).losses


def offline(**options):
    run = train_pso_offline(student(), X, -X, config=CONFIG, progress=False, **options)
    return run.losses


def beta(kind):
    return lambda value: kind(student(), beta=value).beta


CASES = [
    *table(
        "make_pairs",
        pairs,
        count=(COUNT, 3, 0),
        phases=(COUNT, 1, 0, 5),
        batch_size=(COUNT, 2, 0),
        num_classes=(COUNT, 2, -1),
        seed=(SEED, 7),
    ),
    row("make_pairs", "shape", COUNT, 2, lambda n: pairs(shape=[n]), 0),
    row("make_pairs", "sigmas", REAL, 4.0, lambda s: pairs(sigmas=[8.0, s, 0.5]), 9.0),
    row(
        "NoisePairs",
        "num_classes",
        COUNT,
        2,
        lambda n: NoisePairs(X, X, X[:, 0].abs() + 1, X[:, 0].abs() + 2, None, n).num_classes,
        -1,
    ),
    row("train_rectified", "huber", REAL, 0.5, lambda c: rectified(huber=c), 0.0),
    row(
        "RectifiedLoss", "huber", REAL, 0.5, lambda c: RectifiedLoss(student(), huber=c).huber, 0.0
    ),
    *table("train_pso", pso, beta=(REAL, 2.0, 0.0), clip=(REAL, 0.25, 0.0, 1.0)),
    row("train_pso", "shape", COUNT, 2, lambda n: pso(shape=[n]), 0),
    row("train_pso", "sigmas", REAL, 4.0, lambda s: pso(sigmas=[8.0, s, 0.5]), 9.0),
    row("PSOLoss", "beta", REAL, 2.0, beta(PSOLoss), 0.0),
    row("PSOLoss", "clip", REAL, 0.25, lambda c: PSOLoss(student(), clip=c).clip, 0.0, 1.0),
    *table(
        "train_pso_offline",
        offline,
        beta=(REAL, 2.0, 0.0),
        loser_weight=(REAL, 0.5, -1.0),
        prior_weight=(REAL, 0.5, -1.0),
    ),
    row("train_pso_offline", "sigmas", REAL, 4.0, lambda s: offline(sigmas=[8.0, s, 0.5]), 9.0),
    row("OfflinePSOLoss", "beta", REAL, 2.0, beta(OfflinePSOLoss), 0.0),
    *[
        row(
            "OfflinePSOLoss",
            argument,
            REAL,
            0.5,
            lambda value, argument=argument: getattr(
                OfflinePSOLoss(student(), **{argument: value}), argument
            ),
            -1.0,
        )
        for argument in ("loser_weight", "prior_weight")
    ],
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
