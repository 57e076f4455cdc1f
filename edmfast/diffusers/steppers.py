"""The steps of a run: a plan on the engine's machine, and the two kinds of steps that have no plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast.diffusers.clipping import Clip
from edmfast.diffusers.ddim import DDIMStep
from edmfast.diffusers.frames import Frame
from edmfast.diffusers.outputs import StepOutput
from edmfast.diffusers.randomness import Draw, Source
from edmfast.ops import linear_combination
from edmfast.sampling.engine import Call, Plan
from edmfast.sampling.engine.machine import Machine, requests_of
from edmfast.sampling.noise import draws_for


class PlanRun:
    """A run of a plan from one model call on.

    Args:
        plan: the plan in the coordinates of the scheduler, whose first call is number `begin`.
        frame: the coordinates, for the predicted clean samples.
        sigmas: the levels of all model calls.
        clip: what is done to the clean samples, or None. With it the plan takes clean samples.
        source: the source of fresh noise.
        seed: an integer or one for each sample, for noise from counters instead.
    """

    def __init__(
        self,
        plan: Plan,
        begin: int,
        frame: Frame,
        sigmas: tuple[float, ...],
        clip: Clip | None,
        source: Source,
        seed: Any = None,
    ) -> None:
        self.plan, self.place, self.clip = plan, begin, clip
        self.source, self.seed = source, seed
        self.clean = [frame.denoised(sigma) for sigma in sigmas]
        self.machine: Machine | None = None
        self.call: Call | None = None

    def step(self, sample: Tensor, output: Tensor) -> StepOutput:
        """Return the samples of the next model call."""
        if self.machine is None:
            self._start(sample)
        machine, call = self.machine, self.call
        assert machine is not None
        if call is None:
            raise ValueError(
                f"the run has ended after its {len(self.clean)} model calls: call set_timesteps before another one"
            )
        machine.registers[call.state] = sample
        pair, weights = (sample, output), self.clean[self.place]
        known = None
        if self.clip is None:
            machine.feed(output)
        else:
            known = self.clip(linear_combination(pair, weights))
            machine.feed(known)
        self.place += 1
        self.call = call = machine.next_call()
        after = machine.registers["x" if call is None else call.state]
        return StepOutput(after, pair, weights, known)

    def _start(self, sample: Tensor) -> None:
        requests = requests_of(self.plan)
        if self.seed is None:
            draws: Any = [Draw(self.source, coefficient) for coefficient, _ in requests]
        else:
            draws = draws_for(requests, sample, sample, None, self.seed)
        # a list's iterator can be copied with the scheduler, and a generator cannot
        self.machine = Machine(self.plan, sample, iter([*draws]))
        self.call = self.machine.next_call()


class Churn(NamedTuple):
    """The churn of one step of Euler's method: see `churned`."""

    strength: float
    least: float
    most: float
    noise: float

    def gamma(self, sigma: float, steps: int) -> float:
        """Return by which share the level is raised."""
        inside = self.least <= sigma <= self.most
        return min(self.strength / steps, math.sqrt(2) - 1) if inside else 0.0


def churned(
    sample: Tensor,
    output: Tensor,
    levels: tuple[float, float],
    gamma: float,
    scale: float,
    frame: Frame,
    source: Source,
) -> StepOutput:
    """Return a step of Euler's method after the level was raised by the factor 1 + gamma.

    diffusers raises the level after the model call, so the output is that of samples without the new noise.
    """
    sigma, sigma_next = levels
    raised = sigma * (1 + gamma)
    fresh = scale * math.sqrt(raised**2 - sigma**2)
    # diffusers reads velocities at the level before it was raised
    at = sigma if frame.kind == "ve" and frame.prediction == "v_prediction" else raised
    a, b = frame.denoised(at)
    ratio = sigma_next / raised
    of_sample = ratio + (1 - ratio) * a
    noise = source.draw().to(sample.dtype)
    tensors = (sample, output, noise)
    after = linear_combination(tensors, (of_sample, (1 - ratio) * b, of_sample * fresh))
    return StepOutput(after, tensors, (a, b, a * fresh))


def ddim(
    sample: Tensor,
    output: Tensor,
    step: DDIMStep,
    clip: Clip | None,
    renewed: bool,
    draw: Callable[[], Tensor],
) -> StepOutput:
    """Return a step of DDIM. renewed: the noise is that of the clipped clean samples. draw: makes fresh noise."""
    pair = (sample, output)
    fresh = (draw().to(sample.dtype),) if step.forward[2] else ()
    if clip is None:
        weights = step.plain()[: 2 + len(fresh)]
        return StepOutput(linear_combination((*pair, *fresh), weights), pair, step.clean)
    known = clip(linear_combination(pair, step.clean))
    weights = step.clipped(renewed)
    tensors = (known, *pair, *fresh)
    terms = [(t, w) for t, w in zip(tensors, weights, strict=False) if w]
    after = linear_combination([t for t, _ in terms], [w for _, w in terms])
    return StepOutput(after, pair, step.clean, known)


def as_common(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in the widest of their precisions."""
    first, *rest = tensors
    if all(tensor.dtype == first.dtype for tensor in rest):
        return tensors
    dtype = first.dtype
    for tensor in rest:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
