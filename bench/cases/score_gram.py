"""Time the inner products of M scores and the noise of a step, [M, 1, N, d], against eager torch."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.registry import Case
from edmfast.ops import score_gram
from edmfast.ops.score_gram.reference import score_gram as reference

Products = tuple[Tensor, Tensor]


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, dtype=dtype, generator=generator)
    noise = torch.randn(shape[1:], dtype=dtype, generator=generator)
    return scores.to(device), noise.to(device)


def ours(scores: Tensor, noise: Tensor) -> Products:
    return score_gram(scores, noise)


def einsum(scores: Tensor, noise: Tensor) -> Products:
    """Write it the shortest way, with sums in float32."""
    gram = torch.einsum("mpnd,kpnd->pnmk", scores, scores)
    return gram.double(), torch.einsum("mpnd,pnd->pnm", scores, noise).double()


def loop(scores: Tensor, noise: Tensor) -> Products:
    """Compute each product once, by (a * b).sum, with sums in float32."""
    count = scores.shape[0]
    gram = scores.new_empty((*scores.shape[1:3], count, count), dtype=torch.float64)
    for i in range(count):
        for j in range(i, count):
            gram[..., i, j] = gram[..., j, i] = (scores[i] * scores[j]).sum(-1)
    return gram, torch.stack([(score * noise).sum(-1) for score in scores], -1).double()


def make_case(count: int, particles: int, elements: int) -> Case:
    size, rows = particles * elements, particles * count * (count + 1)
    return Case(
        name=f"score_gram/{count}x{particles}x{elements}",
        shape=(count, 1, particles, elements),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"einsum": einsum, "loop": loop, "compile": torch.compile(loop, dynamic=False)},
        reference=reference,
        # the tolerance leaves room for the float32 sums of the baselines; the tests hold ours to float64
        check=close(rtol=1e-4, atol=1e-3),
        goal=3.0,
        bytes=4 * size * (count + 1) + 8 * rows,
    )


CASES = [make_case(2, 256, 12_288), make_case(3, 100_000, 2)]
