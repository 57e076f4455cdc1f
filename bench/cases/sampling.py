"""Time the plain samplers in whole runs of 32 steps, against other projects and the loop of the paper.

"gaussian" is the denoiser of a unit normal target, one multiplication, so that the arithmetic of the sampler is
timed. "mlp" is a small perceptron. All call it at the same levels and as often; "network alone" only calls it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.networks import mlp_flops, network
from bench.harness.registry import Case
from bench.rivals import sampler_loops
from bench.rivals import samplers as peers_samplers
from bench.rivals.sampler_loops import Loop, Model
from edmfast import sampling

STEPS, SIGMA_MIN, SIGMA_MAX = 32, 0.1, 10.0
SIZES = {"gaussian": (256, 3, 32, 32), "mlp": (4096, 64)}
Inputs = tuple[Tensor, Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return the state at the first level, and the levels with a last 0."""
    sigmas = sampling.get_sigmas_karras(STEPS, SIGMA_MIN, SIGMA_MAX)
    x = SIGMA_MAX * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.to(device, dtype), sigmas.to(device)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean of x_0 given x, for a standard normal x_0."""
    return x / (1 + sigma[0] ** 2)


def perceptron(x: Tensor, sigma: Tensor) -> Tensor:
    """Evaluate the perceptron, which may know that all rows are at one level."""
    with torch.no_grad():
        return network("mlp", x.device, x.dtype)(x, sigma[0])


MODELS: dict[str, Model] = {"gaussian": gaussian, "mlp": perceptron}


def network_alone(model: Model, calls: int, x: Tensor, sigmas: Tensor) -> None:
    level = sigmas[0].to(x.dtype).expand(len(x))
    for _ in range(calls):
        model(x, level)


class Law(NamedTuple):
    """The law of a run from a known start: the mean [B, *shape] and one variance."""

    mean: Tensor
    variance: float


def gaussian_law(x: Tensor, sigmas: Tensor) -> Law:
    """Return the law of ancestral sampling with `gaussian` in closed form; every step is x -> f x + up z."""
    levels = sigmas.double().tolist()
    factor, variance = 1.0, 0.0
    for sigma, following in itertools.pairwise(levels):
        kept = (following / sigma) ** 2
        f = (1 + kept * sigma**2) / (1 + sigma**2)
        factor, variance = factor * f, variance * f**2 + following**2 * (1 - kept)
    return Law(factor * x.double(), variance)


def check_law(output: Tensor, law: Law) -> None:
    """Check the mean, the variance and the correlation of neighbours within five standard errors."""
    assert output.shape == law.mean.shape
    z = ((output.double() - law.mean) / math.sqrt(law.variance)).flatten(1)
    for name, numbers, error in (
        ("mean", z, 1.0),
        ("variance", z.square() - 1, math.sqrt(2)),
        ("correlation of elements", z[:, 1:] * z[:, :-1], 1.0),
        ("correlation of samples", z[1:] * z[:-1], 1.0),
    ):
        off = numbers.mean().item() * math.sqrt(numbers.numel()) / error
        assert abs(off) < 5, f"{name} is {off:.1f} standard errors from what it must be"


def check_sample(output: Tensor, other: Tensor) -> None:
    """Compare means and mean squares of the columns of two samples within five standard errors."""
    assert output.shape == other.shape
    for power in (1, 2):
        pair = [sample.double() ** power for sample in (output, other)]
        error = ((pair[0].var(0) + pair[1].var(0)) / len(other)).sqrt()
        off = ((pair[0].mean(0) - pair[1].mean(0)) / error).abs().max().item()
        assert off < 5, (
            f"a moment of order {power} is {off:.1f} standard errors from that in float64"
        )


def unit_noise(x: Tensor) -> Tensor:
    return x / SIGMA_MAX


def edm(sampler: Callable[..., Tensor], model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Run our samplers with NVlabs' names: from unit noise, on Karras' levels, which are those of the other
    cases."""
    return sampler(model, unit_noise(x), num_steps=STEPS, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)


def in_float64(sampler: Loop, model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Follow EDM: the state in float64, the network in the dtype of x."""

    def denoise(state: Tensor, sigma: Tensor) -> Tensor:
        return model(state.to(x.dtype), sigma.to(x.dtype)).double()

    return sampler(denoise, x.double(), sigmas.double())


class Method(NamedTuple):
    """A sampler of ours, the loop that does the same, the calls of the network, and the name that other
    projects use."""

    ours: Callable[[Model, Tensor, Tensor], Tensor]
    loop: Loop
    calls: int
    peers: str
    double: bool = False


def plain(name: str) -> Callable[[Model, Tensor, Tensor], Tensor]:
    return functools.partial(getattr(sampling, name), disable=True)


HEUN_CALLS = 2 * STEPS - 1
METHODS = {
    "euler": Method(plain("sample_euler"), sampler_loops.euler, STEPS, "euler"),
    "heun": Method(plain("sample_heun"), sampler_loops.heun, HEUN_CALLS, "heun"),
    "dpmpp_2m": Method(plain("sample_dpmpp_2m"), sampler_loops.dpmpp_2m, STEPS, "dpmpp_2m"),
    "euler_ancestral": Method(
        plain("sample_euler_ancestral"), sampler_loops.euler_ancestral, STEPS, "euler_ancestral"
    ),
    "edm": Method(
        functools.partial(edm, sampling.edm_sampler), sampler_loops.heun, HEUN_CALLS, "heun", True
    ),
    "edm2": Method(
        functools.partial(edm, sampling.edm2_sampler), sampler_loops.heun, HEUN_CALLS, "heun"
    ),
}


deterministic_check = close(1e-4, 1e-4)


def make_case(name: str, on: str, goal: float, alone: float) -> Case:
    """Return a case.

    goal: against the best sampler. alone: the fraction of our time that the network alone should take.
    """
    method, model, size = METHODS[name], MODELS[on], SIZES[on]
    samplers = {"plain loop": method.loop, **peers_samplers.samplers(method.peers)}
    if method.double:
        samplers = {
            title: functools.partial(in_float64, sampler)
            for title, sampler in samplers.items()
            if not title.startswith("diffusers")  # the other projects compute in float32
        }
    baselines: dict[str, Callable[..., Tensor | None]] = {
        title: functools.partial(f, model) for title, f in samplers.items()
    }
    baselines["network alone"] = functools.partial(network_alone, model, method.calls)

    def reference(x: Tensor, sigmas: Tensor) -> Tensor:
        return method.loop(model, x.double(), sigmas.double())

    random = name == "euler_ancestral"
    numbers = math.prod(size)
    return Case(
        name=f"sampling/{name} {on} {'x'.join(map(str, size))}",
        shape=size,
        make_inputs=make_inputs,
        ours=functools.partial(method.ours, model),
        baselines=baselines,
        reference=gaussian_law if random and on == "gaussian" else reference,
        check=(check_law if on == "gaussian" else check_sample) if random else deterministic_check,
        goal=goal,
        goals={"network alone": alone},
        bounds=("network alone",),
        unchecked=("network alone",),
        inner="network alone",
        evaluations=size[0] * method.calls,
        rounds=5,
        # for every call, the network and the step read three states and write two
        bytes=5 * 4 * numbers * method.calls if on == "gaussian" else 8 * numbers,
        flops=2 * mlp_flops(size[0]) * method.calls if on == "mlp" else 0,
    )


# With a network of one multiplication (one state read, one written) the goal counts passes over the state:
# Euler's step makes eight more (2 / 10), Heun's, 2M's and noise about twice as many, and EDM's state has
# elements of twice the size. With the perceptron, the network should take nine tenths of the time.
PASSES = {"euler": 0.2, "edm": 0.05}
CASES = [
    *(make_case(name, "gaussian", 1.0, PASSES.get(name, 0.1)) for name in METHODS),
    *(
        make_case(name, "mlp", 0.98, 0.85 if name == "edm" else 0.9)
        for name in METHODS
        if name != "edm2"
    ),
]
