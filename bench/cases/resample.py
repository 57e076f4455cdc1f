"""Each resampling scheme on one large population, against the nearest thing in torch.

That is the same law for the systematic, stratified and multinomial scheme. Torch has none of the
others; what a user would take in their place is torch.multinomial, the same job with more variance.
Each answer names the law it is held to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.cases import systematic_resample as bench_systematic_resample
from bench.harness import laws
from bench.harness.registry import Case
from bench.rivals import resamplers as peers
from edmfast.ops import resample, rng_state
from edmfast.ops.resample.operator import SCHEMES


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Log-weights [P, N], the largest thousands of times their mean, and the state of the uniforms."""
    generator = torch.Generator().manual_seed(0)
    weights = 2 * torch.randn(shape, dtype=dtype, generator=generator)
    return weights.to(device), rng_state(0, 1, device)


class Drawn(NamedTuple):
    """Ancestors [P, N], the scheme they were drawn by, and whether they are sorted."""

    ancestors: Tensor
    scheme: str
    sorted: bool = True


def ours(scheme: str, log_weights: Tensor, rng: Tensor) -> Drawn:
    found = resample(log_weights, rng, scheme=scheme).ancestors
    return Drawn(found, scheme, scheme != "killing")


def multinomial(log_weights: Tensor, rng: Tensor) -> Drawn:
    """Unsorted draws of float32 weights: at most 2^24 particles."""
    found = torch.multinomial(log_weights.softmax(1), log_weights.shape[1], replacement=True)
    return Drawn(found, "multinomial", sorted=False)


def with_uniform(resampler: peers.Resampler, log_weights: Tensor, rng: Tensor) -> Drawn:
    """A systematic resampler that takes its uniform from the caller."""
    uniform = torch.rand(len(log_weights), dtype=torch.float64, device=log_weights.device)
    return Drawn(resampler(log_weights, uniform), "systematic")


def search(log_weights: Tensor, rng: Tensor, *, uniforms: bool) -> Drawn:
    """One uniform, or one per slot, searched for in the cumulative weights in float64."""
    populations, particles = log_weights.shape
    cumulative = log_weights.double().softmax(1).cumsum(1)
    slot = torch.arange(particles, device=log_weights.device, dtype=torch.float64)
    width = particles if uniforms else 1
    u = torch.rand(populations, width, dtype=torch.float64, device=log_weights.device)
    found = torch.searchsorted(cumulative, (slot + u) / particles).clamp(max=particles - 1)
    return Drawn(found, "stratified" if uniforms else "systematic")


def reference(log_weights: Tensor, rng: Tensor) -> Tensor:
    """Expected offspring [P, N]."""
    return log_weights.double().softmax(1) * log_weights.shape[1]


def variance(scheme: str, expected: Tensor) -> Tensor:
    """At most that of each particle's offspring, [P, N]; sums over particles have at most the sum of these."""
    part = expected.frac()
    return {
        # a particle fills all but two of the slots it reaches into, each for itself
        "stratified": expected.clamp(max=0.5),
        "multinomial": expected,
        "residual": part,
        # who stays is decided alone, who replaces those that do not is multinomial
        "killing": expected * (1 + 2 / expected.amax(1, keepdim=True)),
        "ssp": part * (1 - part),
    }[scheme]


def check(output: Drawn, truth: Tensor) -> None:
    """Systematic offspring to the slot. Of the other schemes, offspring of a hundred groups of particles of
    similar weight, from the lightest to the heaviest, within what the variance of the scheme allows."""
    if output.scheme == "systematic":
        laws.check_systematic(output.ancestors, truth)
        return
    counts = laws.offspring(output.ancestors, truth)
    if output.sorted:
        laws.check_sorted(output.ancestors)
    if output.scheme == "ssp":
        assert float((counts - truth).abs().max()) < 1 + 1e-4, "offspring off by more than one"
    if output.scheme == "residual":
        assert bool((counts > truth - 1 - 1e-4).all()), "fewer offspring than those that are sure"
    order = truth.argsort(1)
    spread = variance(output.scheme, truth)
    got, wanted, spread = (
        each.gather(1, order).unflatten(1, (100, -1)).sum(2) for each in (counts, truth, spread)
    )
    # Bernstein's bound: what is rare is not normal
    limit = laws.WRONG * (spread.sqrt() + 1)
    off = float(((got - wanted).abs() / limit).max())
    assert off <= 1, f"offspring of a group {off:.2f} times as far from their expectation as may be"
    if output.scheme == "multinomial":
        # other schemes have offspring close to expectations that are large
        chi = float(((counts - truth).square() / truth)[truth > 5].mean())
        assert 0.5 < chi < 1.5, f"offspring have {chi:.2f} times the variance of independent draws"


def make_case(scheme: str, particles: int) -> Case:
    baselines: dict[str, Callable[..., Drawn]] = {"torch.multinomial": multinomial}
    others = bench_systematic_resample.OTHERS if scheme == "systematic" else {}
    if scheme in ("systematic", "stratified"):
        searching = partial(search, uniforms=scheme == "stratified")
        baselines = {"searchsorted float64": searching}
    if scheme == "systematic":
        resamplers = {"counting float64": bench_systematic_resample.counting, **others}
        baselines |= {name: partial(with_uniform, f) for name, f in resamplers.items()}
    return Case(
        name=f"schemes/{scheme}/{particles}",
        shape=(1, particles),
        make_inputs=make_inputs,
        ours=partial(ours, scheme),
        baselines=baselines,
        reference=reference,
        check=check,
        goal=1.0,
        cpu_only=tuple(others),
        # the loop of ssp has no form for a GPU
        devices=("cpu",) if scheme == "ssp" else ("cpu", "cuda"),
        bytes=8 * particles,
    )


CASES = [make_case(scheme, 100_000) for scheme in SCHEMES]
