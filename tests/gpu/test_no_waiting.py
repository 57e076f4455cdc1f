"""Neither an operator nor a step of a sampler waits for the device."""

from __future__ import annotations

import inspect

import pytest
import torch

from edmfast import sampling, smc
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.sampling.engine import host
from edmfast.targets import Product, Tempered
from tests.gpu.calls import CALLS, outputs
from tests.gpu.waiting import NoWaiting
from tests.grouped import grouped

# the weights of these tiny runs are bad, which does not matter here
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")

LEVELS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("name", CALLS)
def test_operators(name, device):
    call = CALLS[name](device)
    outputs(call)  # the first call may compile
    with NoWaiting(device):
        outputs(call)


def mixture():
    return GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), [0.15, 0.45], [0.5, 0.5])


def network(kind=EnergyModel):
    torch.manual_seed(0)
    return kind(ResidualMLP(2, 16, 2, embedding_width=8))


RUNS = {
    "analytic": (lambda: Tempered(mixture(), 2.0), {}),
    "energy": (network, {}),
    "product": (lambda: Product([network(), network()]), {"proposal": "ancestral"}),
    "scores": (lambda: Product([network(Denoiser), network(Denoiser)]), {"weights": "score"}),
    "corrected": (mixture, {"correctors": smc.MALA(), "ess_threshold": 1.0}),
    "stratified": (mixture, {"resampling": "stratified", "genealogy": True}),
}


@pytest.mark.parametrize("name", RUNS)
def test_steps_of_a_run(name, device):
    make, options = RUNS[name]
    target = make().to(device)
    watch, seen = NoWaiting(device), []

    def callback(info):
        seen.append(info["i"])
        if info["i"] == 1:  # the first step may compile
            watch.start()
        elif info["i"] == len(LEVELS) - 1:
            watch.stop()

    try:
        smc.sample(
            target,
            (2,),
            LEVELS,
            **grouped(particles=40, populations=2, callback=callback, **options),
        )
    finally:
        if seen[-1] not in (0, len(LEVELS) - 1):
            watch.stop()
    assert seen == [*range(len(LEVELS))]


def samplers():
    names = [name for name in sampling.__all__ if name.startswith("sample_")]
    # the adaptive samplers decide on the host
    return [n for n in names if "compile" in inspect.signature(getattr(sampling, n)).parameters]


@pytest.mark.parametrize("name", samplers())
def test_steps_of_a_plain_sampler(name, device, monkeypatch):
    # a run on the CPU takes the way of one on an accelerator, over levels that no other test has prepared
    monkeypatch.setattr(host, "is_host", lambda device: False)
    sigmas = sampling.get_sigmas_karras(5, 0.2512, 8.0, device=device)
    watch, calls = NoWaiting(device), []
    sampler = getattr(sampling, name)
    options = {"s_churn": 1.0} if "s_churn" in inspect.signature(sampler).parameters else {}

    def denoiser(x, sigma):
        calls.append(len(x))
        if len(calls) == 3:  # the first calls may compile, and a model's first call is checked
            watch.start()
        return x / (1 + sigma[:, None] ** 2)

    def callback(seen):
        if seen["i"] == len(sigmas) - 2:
            watch.stop()

    x = torch.linspace(-8, 8, 8, device=device).reshape(4, 2)
    # DPM-Solver-fast makes the levels itself, of five steps for twelve calls
    levels = (0.2512, 8.0, 12) if name == "sample_dpm_fast" else (sigmas,)
    sampler(denoiser, x, *levels, callback=callback, disable=True, **options)
    assert len(calls) >= len(sigmas) - 1


@pytest.mark.parametrize("wait", [lambda x: x.sum().item(), lambda x: x[x > 0], bool])
def test_what_waits_is_found(wait, device):
    x = torch.ones(1, device=device)
    with NoWaiting(device), pytest.raises((RuntimeError, AssertionError), match=r"wait|synchroniz"):
        wait(x)
