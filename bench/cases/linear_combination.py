"""Time the step of a solver, a combination of states with and without noise, against the same in torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench.harness import laws
from bench.harness.correctness import close
from bench.harness.registry import Case
from edmfast.ops import linear_combination
from edmfast.ops.linear_combination import reference as plain

NUMBERS = (0.8, 0.3, -0.1)
SEED, NODE, SCALE = 5, 7, 1.0


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(len(NUMBERS), *shape, generator=generator).to(device, dtype))


def ours(*states: Tensor) -> Tensor:
    return linear_combination(states, NUMBERS)


def eager(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    a, b, c = NUMBERS
    return a * x + b * y + c * z


compiled = torch.compile(eager, dynamic=False)


def reference(*states: Tensor) -> Tensor:
    return eager(*(state.double() for state in states))


class Noisy(NamedTuple):
    """The sum with the noise of the counter, so that its numbers are known."""

    sum: Tensor


def _noise_like(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    words = torch.tensor([SEED, NODE], device=x.device)
    return words[:1], words[1:], torch.full((1,), SCALE, dtype=torch.float64, device=x.device)


def ours_noisy(x: Tensor, y: Tensor, z: Tensor, *noise: Tensor) -> Noisy:
    seeds, nodes, weights = noise
    return Noisy(linear_combination((x, y, z), NUMBERS, seeds=seeds, nodes=nodes, weights=weights))


def eager_noisy(x: Tensor, y: Tensor, z: Tensor, *_: Tensor) -> Tensor:
    return eager(x, y, z) + SCALE * torch.randn_like(x)


def make_noisy_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    states = make_inputs(shape, dtype, device)
    return *states, *_noise_like(states[0])


def reference_noisy(x: Tensor, y: Tensor, z: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum without noise, and the sum with the noise of the counter."""
    numbers = torch.tensor(NUMBERS, dtype=torch.float64, device=x.device)
    seeds, nodes, weights = noise
    known = plain.linear_combination([x, y, z], numbers, seeds, nodes, weights, 0, 0)
    return reference(x, y, z), known


def check_noisy(output: Noisy | Tensor, truth: tuple[Tensor, Tensor]) -> None:
    """Check the counter's own sum closely, and the noise of all others by its law."""
    total = output.sum if isinstance(output, Noisy) else output
    without, known = truth
    assert total.shape == without.shape, f"a sum of shape {tuple(total.shape)}"
    laws.check_normals(((total - without) / SCALE).flatten(1)[None].float())
    if isinstance(output, Noisy):
        torch.testing.assert_close(total, known, rtol=0, atol=1e-5)


def make_case(*shape: int) -> Case:
    return Case(
        name=f"linear_combination/{'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=ours,
        baselines={"eager": eager, "compile": compiled},
        reference=reference,
        check=close(1e-5, 1e-6),
        goal=1.0,
        bytes=4 * (len(NUMBERS) + 1) * torch.Size(shape).numel(),
    )


def make_noisy_case(*shape: int) -> Case:
    return Case(
        name=f"linear_combination/noisy {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_noisy_inputs,
        ours=ours_noisy,
        baselines={"torch.randn_like": eager_noisy},
        reference=reference_noisy,
        check=check_noisy,
        goal=1.0,
        bytes=4 * (len(NUMBERS) + 1) * torch.Size(shape).numel(),
    )


CASES = [
    make_case(4, 3, 64, 64),
    make_case(64, 3, 64, 64),
    make_noisy_case(4, 3, 64, 64),
    make_noisy_case(64, 3, 64, 64),
]
