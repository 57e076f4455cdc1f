"""Loss and parameter gradients of one step, eagerly or as a single compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call

from edmfast.distill.batch import Batch
from edmfast.models.flat import Flat, Tensors
from edmfast.models.rows import unpadded

Gradients = tuple[torch.Tensor, list[torch.Tensor]]
GradientFunction = Callable[[Batch], Gradients]


def gradient_function(
    loss: nn.Module, parameters: dict[str, nn.Parameter], *, compile: bool
) -> GradientFunction:
    """batch -> (loss [], gradients of the named parameters of `loss`, in their order)."""
    return _CompiledStep(loss, parameters) if compile else _EagerStep(loss, parameters)


class _EagerStep:
    def __init__(self, loss: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.loss, self.parameters = loss, [*parameters.values()]

    def __call__(self, batch: Batch) -> Gradients:
        with torch.enable_grad(), unpadded():
            value = self.loss(batch)
            return value.detach(), _gradients(value, self.parameters)


class _CompiledStep:
    """Equal to the eager step up to rounding; batches may change in size, not in what they hold."""

    def __init__(self, loss: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.loss, self.parameters = loss, parameters
        self.names: list[str] = []
        self.flat = Flat(self._step, otherwise="training runs eagerly")

    def __call__(self, batch: Batch) -> Gradients:
        self.names = sorted(batch)
        values = [parameter.detach() for parameter in self.parameters.values()]
        with torch.no_grad():
            key = tuple(self.names)
            loss, *gradients = self.flat(values, [batch[name] for name in self.names], key)
        return loss, gradients

    def _step(self, values: Tensors, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad(), unpadded():
            leaves = [value.detach().requires_grad_() for value in values]
            batch = dict(zip(self.names, inputs, strict=True))
            named = dict(zip(self.parameters, leaves, strict=True))
            value = functional_call(self.loss, named, (batch,))
            return value.detach(), *_gradients(value, leaves)


def _gradients(value: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]
