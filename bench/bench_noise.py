"""Counter-based normals [P, N, d] against `torch.randn`, whose numbers depend on the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.registry import Case
from edmfast.ops import standard_normal


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    return (torch.zeros(shape, dtype=dtype, device=device),)


def ours(like: Tensor) -> Tensor:
    return standard_normal(like, seed=0, step=0)


def reference(like: Tensor) -> Tensor:
    """The first four moments of N(0, 1)."""
    return torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64, device=like.device)


def check(z: Tensor, moments: Tensor) -> None:
    """Moments within five standard errors (variances 1, 2, 15 and 96 per sample)."""
    powers = torch.stack([z.double().pow(k).mean() for k in range(1, 5)])
    errors = torch.tensor([1.0, 2.0, 15.0, 96.0], dtype=torch.float64, device=z.device)
    off = (powers - moments).abs() / (errors / z.numel()).sqrt()
    assert off.max() < 5, f"moments {powers.tolist()}"


def make_case(*shape: int) -> Case:
    return Case(
        name=f"noise/{'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=ours,
        baselines={"torch.randn_like": torch.randn_like},
        reference=reference,
        check=check,
        goal=1.0,
        bytes=4 * torch.Size(shape).numel(),
    )


CASES = [make_case(1, 100_000, 2), make_case(1, 256, 12_288)]
