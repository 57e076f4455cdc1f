"""Time counter-based normals [P, N, d] against `torch.randn`, whose numbers depend on the batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench.harness import laws
from bench.harness.registry import Case
from edmfast.ops import rng_state, standard_normal
from edmfast.ops.noise.reference import noise as plain_noise


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    return (torch.zeros(shape, dtype=dtype, device=device),)


class Counted(NamedTuple):
    """Noise drawn by the counter, so that its numbers are known."""

    z: Tensor


def ours(like: Tensor) -> Counted:
    return Counted(standard_normal(like, seed=0, step=0))


def reference(like: Tensor) -> Tensor:
    """Return the numbers of the counter, from its definition in plain torch."""
    return plain_noise(like, rng_state(0, 0, like.device), 0, 0, 0)


def check(output: Counted | Tensor, truth: Tensor) -> None:
    """Check the counter's own numbers exactly, and all others statistically: independent, standard normal, few
    repeats."""
    z = output.z if isinstance(output, Counted) else output
    assert z.shape == truth.shape, f"noise of shape {tuple(z.shape)}"
    assert z.dtype == truth.dtype, f"noise in {z.dtype}"
    laws.check_normals(z)
    laws.check_unique(z)
    if isinstance(output, Counted):
        torch.testing.assert_close(z, truth, rtol=0, atol=1e-5)


def make_case(*shape: int) -> Case:
    return Case(
        name=f"noise/{'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=ours,
        # compiled, torch draws the same numbers on a GPU; on the CPU it draws others in a scalar loop
        baselines={"torch.randn_like": torch.randn_like},
        reference=reference,
        check=check,
        goal=1.0,
        bytes=4 * torch.Size(shape).numel(),
    )


CASES = [make_case(1, 100_000, 2), make_case(1, 256, 12_288)]
