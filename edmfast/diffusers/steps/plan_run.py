"""The steps of a run: a plan on the engine's machine, and the two kinds of steps that have no plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast.diffusers.coordinates import Frame
from edmfast.diffusers.steps.clipping import Clip
from edmfast.diffusers.steps.ddim import DDIMStep
from edmfast.diffusers.steps.noise import Draw, Source
from edmfast.diffusers.steps.outputs import StepOutput
from edmfast.ops import linear_combination
from edmfast.sampling.engine import Call, Plan
from edmfast.sampling.engine.machine import End, prepared, requests_of
from edmfast.sampling.noise import draws_for


class PlanRun:
    """A run of a plan from one model call on.

    It does the work of `edmfast.sampling.engine.machine.Machine` from one call to the next at once, since a step
    of a scheduler is often shorter than the bookkeeping of a machine that can stop anywhere.

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
        self.plan, self.begin, self.place, self.clip = plan, begin, begin, clip
        self.source, self.seed = source, seed
        self.clean: list[Any] = [frame.denoised(sigma) for sigma in sigmas]
        self.registers: dict[str, Tensor] = {}
        self.work: list[tuple[str, str, list[Any]]] = []
        self.draws: Iterator[Any] = iter(())

    def step(self, sample: Tensor, output: Tensor) -> StepOutput:
        """Return the samples of the next model call."""
        place = self.place
        if not self.work:
            self._start(sample)
        if place == len(self.clean):
            raise has_ended(place)
        weights, known = self.clean[place], None
        state, out, work = self.work[place - self.begin]
        registers = self.registers
        registers[state] = sample
        if self.clip is None:
            registers[out] = output
        else:
            known = registers[out] = self.clip(linear_combination((sample, output), weights))
        for item in work:
            if isinstance(item, End):
                kept = {new: registers[old] for new, old in item.keep}
                self.registers = registers = {"x": registers["x"], **kept}
                continue
            tensors = [registers[name] for name in item.names]
            if item.noisy:
                registers[item.out] = next(self.draws).combined(tensors, item.coefficients)
            else:
                registers[item.out] = linear_combination(tensors, item.coefficients)
        self.place = place = place + 1
        following = place - self.begin
        after = registers[self.work[following][0] if following < len(self.work) else "x"]
        return StepOutput(after, sample, output, weights, known)

    def _start(self, sample: Tensor) -> None:
        self.clean = on_device(self.clean, sample.device)
        for item in prepared(self.plan, sample.device):
            if isinstance(item, Call):
                self.work.append((item.state, item.out, []))
            else:
                self.work[-1][2].append(item)
        requests = requests_of(self.plan)
        if self.seed is None:
            draws: Any = [Draw(self.source, coefficient) for coefficient, _ in requests]
        else:
            draws = draws_for(requests, sample, sample, None, self.seed)
        # a list's iterator can be copied with the scheduler, and a generator cannot
        self.draws = iter([*draws])


def on_device(weights: list[Any], device: torch.device) -> list[Any]:
    """Return the coefficients of many passes, which lie on the device of the samples if it is no CPU."""
    if device.type == "cpu" or not weights:
        return weights
    return [*torch.tensor(weights, dtype=torch.float64, device=device).unbind()]


def has_ended(calls: int) -> ValueError:
    """Return the error for a step after the last one."""
    return ValueError(
        f"the run has ended after its {calls} model calls: call set_timesteps before another one. A run whose "
        "first timestep occurs twice begins at the second one, unless set_begin_index(0) is called before it"
    )


class Churn(NamedTuple):
    """The churn of one step of Euler's method: see `churned`."""

    strength: float
    least: float
    most: float
    noise: float

    def as_floats(self) -> Churn:
        """Return the same with Python's floats. Raises TypeError for an entry that is no number."""
        names = ("s_churn", "s_tmin", "s_tmax", "s_noise")
        numbers = zip(names, self, strict=True)
        return Churn(*(as_float(name, value, finite=False) for name, value in numbers))

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
    known = linear_combination(tensors, (a, b, a * fresh))
    return StepOutput(after, sample, output, (a, b), known)


def ddim(
    sample: Tensor,
    output: Tensor,
    step: DDIMStep,
    clip: Clip | None,
    renewed: bool,
    draw: Callable[[], Tensor],
) -> StepOutput:
    """Return a step of DDIM. renewed: the noise is that of the clipped clean samples. draw: makes fresh noise."""
    fresh = (draw().to(sample.dtype),) if step.forward[2] else ()
    pair = (sample, output)
    if clip is None:
        weights = step.plain()[: 2 + len(fresh)]
        after = linear_combination((*pair, *fresh), weights)
        return StepOutput(after, sample, output, step.clean)
    known = clip(linear_combination(pair, step.clean))
    weights = step.clipped(renewed)
    tensors = (known, *pair, *fresh)
    terms = [(t, w) for t, w in zip(tensors, weights, strict=False) if w]
    after = linear_combination([t for t, _ in terms], [w for _, w in terms])
    return StepOutput(after, sample, output, step.clean, known)


def as_common(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in the widest of their precisions."""
    first, *rest = tensors
    if all(tensor.dtype == first.dtype for tensor in rest):
        return tensors
    dtype = first.dtype
    for tensor in rest:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
