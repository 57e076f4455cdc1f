"""Time random signs from counters [P, N, d] against random signs of torch, whose numbers depend on the batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench.harness import laws
from bench.harness.registry import Case
from edmfast.ops import random_signs, rng_state
from edmfast.ops.signs.reference import signs as plain_signs


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    return (torch.zeros(shape, dtype=dtype, device=device),)


class Counted(NamedTuple):
    """Signs drawn by the counter, so that they are known."""

    signs: Tensor


def of_normals(like: Tensor) -> Tensor:
    return torch.ones_like(like).copysign(torch.randn_like(like))


def of_bits(like: Tensor) -> Tensor:
    return torch.randint(0, 2, like.shape, device=like.device, dtype=like.dtype).mul_(2).sub_(1)


def reference(like: Tensor) -> Tensor:
    """Return the signs of the counter, from their definition in plain torch."""
    return plain_signs(like, rng_state(0, 0, like.device), 1, 0, 0, 0, 0, 0)[:, :, 0]


def ours(like: Tensor) -> Counted:
    return Counted(random_signs(like, seed=0, step=0))


def check(output: Counted | Tensor, truth: Tensor) -> None:
    """Check the counter's own signs exactly, and all others statistically: mean 0, and independent."""
    signs = output.signs if isinstance(output, Counted) else output
    assert signs.shape == truth.shape, f"signs of shape {tuple(signs.shape)}"
    assert signs.dtype == truth.dtype, f"signs in {signs.dtype}"
    laws.check_signs(signs)
    if isinstance(output, Counted):
        assert torch.equal(signs, truth), "other signs than those of the counter"


def make_case(*shape: int) -> Case:
    return Case(
        name=f"signs/{'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=ours,
        baselines={"torch.randint": of_bits, "signs of torch.randn": of_normals},
        reference=reference,
        check=check,
        goal=1.0,
        bytes=4 * torch.Size(shape).numel(),
    )


CASES = [make_case(1, 100_000, 2), make_case(1, 256, 12_288)]
