"""Time reversal-matched proposals and weights of M models, [1, N, d] with K probes, against plain torch.

The plain version is the one that a careful user writes: traces, curvatures, the product of the reversals and its
normalisation. It sums in float32, where ours sums in float64. It has no rule for products that would be too wide,
and its bits depend on the batch. Nearly all of the traffic is the M (K + 1) + K vectors of each particle. For
samples of a few elements, the logarithms and divisions of each particle take longer than the traffic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.registry import Case
from edmfast.ops import reversal
from edmfast.ops.reversal.reference import reversal as reference_of

Rows = tuple[Tensor, Tensor]
S, U = 1.0, 0.8


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return scores and products [M, 1, N, (K,) d], probes, exponents and levels.

    shape: (M, K, N, d).
    """
    models, probes, particles, elements = shape
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn((models, 1, particles, elements), dtype=dtype, generator=generator)
    noise = torch.randn((1, particles, probes, elements), dtype=dtype, generator=generator)
    # Jacobians between those of the noise alone and of a flat density
    slopes = -torch.rand((models, *noise.shape), dtype=dtype, generator=generator)
    exponents = torch.full((1, models), 0.75, dtype=torch.float64)
    levels = torch.tensor([S, U], dtype=torch.float64)
    inputs = scores, exponents, levels, slopes * noise, noise
    return tuple(tensor.to(device) for tensor in inputs)


def ours(
    scores: Tensor, exponents: Tensor, levels: Tensor, products: Tensor, probes: Tensor
) -> Rows:
    return reversal([*scores], exponents, levels, products=[*products], probes=probes)


def plain(
    scores: Tensor, exponents: Tensor, levels: Tensor, products: Tensor, probes: Tensor
) -> Rows:
    """Write the formula with sums in float32, without the rule for products that would be too wide."""
    s, u = levels
    variance, elements = s * s - u * u, scores.shape[3]
    a = exponents.T[..., None]
    trace = (products * probes).sum(4).mean(3)
    least = 0.5 * (u / s) ** 2
    kappa = torch.minimum(torch.maximum(1 + variance * trace / elements, least), least * 0 + 1.5)
    weight = a / kappa
    precision, total = weight.sum(0), a.sum(0)
    mean = ((weight / precision).to(scores.dtype)[..., None] * scores).sum(0)
    spread = (weight * (scores - mean).square().sum(3)).sum(0)
    volume = (a * kappa.log()).sum(0) + (precision / total).log()
    log_weight = -0.5 * elements * volume - 0.5 * variance * spread
    own = (variance * weight / precision).movedim(0, 2)
    both = torch.stack([variance / precision, (variance / total).expand_as(precision)], 2)
    return torch.cat([own, both], 2), log_weight


def reference(
    scores: Tensor, exponents: Tensor, levels: Tensor, products: Tensor, probes: Tensor
) -> Rows:
    return reference_of([*scores], exponents, levels, None, [*products], probes)


def make_case(models: int, probes: int, particles: int, elements: int) -> Case:
    vectors = models * (probes + 1) + probes
    return Case(
        name=f"reversal/{models} models {probes} probes {particles}x{elements}",
        shape=(models, probes, particles, elements),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"eager torch": plain, "compile": torch.compile(plain, dynamic=False)},
        reference=reference,
        # the tolerance leaves room for the float32 sums of the baselines; the tests hold ours to float64
        check=close(rtol=1e-4, atol=1e-2),
        goal=2.0,
        bytes=4 * particles * elements * vectors + 8 * particles * (models + 3),
    )


CASES = [
    make_case(1, 1, 4096, 64),
    make_case(2, 1, 4096, 64),
    make_case(2, 2, 256, 12_288),
    make_case(1, 1, 100_000, 2),
]
