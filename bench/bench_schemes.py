"""Each resampling scheme on one large population, against the nearest thing in torch.

That is the same law for the systematic, stratified and multinomial scheme. Torch has none of the
others; what a user would take in their place is torch.multinomial, the same job with more variance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench.registry import Case
from edmfast.ops import resample, rng_state
from edmfast.ops.schemes import SCHEMES


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Log-weights [P, N] and the state of the uniforms."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(shape, dtype=dtype, generator=generator)
    return weights.to(device), rng_state(0, 1, device)


def ours(scheme: str, log_weights: Tensor, rng: Tensor) -> Tensor:
    return resample(log_weights, rng, scheme=scheme).ancestors


def multinomial(log_weights: Tensor, rng: Tensor) -> Tensor:
    """Unsorted draws of float32 weights: at most 2^24 particles."""
    return torch.multinomial(log_weights.softmax(1), log_weights.shape[1], replacement=True)


def search(log_weights: Tensor, rng: Tensor, *, uniforms: bool) -> Tensor:
    """One uniform, or one per slot, searched for in the cumulative weights in float64."""
    populations, particles = log_weights.shape
    cumulative = log_weights.double().softmax(1).cumsum(1)
    slot = torch.arange(particles, device=log_weights.device, dtype=torch.float64)
    width = particles if uniforms else 1
    u = torch.rand(populations, width, dtype=torch.float64, device=log_weights.device)
    return torch.searchsorted(cumulative, (slot + u) / particles).clamp(max=particles - 1)


def reference(log_weights: Tensor, rng: Tensor) -> Tensor:
    """Expected offspring [P, N]."""
    return log_weights.double().softmax(1) * log_weights.shape[1]


def check(output: Tensor, truth: Tensor) -> None:
    """Offspring of a hundred groups of particles: what is expected, within six multinomial errors."""
    counts = torch.zeros_like(truth).scatter_add_(1, output.long(), torch.ones_like(truth))
    got, wanted = counts.unflatten(1, (100, -1)).sum(2), truth.unflatten(1, (100, -1)).sum(2)
    assert counts.sum() == truth.numel(), "not every slot is filled"
    assert ((got - wanted).abs() <= 6 * wanted.sqrt()).all(), "offspring far from their expectation"


def make_case(scheme: str, particles: int) -> Case:
    baselines: dict[str, Callable[..., Tensor]] = {"torch.multinomial": multinomial}
    if scheme in ("systematic", "stratified"):
        searching = partial(search, uniforms=scheme == "stratified")
        baselines = {"searchsorted float64": searching}
    return Case(
        name=f"schemes/{scheme}/{particles}",
        shape=(1, particles),
        make_inputs=make_inputs,
        ours=partial(ours, scheme),
        baselines=baselines,
        reference=reference,
        check=check,
        goal=1.0,
        bytes=8 * particles,
    )


CASES = [make_case(scheme, 100_000) for scheme in SCHEMES]
