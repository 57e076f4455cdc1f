"""The fresh noise of a scheduler's steps: drawn as diffusers draws it, or from counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from edmfast.ops import linear_combination


class Source:
    """The source of one run, which holds what the present step was given.

    float32: the noise has this precision whatever the model's output has.
    """

    def __init__(self, float32: bool = False) -> None:
        self._float32 = float32
        self._given: Tensor | None = None
        self._generator: Any = None
        self._output = torch.empty(0)
        self.drawn = False

    def prepare(self, output: Tensor, generator: Any, given: Tensor | None) -> None:
        """Take the generator, or the noise itself, of the step that follows."""
        self._output, self._generator, self._given = output, generator, given
        self.drawn = False

    def draw(self) -> Tensor:
        """Return standard normals like the model's output."""
        self.drawn = True
        if self._given is not None:
            return self._given
        output = self._output
        dtype = torch.float32 if self._float32 else output.dtype
        normals: Tensor = randn_tensor(
            tuple(output.shape), generator=self._generator, device=output.device, dtype=dtype
        )
        return normals

    def finish(self, needed: bool) -> None:
        """End the step. A draw that is needed, and had no weight, still advances the generator."""
        if needed and not self.drawn and self._given is None:
            self.draw()
        self._output, self._given, self._generator = torch.empty(0), None, None


class Draw:
    """The noise of one combination, from the source of the run."""

    def __init__(self, source: Source, coefficient: float) -> None:
        self.source, self.coefficient = source, coefficient

    def combined(self, tensors: list[Tensor], coefficients: Sequence[float] | Tensor) -> Tensor:
        """Return sum_k coefficient_k tensor_k + coefficient * noise, in one pass."""
        noise = self.source.draw().to(device=tensors[0].device, dtype=tensors[0].dtype)
        if isinstance(coefficients, Tensor):
            last = coefficients.new_full((1,), self.coefficient)
            return linear_combination([*tensors, noise], torch.cat([coefficients, last]))
        return linear_combination([*tensors, noise], (*coefficients, self.coefficient))
