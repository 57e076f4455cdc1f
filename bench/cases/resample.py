"""Time each resampling scheme on one large population, against the nearest equivalent in torch.

For the systematic, stratified and multinomial schemes the equivalent follows the same law. Torch has none of
the other schemes; a user would take torch.multinomial instead, which does the same job with more variance.
Each answer names the law to which it is held.
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
    """Return log-weights [P, N], whose largest are thousands of times the mean, and the state of the uniforms."""
    generator = torch.Generator().manual_seed(0)
    weights = 2 * torch.randn(shape, dtype=dtype, generator=generator)
    return weights.to(device), rng_state(0, 1, device)


class Drawn(NamedTuple):
    """Ancestors [P, N], the scheme that drew them, and whether they are sorted."""

    ancestors: Tensor
    scheme: str
    sorted: bool = True


def ours(scheme: str, log_weights: Tensor, rng: Tensor) -> Drawn:
    ancestors = resample(log_weights, rng, scheme=scheme).ancestors
    return Drawn(ancestors, scheme, scheme != "killing")


def multinomial(log_weights: Tensor, rng: Tensor) -> Drawn:
    """Draw unsorted from float32 weights; torch allows at most 2^24 particles."""
    ancestors = torch.multinomial(log_weights.softmax(1), log_weights.shape[1], replacement=True)
    return Drawn(ancestors, "multinomial", sorted=False)


def with_uniform(resampler: peers.Resampler, log_weights: Tensor, rng: Tensor) -> Drawn:
    """Return a systematic resampler that takes its uniform from the caller."""
    uniform = torch.rand(len(log_weights), dtype=torch.float64, device=log_weights.device)
    return Drawn(resampler(log_weights, uniform), "systematic")


def search(log_weights: Tensor, rng: Tensor, *, uniforms: bool) -> Drawn:
    """Search one uniform, or one for each slot, in the cumulative weights in float64."""
    populations, particles = log_weights.shape
    cumulative = log_weights.double().softmax(1).cumsum(1)
    slot = torch.arange(particles, device=log_weights.device, dtype=torch.float64)
    width = particles if uniforms else 1
    u = torch.rand(populations, width, dtype=torch.float64, device=log_weights.device)
    ancestors = torch.searchsorted(cumulative, (slot + u) / particles).clamp(max=particles - 1)
    return Drawn(ancestors, "stratified" if uniforms else "systematic")


def reference(log_weights: Tensor, rng: Tensor) -> Tensor:
    """Return the expected offspring [P, N]."""
    return log_weights.double().softmax(1) * log_weights.shape[1]


def variance(scheme: str, expected: Tensor) -> Tensor:
    """Return an upper bound of the variance of each particle's offspring, [P, N]; sums have at most the sum of
    these."""
    part = expected.frac()
    return {
        # a particle fills all but two of the slots that it reaches, and those two are drawn independently
        "stratified": expected.clamp(max=0.5),
        "multinomial": expected,
        "residual": part,
        # each particle stays or not independently; the replacements are multinomial
        "killing": expected * (1 + 2 / expected.amax(1, keepdim=True)),
        "ssp": part * (1 - part),
    }[scheme]


def check(output: Drawn, truth: Tensor) -> None:
    """Check the offspring.

    Systematic offspring are checked to the slot. The other schemes are checked on the offspring of a hundred
    groups of particles of similar weight, from the lightest to the heaviest, within the variance of the scheme.
    """
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
    # Bernstein's bound, because rare events are not normal
    limit = laws.WRONG * (spread.sqrt() + 1)
    off = float(((got - wanted).abs() / limit).max())
    assert off <= 1, f"offspring of a group {off:.2f} times as far from their expectation as may be"
    if output.scheme == "multinomial":
        # the schemes keep large expectations closely
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
        # ssp is a sequential loop, which has no GPU version
        devices=("cpu",) if scheme == "ssp" else ("cpu", "cuda"),
        bytes=8 * particles,
    )


CASES = [make_case(scheme, 100_000) for scheme in SCHEMES]
