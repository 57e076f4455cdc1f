"""Neither an operator nor a step of a sampler waits for the device."""

from __future__ import annotations

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
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


@pytest.mark.parametrize("wait", [lambda x: x.sum().item(), lambda x: x[x > 0], bool])
def test_what_waits_is_found(wait, device):
    x = torch.ones(1, device=device)
    with NoWaiting(device), pytest.raises((RuntimeError, AssertionError), match=r"wait|synchroniz"):
        wait(x)
