"""A loss of named tensors and arguments with its gradients, called eagerly or traced."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edmfast._internal.nested import tensors_in, with_tensors
from edmfast._internal.rows import unpadded
from edmfast.models.calling.second_order import second_derivatives
from edmfast.models.compiling.attributes import Attributes
from edmfast.models.compiling.flat_graph import Tensors

Named = Mapping[str, Tensor]
Parameters = nn.Module | Named


class Loss:
    """A loss of named tensors and arguments, called eagerly or with other tensors in their places."""

    def __init__(self, loss_fn: Callable[..., Any], params: Parameters, has_aux: bool) -> None:
        self.loss_fn, self.has_aux = loss_fn, has_aux
        self.holder = _Holder(params, loss_fn) if isinstance(params, nn.Module) else None
        self.given: Named = {} if isinstance(params, nn.Module) else params

    def watch(self, versions: bool = False) -> Attributes:
        """Return a watch over the plain values that the loss reads.

        versions: True to watch changes of tensors in place, too.
        """
        function = self.loss_fn
        while isinstance(function, functools.partial):
            function = function.func
        owner = getattr(function, "__self__", None)
        function = getattr(function, "__func__", function)
        modules = [] if self.holder is None else [*self.holder.model.modules()]
        if owner is not None and not isinstance(owner, nn.Module) and hasattr(owner, "__dict__"):
            modules.append(owner)
        functions = [function] if isinstance(function, types.FunctionType) else []
        return Attributes(modules, functions, versions)

    def modes(self) -> tuple[bool, ...]:
        """Return which modules are in training mode."""
        if self.holder is None:
            return ()
        return tuple(module.training for module in self.holder.model.modules())

    def tensors(self, trained: Named | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors that get gradients, and the others that belong to the params."""
        if self.holder is None:
            named = dict(self.given)
            floats = {name: t for name, t in named.items() if t.is_floating_point()}
            return floats, {name: t for name, t in named.items() if name not in floats}
        named = dict(self.holder.model.named_parameters())
        if trained is None:
            trained = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
        others = {name: tensor for name, tensor in named.items() if name not in trained}
        return dict(trained), others | dict(self.holder.model.named_buffers())

    def eager(self, args: Any, trained: Named, others: Named) -> tuple[Tensor, list[Tensor], Any]:
        """Return loss, gradients and aux, computed with the parameters themselves."""
        with torch.enable_grad(), unpadded():
            # an argument may be made to require gradients, which must not reach the caller's tensors
            own = with_tensors(args, lambda tensor: tensor.detach())
            if self.holder is not None:
                leaves = [*trained.values()]
                loss, aux = self.split(self.loss_fn(*own))
            else:
                fresh = {name: t.detach().requires_grad_() for name, t in trained.items()}
                leaves = [*fresh.values()]
                loss, aux = self.split(self.loss_fn({**others, **fresh}, *own))
            gradients = gradients_of(loss, leaves)
        return loss.detach(), gradients, with_tensors(aux, lambda tensor: tensor.detach())

    def split(self, returned: Any) -> tuple[Tensor, Any]:
        """Return loss [] and aux. Raises TypeError or ValueError for a loss of another kind or shape."""
        pair = isinstance(returned, tuple) and len(returned) == 2
        if self.has_aux and not pair:
            raise TypeError("with has_aux=True the loss function must return (loss, aux)")
        loss, aux = returned if self.has_aux else (returned, ())
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"the loss function must return a tensor, and returned {type(loss).__name__}"
            )
        if loss.dim():
            raise ValueError(f"the loss must be one number, of shape [], and has {[*loss.shape]}")
        return loss, aux


class Trace:
    """The function of fixed tensors and inputs that a graph computes: loss, gradients and the tensors of aux.

    aux: what the loss returned beside its loss, with empty tensors, from the first trace on.
    """

    def __init__(self, loss: Loss, template: Any, trained: list[str], others: list[str]) -> None:
        self.loss, self.template, self.trained, self.others = loss, template, trained, others
        self.aux: Any = None

    def __call__(self, fixed: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        count, given = len(self.trained), iter(inputs)
        with torch.enable_grad(), unpadded():
            # fresh leaves, because the trace must not reach the parameters of the caller
            leaves = [value.detach().requires_grad_() for value in fixed[:count]]
            args = with_tensors(self.template, lambda _: next(given).detach())
            named = dict(zip((*self.trained, *self.others), (*leaves, *fixed[count:]), strict=True))
            loss, aux = self.loss.split(self._called(named, args))
            gradients = gradients_of(loss, leaves)
        self.aux = with_tensors(aux, lambda _: torch.empty(0))
        return loss.detach(), *gradients, *(tensor.detach() for tensor in tensors_in(aux))

    def _called(self, named: dict[str, Tensor], args: Any) -> Any:
        holder = self.loss.holder
        if holder is None:
            return self.loss.loss_fn(named, *args)
        before = self.loss.watch(versions=True)
        # plain attributes are remembered, so that a failed trace can restore them
        values = [(module, dict(vars(module))) for module in holder.model.modules()]
        renamed = {f"model.{name}": tensor for name, tensor in named.items()}
        returned = functional_call(holder, renamed, args)
        # the eager step that follows must start from the attributes that this one started from
        if changed := before.change():
            for module, plain in values:
                vars(module).update(plain)
            raise RuntimeError(f"a call of the loss changes the attribute {changed}")
        return returned


class _Holder(nn.Module):
    """A module and a loss that uses it, as one module, because functional_call calls nothing else."""

    loss_fn: Callable[..., Any]

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        # a loss that is a module would be registered as a child, and its tensors would be counted twice
        self.__dict__["loss_fn"] = loss_fn

    def forward(self, *args: Any) -> Any:
        """Return what the loss returns. Raises RuntimeError where a buffer is replaced, which would be lost."""
        # a module may replace a buffer by assignment instead of changing it in place
        before = [id(buffer) for buffer in self.model.buffers()]
        returned = self.loss_fn(*args)
        if [id(buffer) for buffer in self.model.buffers()] != before:
            raise RuntimeError("the loss replaces buffers of the module")
        return returned


def gradients_of(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a loss [], zeros for a leaf that it does not use."""
    with second_derivatives():
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        # a parameter that the loss does not use keeps its place among the gradients
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]
