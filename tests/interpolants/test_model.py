"""Test the fields that networks or a denoiser give, against the exact ones."""

from __future__ import annotations

import pytest
import torch

from edmfast import analytic
from edmfast.interpolants import (
    GaussianMixtureInterpolant,
    Interpolant,
    InterpolantModel,
    OneSidedModel,
    from_velocity,
)
from tests.interpolants.two_mixtures import BASE, DATA

X = torch.linspace(-7, 7, 9, dtype=torch.float64)[:, None]
PLANE = analytic.GaussianMixture([[-1.5, 0.5], [1.0, -2.0]], [0.5, 0.8])
FIELDS = ("drift", "velocity", "noise", "score")


@pytest.mark.parametrize(
    "pair",
    [("drift", "noise"), ("drift", "score"), ("velocity", "noise"), ("velocity", "score")],
    ids="-".join,
)
@pytest.mark.parametrize("path", ["linear", "mirror"])
def test_two_networks_give_all_fields(pair, path):
    interpolant = Interpolant(path, "bsquared")
    exact = GaussianMixtureInterpolant(None if path == "mirror" else BASE, DATA, interpolant)
    model = InterpolantModel(interpolant, **{name: getattr(exact, name) for name in pair})
    for t in (0.3, torch.linspace(0.1, 0.9, 9, dtype=torch.float64)):
        for name in FIELDS:
            torch.testing.assert_close(getattr(model, name)(X, t), getattr(exact, name)(X, t))
        both = model.drift_and_score(X, t)
        torch.testing.assert_close(both, exact.drift_and_score(X, t))


def test_networks_are_members_and_receive_times_and_conditions():
    calls = []

    class Network(torch.nn.Linear):
        def forward(self, x, t, label):
            calls.append((t, label))
            return super().forward(x)

    model = InterpolantModel(Interpolant(), drift=Network(1, 1), noise=Network(1, 1))
    assert len([*model.parameters()]) == 4
    assert [*model.networks()] == ["drift", "noise"]
    model.double().drift_and_score(X, 0.25, label=3)
    assert [label for _, label in calls] == [3, 3]
    assert all(torch.equal(t, torch.full((9,), 0.25, dtype=torch.float64)) for t, _ in calls)


@pytest.mark.parametrize(
    ("path", "name"), [("linear", "one-sided-linear"), ("trig", "one-sided-trig")]
)
@pytest.mark.parametrize("kind", ["energy", "denoiser", "velocity"])
def test_a_denoiser_gives_drift_and_score(path, name, kind):
    exact = GaussianMixtureInterpolant(None, PLANE, Interpolant(name))
    denoiser = {
        "energy": PLANE,
        "denoiser": lambda x, sigma: PLANE.denoise(x, sigma),
        "velocity": from_velocity(exact.drift, path=path),
    }[kind]
    model = OneSidedModel(denoiser, path)
    assert model.interpolant == exact.interpolant
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (0.1, torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)):
        torch.testing.assert_close(model.drift_and_score(x, t), exact.drift_and_score(x, t))
        torch.testing.assert_close(model.drift(x, t), exact.drift(x, t))
        torch.testing.assert_close(model.score(x, t), exact.score(x, t))


def test_one_call_of_the_denoiser_gives_both():
    calls = []

    def denoiser(x, sigma):
        calls.append(sigma)
        return PLANE.denoise(x, sigma)

    OneSidedModel(denoiser).drift_and_score(torch.zeros(3, 2), 0.5)
    assert len(calls) == 1
    torch.testing.assert_close(calls[0], torch.ones(3))


def test_the_ends_have_limits_or_errors():
    model = OneSidedModel(PLANE)
    x = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="t = 0 is pure noise"):
        model.drift(x, 0.0)
    with pytest.raises(ValueError, match="t = 1 is the data"):
        model.score(x, 1.0)
    torch.testing.assert_close(model.drift(x, 1.0), x)
    exact = GaussianMixtureInterpolant(None, PLANE, Interpolant("one-sided-linear"))
    both = OneSidedModel(PLANE, sigma_max=1e7).drift_and_score(x, 0.0)
    torch.testing.assert_close(both, exact.drift_and_score(x, 0.0), rtol=1e-6, atol=1e-6)
    pair = InterpolantModel(Interpolant(), drift=lambda x, t: x, noise=lambda x, t: x)
    with pytest.raises(ValueError, match="divides by gamma = 0 at t = 0"):
        pair.score(x, 0.0)
    torch.testing.assert_close(pair.drift(x, 0.0), x)


def test_fields_that_are_not_determined_are_named():
    model = InterpolantModel(Interpolant(), drift=lambda x, t: x)
    with pytest.raises(ValueError, match="needs a network of the noise or of the score"):
        model.score(X, 0.5)
    model = InterpolantModel(Interpolant(), noise=lambda x, t: x)
    with pytest.raises(ValueError, match="needs a network of the drift or of the velocity"):
        model.drift(X, 0.5)
    with pytest.raises(ValueError, match="at least one of the networks"):
        InterpolantModel(Interpolant())
    with pytest.raises(TypeError, match="noise must be callable"):
        InterpolantModel(Interpolant(), noise=3)
    with pytest.raises(TypeError, match="interpolant must be an Interpolant, given str"):
        InterpolantModel("linear", drift=torch.sin)
