"""Time whole runs of sequential Monte Carlo with image networks, against the ancestral sampler and the network.

"ancestral" is the plain sampler with the same model and as many calls: our time over its time is the price of
weights. "network alone" only calls the network: its time over ours is the sampler's efficiency. The networks
are untrained, so noise of the right variance needs no calibration. One evaluation of the 64 x 64 U-Net or of
DiT-S takes seconds on one core, so these run on a GPU only.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.cases.energy import eager_energy
from bench.cases.sampler import MORE_WORK
from bench.harness.flops import forward_flops
from bench.harness.networks import BUILDERS, network
from bench.harness.registry import Case
from bench.rivals import plain_smc
from bench.rivals.plain_networks import by_torch, plain_formulas
from edmfast import sampling, smc
from edmfast.models import EnergyModel
from edmfast.targets import Conditioned

SIGMA_MAX, SIGMA_MIN = 10.0, 0.3
DATA_STD = 0.5


@functools.cache
def _quiet(name: str, device: torch.device, dtype: torch.dtype) -> EnergyModel:
    """Return the network as at the start of training, with a last layer that is small instead of zero.

    With larger weights, one particle in thousands of dimensions takes all of the weight, and rounding decides
    which one: there would be no right answer.
    """
    if dtype == torch.float64:
        return copy.deepcopy(_quiet(name, device, torch.float32)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EnergyModel(BUILDERS[name]())
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=1e-3)
    return model.to(device)


class Setup(NamedTuple):
    """A network of bench.harness.networks, the shape of one sample, and the number of steps."""

    network: str
    shape: tuple[int, ...]
    steps: int
    class_label: int | None = None

    def model(self, device: torch.device) -> Any:
        if self.class_label is None:
            return _quiet(self.network, device, torch.float32)
        return Conditioned(network(self.network, device), class_label=self.class_label)

    def plain_model(self, device: torch.device) -> EnergyModel:
        """The model in float64, without its label."""
        make = network if self.class_label is not None else _quiet
        return make(self.network, device, torch.float64)

    @property
    def flops(self) -> int:
        """The flops of one forward for one particle."""
        label = {} if self.class_label is None else {"class_label": self.class_label}
        return forward_flops(self.network, self.shape, **label)

    def make_inputs(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, ...]:
        """Return the levels; every run draws its own start."""
        first, last = math.log10(SIGMA_MAX), math.log10(SIGMA_MIN)
        return (torch.logspace(first, last, self.steps + 1, dtype=torch.float64).to(device),)


@functools.cache
def _states(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def run(setup: Setup, particles: int, sigmas: Tensor) -> smc.Particles:
    # the network is untrained, so noise of the right variance needs no calibration
    model, proposal = setup.model(sigmas.device), smc.NoiseMatched(DATA_STD)
    return smc.sample(
        model, setup.shape, sigmas, particles=particles, proposal=proposal, weights="energy"
    )


def reference(setup: Setup, particles: int, sigmas: Tensor) -> plain_smc.Run:
    """Run the formulas in float64, a few particles at a time because attention takes much memory."""
    model = setup.plain_model(sigmas.device)

    def energy_and_score(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        label, parts = setup.class_label, []
        for few in x.split(8):
            condition = (
                {} if label is None else {"class_label": few.new_full((len(few),), label).long()}
            )
            parts.append(eager_energy(model, few, sigma, **condition))
        energies, scores = zip(*parts, strict=True)
        return torch.cat(energies), torch.cat(scores)

    with plain_formulas(by_torch):
        return plain_smc.run(energy_and_score, setup.shape, sigmas, particles, DATA_STD)


def network_alone(setup: Setup, particles: int, sigmas: Tensor) -> None:
    model = setup.model(sigmas.device)
    x = _states((particles, *setup.shape), sigmas.device)
    with torch.no_grad():
        for sigma in sigmas:
            model.energy_and_score(x, sigma)


def ancestral(setup: Setup, particles: int, sigmas: Tensor) -> None:
    model = setup.model(sigmas.device)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma[0])  # all rows share one level, as in the run

    start = SIGMA_MAX * _states((particles, *setup.shape), sigmas.device)
    # with a last 0 the sampler calls the network at every level, as often as the run does
    ending = torch.cat([sigmas, sigmas.new_zeros(1)])
    sampling.sample_euler_ancestral(denoise, start, ending, disable=True)


def check(result: smc.Particles, truth: plain_smc.Run) -> None:
    """Compare with the float64 run, which has the same noise.

    log Z (in nats), the effective sample sizes and the mean of the weighted states agree. Rounding sometimes moves
    a particle across the edge of its offspring, so the mean may differ by a third of its size; another run differs
    by 0.7 or more.
    """
    torch.testing.assert_close(result.log_z.double(), truth.log_z, rtol=0, atol=0.1)
    torch.testing.assert_close(result.ess.double(), truth.ess, rtol=0.03, atol=0)
    got, wanted = result.expectation(lambda x: x).double(), truth.mean
    off = float((got - wanted).norm() / wanted.norm())
    assert off < 1 / 3, f"the mean of the states is off by {off:.2f} of its size"


def make_case(
    title: str, setup: Setup, particles: int, *, tax: float, efficiency: float, **fields: Any
) -> Case:
    """Return a case.

    tax: the wanted ratio of the ancestral sampler's time to ours. efficiency: that of the network alone.
    """
    numbers = particles * (setup.steps + 1)
    traffic = 8 * numbers * torch.Size(setup.shape).numel()
    return Case(
        name=f"sampler/{particles} {title}",
        shape=(particles, *setup.shape),
        make_inputs=setup.make_inputs,
        ours=functools.partial(run, setup, particles),
        baselines={
            "ancestral": functools.partial(ancestral, setup, particles),
            "network alone": functools.partial(network_alone, setup, particles),
        },
        reference=functools.partial(reference, setup, particles),
        check=check,
        goal=tax,
        goals={"network alone": efficiency},
        bounds=("network alone",),
        unchecked=("ancestral", "network alone"),
        inner="network alone",
        evaluations=numbers,
        bytes=traffic,
        flops=2 * numbers * setup.flops,
        why_slower=MORE_WORK,
        **fields,
    )


DIGITS = Setup("unet", (1, 8, 8), 8, class_label=3)
UNET32, UNET64 = Setup("unet32", (3, 32, 32), 3), Setup("unet64", (3, 64, 64), 16)
DIT = Setup("dit-s", (4, 32, 32), 16)
TAX, EFFICIENCY = 1 / 1.02, 0.97
CPU, CUDA = {"devices": ("cpu",)}, {"devices": ("cuda",)}

CASES = [
    make_case("digits", DIGITS, 256, tax=0.95, efficiency=0.95, rounds=5),
    make_case("unet 3x32x32", UNET32, 4, tax=0.95, efficiency=0.95, rounds=3, **CPU),
    make_case(
        "unet 3x32x32", UNET32._replace(steps=16), 256, tax=TAX, efficiency=EFFICIENCY, **CUDA
    ),
    make_case("unet 3x64x64", UNET64, 64, tax=TAX, efficiency=EFFICIENCY, rounds=5, **CUDA),
    make_case("dit-s 4x32x32", DIT, 64, tax=TAX, efficiency=EFFICIENCY, rounds=5, **CUDA),
]
