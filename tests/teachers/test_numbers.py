"""Drawing data from a teacher accepts every spelling of its numbers and refuses invalid ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edmfast import sampling
from edmfast.teachers import generated_data, load_teacher
from tests.small_models import PAIR, mlp
from tests.spellings import COUNT, REAL, SEED, check_bad, check_good, row, table


def generated(count=3, **settings):
    levels = sampling.get_sigmas_karras(3, 0.1, 5.0)
    made = generated_data(PAIR, (2,), count, sigmas=levels, progress=False, **settings)
    assert isinstance(made, torch.Tensor)
    return made


def loaded(sigma_data):
    network = mlp()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_file(network.state_dict(), path)
        options = {"network": "ResidualMLP", "config": network.config}
        return load_teacher(path, sigma_data=sigma_data, **options).sigma_data


CASES = [
    row("load_teacher", "sigma_data", REAL, 0.25, loaded, 0.0),
    *table(
        "generated_data",
        generated,
        count=(COUNT, 3, 0),
        batch_size=(COUNT, 2, 0),
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
