"""Time one proposal step of a population [1, N, d] with its log-ratio, against eager torch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from bench.harness import laws
from bench.harness.registry import Case
from edmfast.ops import propagate, rng_state, standard_normal
from edmfast.ops.noise.reference import noise

Step = tuple[Tensor, Tensor]
V_M, V_L, DRIFT = 0.4, 0.5, 0.3


class Counted(NamedTuple):
    """A step with noise of the counter, so that its numbers are known."""

    moved: Tensor
    ratio: Tensor


class Truth(NamedTuple):
    """The start of each particle, the mean of its move, and the counter's noise, in float64."""

    start: Tensor
    mean: Tensor
    noise: Tensor


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return states, scores, sorted ancestors, (drift, v_M, v_L) and the state of the noise."""
    generator = torch.Generator().manual_seed(0)
    x, score = torch.randn(2, *shape, dtype=dtype, generator=generator)
    ancestors = torch.randint(shape[1], shape[:2], dtype=torch.int32, generator=generator)
    kernel = torch.tensor([[DRIFT, V_M, V_L]], dtype=torch.float64)
    # ancestors are sorted, as systematic resampling returns them
    inputs = x, score, ancestors.sort(1).values, kernel, rng_state(0, 1)
    return tuple(tensor.to(device) for tensor in inputs)


def ours(x: Tensor, score: Tensor, ancestors: Tensor, kernel: Tensor, rng: Tensor) -> Counted:
    return Counted(*propagate(x, score, ancestors, kernel, rng))


def eager(x: Tensor, score: Tensor, ancestors: Tensor, kernel: Tensor, rng: Tensor) -> Step:
    """The step as a user would write it without a kernel; its noise has no counter."""
    return _moved(x, score, ancestors, DRIFT, V_M, V_L)


def _moved(
    x: Tensor, score: Tensor, ancestors: Tensor, drift: float, v_m: float, v_l: float
) -> Step:
    x, score = x[0].index_select(0, ancestors[0]), score[0].index_select(0, ancestors[0])
    z = torch.randn_like(x)
    shift = drift * score
    moved = x + shift + math.sqrt(v_m) * z
    ratio = (
        0.5 * (1 - v_m / v_l) * z.square().sum(1)
        - math.sqrt(v_m) / v_l * (shift * z).sum(1)
        - 0.5 / v_l * shift.square().sum(1)
        + 0.5 * x.shape[1] * math.log(v_m / v_l)
    )
    return moved[None], ratio[None]


# on the CPU, compiled normals are a scalar loop, tens of times slower than torch's own
_compiled = {
    "cpu": torch.compile(_moved, dynamic=False, options={"fallback_random": True}),
    "cuda": torch.compile(_moved, dynamic=False),
}


def compiled(x: Tensor, score: Tensor, ancestors: Tensor, kernel: Tensor, rng: Tensor) -> Step:
    """Compile the step as one graph, which takes the three numbers from the host."""
    return _compiled[x.device.type](x, score, ancestors, DRIFT, V_M, V_L)


def fill(x: Tensor, score: Tensor, ancestors: Tensor, kernel: Tensor, rng: Tensor) -> Tensor:
    """Draw the noise only: the part of a step that computes instead of reading and writing."""
    return standard_normal(x, seed=0, step=1)


def reference(x: Tensor, score: Tensor, ancestors: Tensor, kernel: Tensor, rng: Tensor) -> Truth:
    start, slope = (tensor.double()[0, ancestors[0].long()][None] for tensor in (x, score))
    return Truth(start, start + DRIFT * slope, noise(x, rng, 0, 0, 0).double())


def check(output: Step, truth: Truth) -> None:
    """Check that the noise is standard normal and that the ratio is that of the two kernels' densities."""
    moved, ratio = output
    start, mean, counted = truth
    assert moved.shape == start.shape, f"states of shape {tuple(moved.shape)}"
    assert ratio.shape == start.shape[:2], f"a ratio of shape {tuple(ratio.shape)}"
    assert {moved.dtype, ratio.dtype} == {torch.float32}, f"{moved.dtype}, {ratio.dtype}"
    moved, d = moved.double(), start.shape[2]
    z = (moved - mean) / math.sqrt(V_M)
    laws.check_normals(z)
    if isinstance(output, Counted):
        torch.testing.assert_close(z, counted, rtol=0, atol=1e-5)
    backward = -0.5 * (start - moved).square().sum(2) / V_L - 0.5 * d * math.log(V_L)
    forward = -0.5 * z.square().sum(2) - 0.5 * d * math.log(V_M)
    torch.testing.assert_close(ratio.double(), backward - forward, rtol=1e-5, atol=1e-3)


def make_case(particles: int, elements: int) -> Case:
    size = particles * elements
    return Case(
        name=f"propagate/{particles}x{elements}",
        shape=(1, particles, elements),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"eager torch": eager, "compile": compiled, "noise alone": fill},
        reference=reference,
        check=check,
        goal=6.0,
        goals={"noise alone": 0.5},
        bounds=("noise alone",),
        unchecked=("noise alone",),
        bytes=4 * (3 * size + 2 * particles),
    )


def gpu_case(particles: int, elements: int) -> Case:
    """Return a case with states of 64 MB and more, which fit into no cache."""
    case = make_case(particles, elements)
    return replace(case, floor_goals={"cuda": 0.85}, devices=("cuda",))


CASES = [make_case(100_000, 2), make_case(256, 12_288)]
CASES += [gpu_case(131_072, 128), gpu_case(4096, 12_288)]
