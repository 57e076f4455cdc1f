"""Distillation accepts every spelling of its numbers and refuses invalid ones; see `tests.spellings`."""

from __future__ import annotations

import math
import tempfile
import warnings

import numpy as np
import pytest
import torch

import edmfast
from edmfast import DistillConfig
from edmfast.distill import open_data, post_hoc_ema
from tests.small_models import PAIR, X, distilled, mlp
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table


def opened(**settings):
    """Return the samples of data that are opened with some settings."""
    return open_data(X, **settings).some(3)


def post_hoc(sigma_rel=0.1, **options):
    with tempfile.TemporaryDirectory() as folder:
        distilled(ema_profiles=(0.1,), snapshot_folder=folder, snapshot_every=1)
        with warnings.catch_warnings():
            # two snapshots are few for any profile
            warnings.simplefilter("ignore", UserWarning)
            return post_hoc_ema(folder, sigma_rel, **options)


CASES = [
    *table(
        "DistillConfig",
        DistillConfig,
        steps=(COUNT, 3, 0),
        batch_size=(COUNT, 8, 0),
        accumulate=(COUNT, 2, 0),
        variance_groups=(COUNT, 2, 0),
        seed=(SEED, 7),
        p_mean=(REAL, 0.5, 1e3),
        p_std=(REAL, 0.5, 0.0, 1e3),
        noise_dof=(REAL, 3.0, 0.0, -1.0),
        label_dropout=(REAL, 0.5, 2.0),
        learning_rate=(REAL, 0.5, 0.0, math.inf),
        warmup_steps=(COUNT, 3, -1),
        clip_norm=(REAL, 0.5, 0.0),
        ema_decay=(REAL, 0.5, 1.0),
        energy_weight=(REAL, 0.5, 0.0),
        difference_weight=(REAL, 0.5, -1.0),
        value_weight=(REAL, 0.5, -1.0),
        value_paths=(COUNT, 4, 1),
        value_levels=(COUNT, 4, 1),
        value_refresh=(COUNT, 4, -1),
        checkpoint_every=(COUNT, 3, 0),
        keep_last=(COUNT, 3, 0),
        log_every=(COUNT, 3, 0),
        fokker_planck_weight=(REAL, 0.5, -1.0),
        time_score_weight=(REAL, 0.5, -1.0),
        snapshot_every=(COUNT, 3, 0),
    ),
    row(
        "DistillConfig",
        "ema_profiles",
        REAL,
        0.25,
        lambda s: DistillConfig(ema_profiles=(s, 0.125), checkpoint="run"),
        0.0,
        0.5,
    ),
    row("post_hoc_ema", "sigma_rel", REAL, 0.125, lambda s: post_hoc(sigma_rel=s), 0.0, 0.5),
    row("post_hoc_ema", "at_step", COUNT, 2, lambda n: post_hoc(at_step=n), 0),
    row(
        "DistillConfig",
        "value_sigmas",
        REAL,
        0.5,
        lambda s: DistillConfig(value_sigmas=(s, 8.0)),
        0.0,
        1e-30,
    ),
    row("DistillConfig", "betas", REAL, 0.5, lambda b: DistillConfig(betas=(b, 0.75)), 1.0),
    row(
        "DistillConfig",
        "difference_sigmas",
        REAL,
        0.5,
        lambda s: DistillConfig(difference_sigmas=(s, 8.0)),
        0.0,
        1e-30,
    ),
    row(
        "DistillConfig",
        "difference_steps",
        COUNT,
        4,
        lambda n: DistillConfig(difference_steps=(n, 8)),
        0,
    ),
    *table(
        "open_data",
        opened,
        workers=(COUNT, 3, -1),
        scale=(REAL, 0.5, 0.0, math.inf),
        mean=(REAL, 0.5, math.inf),
        std=(REAL, 0.5, 0.0, math.inf),
    ),
    *table("distill", distilled, learning_rate=(REAL, 0.5), seed=(SEED, 7), steps=(COUNT, 2)),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)


def test_a_checkpoint_made_with_numpy_numbers_resumes_with_python_numbers(tmp_path):
    settings = {"batch_size": 4, "learning_rate": 0.5, "seed": 7, "steps": 4, "checkpoint_every": 2}
    whole = distilled(**settings)
    number = {int: np.int64, float: np.float32}
    foreign = {name: number[type(value)](value) for name, value in settings.items()}
    assert torch.equal(whole, distilled(**foreign, checkpoint=tmp_path / "run"))
    student = edmfast.EnergyModel(mlp())
    result = edmfast.distill(
        PAIR,
        student,
        X,
        config=DistillConfig(**settings),
        resume_from=tmp_path / "run",
        progress=False,
    )
    assert torch.equal(result.losses, whole)
