"""Test that every operator is timed in each of its directions, on both kinds of device."""

from __future__ import annotations

import re

import pytest
import torch

from bench.harness import registry
from bench.harness.registry import BACKWARD, DIRECTIONS, DOUBLE_BACKWARD, FORWARD
from bench.report import derivatives
from edmfast import ops

NO_OPERATORS = {"Perceptron", "Resampled", "Weights", "rng_state"}
"""Names of the package that compute no tensors."""
NAMES = {
    "attention": r"attention/",
    "curvature": r"curvature/",
    "curvature_matched": r"curvature matched/",
    "group_norm": r"group_norm_silu/group ",
    "layer_norm": r"group_norm_silu/layer ",
    "linear_combination": r"linear_combination/",
    "mlp_potential": r"mlp_potential[ /]",
    "mlp_potentials": r"mlp_potentials/",
    "potential": r"potential/(?!assemble)",
    "potential_assemble": r"potential/assemble ",
    "propagate": r"propagate/",
    "random_signs": r"signs/",
    "resample": r"schemes/",
    "reversal": r"reversal/",
    "rms_norm": r"group_norm_silu/rms ",
    "score_gram": r"score_gram/",
    "standard_normal": r"noise/",
    "systematic_resample": r"resample/",
    "weigh_and_resample": r"weigh/",
}
"""The pattern that begins the names of an operator's cases."""
FORM = {"mlp_potentials": "mlp_potential"}
"""Operators that generalise another one and share its derivative orders."""


def directions(name):
    """Return the directions of an operator; one without derivatives has only the forward direction."""
    form = FORM.get(name, name)
    return DIRECTIONS if form in derivatives.CASES else (FORWARD,)


def missing(cases):
    """Return every (operator, direction, device) that no case times."""
    operators = set(ops.__all__) - NO_OPERATORS
    timed = {
        (name, case.direction, device)
        for case in cases
        for device in case.devices
        for name, start in NAMES.items()
        if re.match(start, case.name)
    }
    wanted = {(n, d, at) for n in operators for d in directions(n) for at in ("cpu", "cuda")}
    return sorted(wanted - timed)


@pytest.fixture(scope="module")
def cases():
    return registry.load()


def test_names_are_those_of_the_package():
    assert NAMES.keys() == set(ops.__all__) - NO_OPERATORS


def test_all_operators_with_derivatives_have_the_second():
    """The function `directions` relies on this."""
    for name in derivatives.CASES:
        assert derivatives.right_orders(name, torch.float32, "cpu") >= 2, name


def test_every_direction_is_timed(cases):
    assert missing(cases) == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("name", "direction"),
    [("rms_norm", BACKWARD), ("mlp_potentials", DOUBLE_BACKWARD), ("score_gram", FORWARD)],
)
def test_a_removed_case_is_missed(cases, name, direction, device):
    left = [
        case
        for case in cases
        if not (
            re.match(NAMES[name], case.name)
            and case.direction == direction
            and device in case.devices
        )
    ]
    assert (name, direction, device) in missing(left)
