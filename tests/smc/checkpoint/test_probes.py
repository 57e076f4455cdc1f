"""Test that a run is not resumed with a target that behaves differently, however it hides the difference."""

from __future__ import annotations

import warnings

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.targets import Tempered, Tilted
from tests.grouped import grouped

BASE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.4, 0.6])
SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.5]


def small(target, **options):
    arguments = {"particles": 8, "populations": 2} | options
    return smc.sample(target, (2,), SIGMAS, **grouped(**arguments))


def by_lambda(scale):
    return Tilted(BASE, lambda x: scale * x[:, 0], 1.0, ramp=None)


def by_strength(scale):
    return Tilted(BASE, lambda x: x[:, 0], lambda sigma: scale / (1 + sigma))


def far_away(scale):
    return Tilted(BASE, lambda x: (x[:, 0] > 40 * scale - 38).float(), 1.0, ramp=None)


class Private:
    exponent = 1.0

    def __init__(self, scale):
        self._scale = scale

    def energy_and_score(self, x, sigma):
        energy, score = BASE.energy_and_score(x, sigma)
        return self._scale * energy, self._scale * score


class Slotted:
    __slots__ = ("scale",)
    exponent = 1.0

    def __init__(self, scale):
        self.scale = scale

    def energy_and_score(self, x, sigma):
        energy, score = BASE.energy_and_score(x, sigma)
        return self.scale * energy, self.scale * score


def denoiser(scale):
    return lambda x, sigma: scale * BASE(x, sigma)


def cold_denoiser(scale):
    return Tempered(denoiser(scale), 2.0)


KINDS = [by_lambda, by_strength, far_away, Private, Slotted, denoiser, cold_denoiser]
OPTIONS = {Private: {"proposal": "noise_matched"}, Slotted: {"proposal": "noise_matched"}}


@pytest.mark.parametrize("make", KINDS)
def test_other_targets_are_refused(make, tmp_path):
    path, options = tmp_path / "run", {"dtype": torch.float64, **OPTIONS.get(make, {})}
    whole = small(make(1.0), checkpoint=path, checkpoint_every=2, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed = small(make(1.0), resume_from=path, on_degenerate="warn", **options)
    assert torch.equal(resumed.x, whole.x)
    with pytest.raises(ValueError, match=r"another run or model.*target"):
        small(make(1.1), resume_from=path, **options)


def test_a_target_that_is_random_is_not_judged(tmp_path):
    target = Tilted(BASE, lambda x: x[:, 0] + torch.rand(len(x)), 1.0, ramp=None)
    torch.manual_seed(0)
    kept = small(target, checkpoint=tmp_path / "run", checkpoint_every=2)
    torch.manual_seed(0)
    assert torch.equal(small(target).x, kept.x)  # Probes take no random numbers from the run.
    with pytest.warns(UserWarning, match="cannot be told"):
        small(target, resume_from=tmp_path / "run")


def test_no_evaluations_unless_a_checkpoint_is_asked_for(tmp_path):
    calls = []

    def counting(x, sigma):
        calls.append(len(x))
        return BASE(x, sigma)

    first = small(counting)
    alone = len(calls)
    second = small(counting, checkpoint=tmp_path / "run")
    assert alone == len(SIGMAS)
    assert len(calls) > 2 * alone
    assert first.nfe == second.nfe


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_other_threads_and_batches_resume(threads, batch_size, tmp_path):
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=64, depth=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    small(model, checkpoint=tmp_path / "run", checkpoint_every=2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        small(model, resume_from=tmp_path / "run", batch_size=batch_size)
    finally:
        torch.set_num_threads(before)


def test_numbers_in_a_closure_tell_rewards_apart_where_no_probe_does(tmp_path):
    def narrow(place):
        return lambda x: ((x[:, 0] - place).abs() < 1e-9).double()

    sigmas = [10.0, 3.0, 1.0, 0.3, 0.1]
    options = {"particles": 16, "checkpoint_every": 1}
    model = GaussianMixture([[0.0, 0.0]], [1.0])
    path = tmp_path / "run"
    smc.sample(Tilted(model, narrow(2.9), 1.0), (2,), sigmas, **grouped(checkpoint=path, **options))
    smc.sample(
        Tilted(model, narrow(2.9), 1.0), (2,), sigmas, **grouped(resume_from=path, **options)
    )
    with pytest.raises(ValueError, match="another run"):
        smc.sample(
            Tilted(model, narrow(3.1), 1.0), (2,), sigmas, **grouped(resume_from=path, **options)
        )
