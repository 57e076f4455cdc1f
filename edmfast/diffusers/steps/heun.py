"""The steps of `HeunDiscreteScheduler`, in one pass for each model call.

The first call of a step from sigma to s makes the end x1 = x + (s - sigma) d of Euler's method, and the second one

    x' = x + (s - sigma) (d + d1) / 2 = (x + x1) / 2 + (s - sigma) d1 / 2,    d1 = (y - D1) / s,

where y are the samples that the caller called the model with, mostly x1 itself. So the second pass needs neither
the first output nor a slope, which would cost a pass of its own. Where the caller has changed x1 in place, the
first output gives it anew.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from edmfast.diffusers.coordinates import Frame
from edmfast.diffusers.steps.outputs import StepOutput, version
from edmfast.diffusers.steps.plan_run import has_ended, on_device
from edmfast.ops import linear_combination


class HeunRun:
    """A run of Heun's method from one model call on, without clipping.

    Args:
        steps: the T + 1 levels, of which the last is 0. begin: the number of the first model call, an even one.
        frame: the coordinates, of the kind "ve".
    """

    def __init__(self, steps: tuple[float, ...], begin: int, frame: Frame) -> None:
        self.begin, self.place = begin, begin
        self.device = torch.device("cpu")
        self.first: tuple[Tensor, Tensor, int, int] | None = None
        self.end: Tensor | None = None
        self.end_version = 0
        self.clean: list[Any] = []
        self.starts: list[Any] = []
        self.ends: list[Any] = []
        for sigma, sigma_next in pairwise(steps):
            a, b = frame.denoised(sigma)
            move = sigma_next / sigma - 1
            self.clean.append((a, b))
            self.starts.append((1 + move * (1 - a), -move * b))
            if sigma_next:
                a, b = frame.denoised(sigma_next)
                half = (sigma_next - sigma) / (2 * sigma_next)
                self.clean.append((a, b))
                slope = half * (1 - a), -half * b
                self.ends.append((0.5, 0.5, *slope))
        self.ends_of_same = [(x, end + y, v) for x, end, y, v in self.ends]

    def step(self, sample: Tensor, output: Tensor) -> StepOutput:
        """Return the samples of the next model call."""
        place = self.place
        if self.device != sample.device:
            self._move(sample.device)
        if place == len(self.clean):
            raise has_ended(place)
        number, second = divmod(place, 2)
        if second:
            after = self._second(sample, output, number)
        else:
            after = linear_combination((sample, output), self.starts[number])
            self.first = sample, output, version(sample), version(output)
            self.end, self.end_version = after, version(after)
        self.place = place + 1
        return StepOutput(after, sample, output, self.clean[place])

    def _second(self, sample: Tensor, output: Tensor, number: int) -> Tensor:
        assert self.first is not None
        assert self.end is not None
        start, first_output, *versions = self.first
        end = self.end
        if version(end) != self.end_version:
            if [version(start), version(first_output)] != versions:
                raise RuntimeError(
                    "the samples between the two calls of a step of Heun's method were changed in place, and so "
                    "was what they were made of: change copies"
                )
            end = linear_combination((start, first_output), self.starts[number])
        elif sample is end:
            return linear_combination((start, end, output), self.ends_of_same[number])
        return linear_combination((start, end, sample, output), self.ends[number])

    def __deepcopy__(self, memo: dict[int, Any]) -> HeunRun:
        twin = copy.copy(self)
        if self.first is not None and self.end is not None:
            # copies of tensors count their changes anew
            held = copy.deepcopy([*self.first[:2], self.end], memo)
            old = zip((*self.first[:2], self.end), (*self.first[2:], self.end_version), strict=True)
            changes = [version(tensor) - then for tensor, then in old]
            start, output, end = (version(h) - c for h, c in zip(held, changes, strict=True))
            twin.first, twin.end = (held[0], held[1], start, output), held[2]
            twin.end_version = end
        return twin

    def _move(self, device: torch.device) -> None:
        self.device = device
        self.clean, self.starts = on_device(self.clean, device), on_device(self.starts, device)
        self.ends = on_device(self.ends, device)
        self.ends_of_same = on_device(self.ends_of_same, device)
