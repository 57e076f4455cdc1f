"""The loss and the parameter gradients of one training step, eagerly or as a single compiled graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call

from edmfast._internal.rows import unpadded
from edmfast.distill.batch import Batch
from edmfast.distill.config import ONE_OF_BOTH
from edmfast.models.calling.second_order import second_derivatives
from edmfast.models.compiling.attributes import MOST_STATES, Attributes
from edmfast.models.compiling.flat_graph import FlatGraph, Tensors
from edmfast.models.recomputing.blocks import recomputing_blocks

Gradients = tuple[torch.Tensor, list[torch.Tensor]]
GradientFunction = Callable[[Batch], Gradients]


def gradient_function(
    loss: nn.Module, parameters: dict[str, nn.Parameter], *, compile: bool
) -> GradientFunction:
    """Return a function batch -> (loss [], gradients of the named parameters of `loss`, in their order).

    Raises ValueError where compile is asked for and blocks of the student recompute their activations.
    """
    if compile and recomputing_blocks(loss):
        raise ValueError(f"a student with blocks that recompute their activations: {ONE_OF_BOTH}")
    return _CompiledStep(loss, parameters) if compile else _EagerStep(loss, parameters)


class _EagerStep:
    def __init__(self, loss: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.loss, self.parameters = loss, [*parameters.values()]

    def __call__(self, batch: Batch) -> Gradients:
        with torch.enable_grad(), unpadded():
            value = self.loss(batch)
            return value.detach(), _gradients(value, self.parameters)


class _CompiledStep:
    """A training step by a compiled graph, equal to the eager step up to rounding.

    Batches may change in size, but must hold tensors of the same names.
    """

    def __init__(self, loss: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.loss, self.parameters = loss, parameters
        self.buffers = dict(loss.named_buffers())
        self.eager = _EagerStep(loss, parameters)
        self.names: list[str] = []
        self.attributes = [Attributes(loss.modules())]
        self.flat = FlatGraph(self._step, otherwise="training runs eagerly")

    def __call__(self, batch: Batch) -> Gradients:
        # a fixed order of names makes equal batches share a graph
        self.names = sorted(batch)
        tensors = (*self.parameters.values(), *self.buffers.values())

        def eager() -> tuple[torch.Tensor, ...]:
            loss, gradients = self.eager(batch)
            return loss, *gradients

        with torch.no_grad():
            fixed = [tensor.detach() for tensor in tensors]
            inputs = [batch[name] for name in self.names]
            loss, *gradients = self.flat(fixed, inputs, eager, (*self.names, self._state()))
        return loss, gradients

    def _state(self) -> int:
        """Return the index of the current state of the loss's plain attributes; each state has its own graphs."""
        for number, attributes in enumerate(self.attributes):
            changed = attributes.change()
            if changed is None:
                return number
        if len(self.attributes) >= MOST_STATES and not self.flat.failed:
            self.flat.failed = True
            warnings.warn(
                f"compile=True: the attribute {changed} took more than {MOST_STATES} values, and each value needs "
                "its own graph: training goes on eagerly",
                stacklevel=2,
            )
        self.attributes.append(Attributes(self.loss.modules()))
        return len(self.attributes) - 1

    def _step(self, fixed: Tensors, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad(), unpadded():
            count = len(self.parameters)
            # fresh leaves, because the trace must not reach the parameters of the student
            leaves = [value.detach().requires_grad_() for value in fixed[:count]]
            batch = dict(zip(self.names, inputs, strict=True))
            named = dict(
                zip((*self.parameters, *self.buffers), (*leaves, *fixed[count:]), strict=True)
            )
            before = Attributes(self.loss.modules())
            # plain attributes are remembered, so that a failed trace can restore them
            values = [(module, dict(vars(module))) for module in self.loss.modules()]
            value = functional_call(_Watched(self.loss), _prefixed(named), (batch,))
            # the eager step that follows must start from the attributes that this one started from
            if before.change() is not None:
                for module, plain in values:
                    vars(module).update(plain)
                raise RuntimeError("the student changes one of its attributes when it is called")
            return value.detach(), *_gradients(value, leaves)


class _Watched(nn.Module):
    """A loss whose buffers must not be replaced, since functional_call would lose the new ones."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, batch: Batch) -> torch.Tensor:
        # a module may replace a buffer by assignment instead of changing it in place
        before = [id(buffer) for buffer in self.loss.buffers()]
        value: torch.Tensor = self.loss(batch)
        if [id(buffer) for buffer in self.loss.buffers()] != before:
            raise RuntimeError("the student replaces its buffers")
        return value


def _prefixed(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"loss.{name}": tensor for name, tensor in named.items()}


def _gradients(value: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with second_derivatives():
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        # a parameter that the loss does not use keeps its place among the gradients
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]
