"""Loss and parameter gradients of one step as a single flat graph, compiled.

An energy's loss needs the derivative of a derivative, which torch.compile cannot take: its
autograd has no double backward (pytorch issue 91469). So loss and parameter gradients are traced
together by make_fx into one graph of plain operators, which needs no derivative any more, and
that graph is compiled. Equal to the eager step up to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from edmfast.distill.batch import Batch

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
        with torch.enable_grad():
            value = self.loss(batch)
            return value.detach(), _gradients(value, self.parameters)


class _CompiledStep:
    """Traces and compiles at the first batch; later batches must have the same shapes."""

    def __init__(self, loss: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.loss, self.parameters = loss, parameters
        self.step: GradientFunction | None = None

    def __call__(self, batch: Batch) -> Gradients:
        return self._first(batch) if self.step is None else self.step(batch)

    def _first(self, batch: Batch) -> Gradients:
        try:
            self.step = self._compile(batch)
            return self.step(batch)
        # Whatever the tracer or the compiler stumbles over, the eager step is still right.
        except Exception as error:
            reason = (str(error).strip() or "no message").splitlines()[0]
            warnings.warn(
                f"compile=True failed, training runs eagerly: {type(error).__name__}: {reason}",
                stacklevel=2,
            )
            self.step = _EagerStep(self.loss, self.parameters)
            return self.step(batch)

    def _compile(self, batch: Batch) -> GradientFunction:
        names = [*self.parameters]

        def flat(values: list[torch.Tensor], batch: Batch) -> Gradients:
            with torch.enable_grad():
                leaves = [value.detach().requires_grad_() for value in values]
                value = functional_call(self.loss, dict(zip(names, leaves, strict=True)), (batch,))
                return value.detach(), _gradients(value, leaves)

        def values() -> list[torch.Tensor]:
            return [parameter.detach() for parameter in self.parameters.values()]

        compiled = torch.compile(make_fx(flat)(values(), batch))

        def step(batch: Batch) -> Gradients:
            with torch.no_grad():
                return compiled(values(), batch)

        return step


def _gradients(value: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]
