"""The loss and the parameter gradients of one training step, eagerly or as a single compiled graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edmfast._internal.rows import unpadded
from edmfast.distill.batch import Batch
from edmfast.distill.config import ONE_OF_BOTH
from edmfast.models.compiling.flat_step import FlatStep
from edmfast.models.compiling.traced_loss import gradients_of
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
            return value.detach(), gradients_of(value, self.parameters)


class _CompiledStep:
    """A training step by a compiled graph, equal to the eager step up to rounding.

    Batches may change in size, but must hold tensors of the same names.
    """

    def __init__(self, loss: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.step = FlatStep(
            loss,
            loss,
            trained=parameters,
            what="compile=True",
            otherwise="training runs eagerly",
        )

    def __call__(self, batch: Batch) -> Gradients:
        # a fixed order of names makes equal batches share a graph
        loss, gradients = self.step({name: batch[name] for name in sorted(batch)})
        return loss, [*gradients.values()]
