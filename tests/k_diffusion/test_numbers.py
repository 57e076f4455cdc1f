"""Test numbers of the helpers and schedules in every spelling, and wrong ones; see `tests.spellings`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edmfast.k_diffusion as K
from tests.spellings import COUNT, REAL, check_bad, check_good, row


def coefficient(order=3, i=2, j=0):
    return K.sampling.linear_multistep_coeff(order, [9.0, 7.0, 4.0, 2.0, 1.0], i, j)


def averaged(decay):
    torch.manual_seed(0)
    model, average = nn.Linear(2, 2), nn.Linear(2, 2)
    K.utils.ema_update(model, average, decay)
    return average.weight


SCHEDULE = K.external.DiscreteSchedule(torch.tensor([0.5, 1.0, 2.0]), quantize=False)
CASES = [
    row("append_dims", "target_dims", COUNT, 3, lambda n: K.utils.append_dims(torch.ones(2), n), 0),
    *[
        row(
            "linear_multistep_coeff",
            name,
            COUNT,
            good,
            lambda value, name=name: coefficient(**{name: value}),
            *bad,
        )
        for name, good, bad in (("order", 2, (0, 9)), ("i", 3, (-1, 4)), ("j", 1, (-1, 3)))
    ],
    row(
        "Denoiser",
        "sigma_data",
        REAL,
        0.5,
        lambda s: K.Denoiser(nn.Identity(), s).get_scalings(torch.ones(1))[0],
        0.0,
        -1.0,
    ),
    row("Denoiser", "scales", COUNT, 1, lambda n: K.Denoiser(nn.Identity(), scales=n).scales, 0, 2),
    row("ema_update", "decay", REAL, 0.5, averaged, -0.5, 1.5),
    row("DiscreteSchedule.get_sigmas", "n", COUNT, 4, SCHEDULE.get_sigmas, 0),
]


def name(case):
    return f"{case.entry}-{case.argument}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_spelling_of_a_good_number_is_that_number(case):
    check_good(case)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_bad_number_is_refused_by_the_name_of_its_argument(case):
    check_bad(case)
