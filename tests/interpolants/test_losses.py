"""Test the losses of interpolants: their formulas, written out, and their errors."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.interpolants import Interpolant, interpolant_loss

DRAWS = torch.Generator().manual_seed(0)
X0, X1, Z = (torch.randn(4, 3, generator=DRAWS, dtype=torch.float64) for _ in range(3))
T = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)


def network(x, t):
    return torch.sin(x) + t[:, None] * x


def dot(a, b):
    return (a * b).sum(1)


@pytest.mark.parametrize("field", ["drift", "velocity", "noise", "score"])
def test_the_loss_of_a_two_sided_path_is_its_formula(field):
    t = T[:, None]
    gamma, gamma_dot = (t * (1 - t)).sqrt(), (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())
    expected = torch.zeros(4, dtype=torch.float64)
    for sign in (1, -1):
        value = network((1 - t) * X0 + t * X1 + sign * gamma * Z, T)
        inner = {
            "drift": -dot(X1 - X0 + sign * gamma_dot * Z, value),
            "velocity": -dot(X1 - X0, value),
            "noise": -sign * dot(Z, value),
            "score": sign * dot(Z, value) / gamma[:, 0],
        }
        expected += 0.5 * dot(value, value) + inner[field]
    loss = interpolant_loss(field, network, Interpolant(), X1, T, Z, x0=X0)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("field", ["drift", "noise", "score"])
def test_the_noise_of_a_one_sided_path_is_its_base(field):
    t, half = T[:, None], 0.5 * math.pi
    cos, sin = torch.cos(half * t), torch.sin(half * t)
    expected = torch.zeros(4, dtype=torch.float64)
    for sign in (1, -1):
        value = network(sin * X1 + sign * cos * Z, T)
        inner = {
            "drift": -dot(half * (cos * X1 - sign * sin * Z), value),
            "noise": -sign * dot(Z, value),
            "score": sign * dot(Z, value) / cos[:, 0],
        }
        expected += 0.5 * dot(value, value) + inner[field]
    loss = interpolant_loss(field, network, Interpolant("one-sided-trig"), X1, T, Z)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_one_call_receives_both_signs_and_repeated_conditions():
    calls = []

    def labelled(x, t, label, scale):
        calls.append((x.shape, t, label, scale))
        return x

    label = torch.arange(4)
    loss = interpolant_loss(
        "drift", labelled, Interpolant(), X1, T, Z, x0=X0, label=label, scale=2.0
    )
    ((shape, times, labels, scale),) = calls
    assert shape == (8, 3)
    assert torch.equal(times, torch.cat([T, T]))
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert scale == 2.0
    assert loss.shape == (4,)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="field must be one of"):
        interpolant_loss("eta", network, Interpolant(), X1, T, Z, x0=X0)
    with pytest.raises(ValueError, match="x0 must be a tensor like x1 for the path 'linear'"):
        interpolant_loss("drift", network, Interpolant(), X1, T, Z)
    with pytest.raises(ValueError, match="x0 must be None, since z is the base"):
        interpolant_loss("drift", network, Interpolant("mirror"), X1, T, Z, x0=X0)
    with pytest.raises(ValueError, match=r"z must be \[4, 3\] like x1, given \[4, 2\]"):
        interpolant_loss("drift", network, Interpolant(), X1, T, Z[:, :2], x0=X0)
    with pytest.raises(ValueError, match=r"t must be a float, \[\] or \[B\] with B = 4"):
        interpolant_loss("drift", network, Interpolant(), X1, T[:3], Z, x0=X0)
