"""A function whose derivatives recompute it, to every order, so that none of them keeps its intermediate results.

The forward of f keeps its tensors alone. The derivative is the pullback p(tensors, cotangents), which computes f
again and differentiates it. p is again a function of tensors, and it is called in the same way, so that its own
derivative recomputes both. Training an energy needs two such steps: the score pulls back through the network, and
the parameter gradients pull back through that.

torch.utils.checkpoint (torch 2.13) cannot do this. With use_reentrant=True it refuses torch.autograd.grad. With
use_reentrant=False the gradients are right, but the graph of the score keeps all that it has recomputed, so that a
step needs as much memory as without it.

Source: Griewank & Walther 2000, "Algorithm 799: revolve" (recomputation in reverse mode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Outputs = tuple[Tensor | None, ...]
Function = Callable[..., Outputs]
"""A function of tensors that may depend on no other tensor that requires grad, and changes none in place."""


def recomputed(function: Function, tensors: Sequence[Tensor]) -> Outputs:
    """Return function(*tensors), whose derivatives of every order recompute it.

    The function runs once without a graph. Later it runs with grad mode on, for each derivative once more. It must
    then return the same numbers.
    """
    # autograd cannot report whether a leaf's gradient is requested, so leaves are wrapped in views
    wrapped = [t.view_as(t) if t.requires_grad and t.is_leaf else t for t in tensors]
    apply: Callable[..., Outputs] = _Recomputed.apply
    return apply(function, *wrapped)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *tensors: Tensor) -> Outputs:
        ctx.function = function
        # an absent cotangent stays None, so that nothing is pulled back for it
        ctx.set_materialize_grads(False)
        outputs = function(*tensors)
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(
            *(o for o in outputs if o is not None and not o.is_floating_point())
        )
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        tensors = ctx.saved_tensors
        # the score asks for no gradients of parameters, which would cost as much as those of the states
        needed = [i for i, (node, _) in enumerate(ctx.next_functions) if _is_asked_for(node)]
        used = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
        gradients: list[Tensor | None] = [None] * (1 + len(tensors))
        if needed and used:
            pullback = _Pullback(ctx.function, needed, used)
            pulled = recomputed(pullback, [*tensors, *(c for c in cotangents if c is not None)])
            for i, gradient in zip(needed, pulled, strict=True):
                gradients[1 + i] = gradient
        return tuple(gradients)


def _is_asked_for(node: Any) -> bool:
    """Return whether the derivative that is being taken now needs the gradient at an input's node."""
    return node is not None and torch._C._will_engine_execute_node(node)


class _Pullback:
    """The function (tensors, cotangents) -> gradients of some of the tensors, where f gives the outputs.

    needed: the numbers of the tensors. used: the numbers of the outputs that have a cotangent.
    """

    def __init__(self, function: Function, needed: list[int], used: list[int]) -> None:
        self.function, self.needed, self.used = function, needed, used

    def __call__(self, *arguments: Tensor) -> Outputs:
        # grad mode is on exactly where a derivative of this pullback is being taken
        recording, count = torch.is_grad_enabled(), len(arguments) - len(self.used)
        tensors, cotangents = [*arguments[:count]], arguments[count:]
        if not recording:
            tensors = [tensor.detach() for tensor in tensors]
        for i in self.needed:
            if not tensors[i].requires_grad:
                tensors[i] = tensors[i].detach().requires_grad_()
        with torch.enable_grad():
            outputs = self.function(*tensors)
            # an output that depends on none of the needed tensors has no graph
            pairs = [
                (output, cotangent)
                for i, cotangent in zip(self.used, cotangents, strict=True)
                if (output := outputs[i]) is not None and output.requires_grad
            ]
            del outputs
            if not pairs:
                return (None,) * len(self.needed)
            return torch.autograd.grad(
                [output for output, _ in pairs],
                [tensors[i] for i in self.needed],
                [cotangent for _, cotangent in pairs],
                create_graph=recording,
                allow_unused=True,
            )
