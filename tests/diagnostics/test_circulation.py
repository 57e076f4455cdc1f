"""Test the circulation of fields with a known curl, and the report on several models."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.diagnostics import (
    conservativity_report,
    noising_trajectory,
    rectangle_circulation,
    score_circulation,
)

MIXTURE = GaussianMixture([[-1.0, 0.5, 0], [1.0, 0.0, 0.2]], [0.2, 0.5], [0.3, 0.7])
AXES = (torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


def points(n=20, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def rotation(omega):
    return lambda x: omega * torch.stack([-x[:, 1], x[:, 0], 0 * x[:, 2]], 1)


def test_a_rotation_has_twice_its_speed():
    result = rectangle_circulation(rotation(1.5), points(), sides=(0.3, 2.0), directions=AXES)
    torch.testing.assert_close(result.value, torch.full((20,), 3.0).double(), rtol=1e-12, atol=0)
    backwards = rectangle_circulation(rotation(1.5), points(), sides=0.3, directions=AXES[::-1])
    torch.testing.assert_close(backwards.value, -result.value, rtol=1e-12, atol=0)


def test_random_planes_measure_their_part_of_a_linear_field():
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = rectangle_circulation(lambda x: x @ matrix.T, points(5000), sides=0.1, seed=2)
    # In a plane (e, f) it is <f, M e> - <e, M f>, with the mean square |M - M'|² / (d (d - 1)) over planes.
    expected = float((matrix - matrix.T).square().sum()) / 6
    squares = result.value.square()
    assert abs(float(squares.mean()) - expected) < 4 * float(squares.std()) / math.sqrt(5000)


@pytest.mark.parametrize("sides", [0.01, 1.0, (0.2, 3.0)])
def test_a_gradient_has_no_circulation_within_the_stated_error(sides):
    def score(x):
        return MIXTURE.energy_and_score(x, 0.5)[1]

    result = rectangle_circulation(score, points(), sides=sides)
    assert result.strength.min() > 0.1
    assert (result.value.abs() <= 1e-6 * result.strength + 1e-12).all()
    assert (result.error <= 1e-6 * result.strength).all()


def test_a_curl_that_varies_is_averaged_over_the_rectangle():
    def field(x):  # The curl d_1 s_2 - d_2 s_1 is 5 x_1^4.
        return torch.stack([0 * x[:, 0], x[:, 0] ** 5, 0 * x[:, 0]], 1)

    at = torch.tensor([[0.7, 0.0, 0.0]], dtype=torch.float64)
    result = rectangle_circulation(field, at, sides=(1.0, 0.5), directions=AXES)
    assert float(result.value) == pytest.approx(1.2**5 - 0.2**5, rel=1e-12)


def test_few_nodes_report_their_error():
    def field(x):
        return torch.cos(5 * x[:, :1] + 4 * x[:, 1:2]) * torch.tensor([5.0, 4.0, 0.0])

    result = rectangle_circulation(field, points(), sides=2.0, directions=AXES, max_nodes=4)
    assert result.error.max() > 1e-3
    fine = rectangle_circulation(field, points(), sides=2.0, directions=AXES)
    assert (fine.value.abs() < 1e-6 * fine.strength + 1e-12).all()


def test_the_report_separates_a_gradient_from_a_twisted_copy():
    levels = [2.0, 0.5]
    states = noising_trajectory(MIXTURE.sample(64, seed=0), levels)

    def twisted(x, sigma):
        turn = rotation(0.5)(x)
        return MIXTURE(x, sigma) + sigma[:, None] ** 2 * turn

    report = conservativity_report({"teacher": twisted, "student": MIXTURE}, states, levels)
    for shares in (report.asymmetry, report.circulation):
        assert shares["student"].max() < 1e-6
        assert shares["teacher"].min() > 1e-3
        assert shares["teacher"].max() <= 1
    # The curl of the score is (0, 0, 1), with the mean square 1/3 over planes.
    around = score_circulation(twisted, states[0].repeat(40, 1), 2.0)
    assert float(around.value.square().mean()) == pytest.approx(1 / 3, rel=0.1)
    lines = str(report).splitlines()
    assert len(lines) == 6
    assert lines[4] == "NAsym of teacher: by reverse mode, exact up to rounding"
    assert lines[1].split() == ["sigma", "teacher", "student", "teacher", "student"]
    assert float(lines[3].split()[1]) == pytest.approx(
        float(report.asymmetry["teacher"][1]), rel=1e-2
    )


def test_conditions_reach_the_points_of_their_sample():
    def model(x, sigma, *, speed):
        assert len(speed) == len(x)
        return x + sigma[:, None] ** 2 * speed[:, None] * rotation(1.0)(x)

    speed = torch.arange(20.0).double()
    result = score_circulation(model, points(), 0.5, directions=AXES, condition={"speed": speed})
    torch.testing.assert_close(result.value, 2 * speed, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sides": 0.0}, "sides must be positive"),
        ({"sides": (1.0, 2.0, 3.0)}, "sides must be a pair of numbers, got 3"),
        ({"x": torch.zeros(3, 1)}, "two dimensions"),
        ({"directions": (AXES[0], AXES[0])}, "orthonormal"),
        ({"field": lambda x: x[:, :1]}, "must keep the shape"),
    ],
)
def test_bad_rectangles_are_refused(change, message):
    arguments = {"field": rotation(1.0), "x": points(), "sides": 1.0} | change
    with pytest.raises(ValueError, match=message):
        rectangle_circulation(arguments.pop("field"), arguments.pop("x"), **arguments)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"sigma must be positive and finite, got 0\.0"):
        score_circulation(MIXTURE, points(), 0.0)
    with pytest.raises(ValueError, match="0 models, 1 states and 2 sigmas"):
        conservativity_report({}, [points()], [1.0, 2.0])


def test_an_empty_batch():
    result = score_circulation(MIXTURE, points(0), 0.5)
    assert [part.shape for part in result] == [(0,)] * 3
    with pytest.raises(ValueError, match="states must hold at least one sample"):
        conservativity_report({"a": MIXTURE}, [points(0)], [0.5])
