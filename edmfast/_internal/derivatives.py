"""Decisions about derivatives: must a result be recorded, and may an operator without derivatives run?

Derivatives are requested in three ways: by a tensor that requires grad while grad mode is on, by a dual tensor of
torch.autograd.forward_ad, and by the transforms of torch.func (grad, vjp, jvp and their combinations). A tensor
under a transform hides the first two inside wrappers: a batched tensor of vmap reports that it requires no grad
even where the tensor in it does. The functions here look through the wrappers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from edmfast._internal.nested import tensors_in

P = ParamSpec("P")
T = TypeVar("T")
_functorch: Any = torch._C._functorch


def is_transformed() -> bool:
    """Return whether a transform of torch.func or forward mode is active, in which operators lose derivatives."""
    # Dynamo cannot trace these queries, and it resolves transforms itself.
    if torch.compiler.is_dynamo_compiling():
        return False
    return _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_recorded(*values: Any) -> bool:
    """Return whether results computed from the values must be differentiable.

    They must in forward mode, inside the transforms of torch.func that differentiate, and where grad mode is on
    and a tensor among the values requires grad. Tensors inside lists, tuples and dictionaries count too.
    """
    if not is_transformed():
        return torch.is_grad_enabled() and any(
            tensor.requires_grad for value in values for tensor in tensors_in(value)
        )
    if forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    keys = [interpreter.key() for interpreter in _functorch.get_interpreter_stack()]
    return _functorch.TransformType.Grad in keys or any(
        _requires_grad(tensor) for value in values for tensor in tensors_in(value)
    )


def leaf_of(y: Tensor, recorded: bool) -> Tensor:
    """Return y, or a detached copy of it unless recorded, as a tensor that torch.autograd.grad accepts."""
    # A detached copy keeps the gradient from reaching the caller's graph.
    return y if recorded and y.requires_grad else y.detach().requires_grad_()


def values_and_slope(
    function: Callable[[Tensor], tuple[Tensor, ...]], y: Tensor, recorded: bool, cut: bool = False
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return (the values of function(y), the gradient of the sum of the first value with respect to y).

    Both are differentiable where `recorded` is true and detached otherwise. cut: detach the gradient although the
    rest is recorded. Under transforms the gradient comes from torch.func, which carries tangents and works inside
    vmap.
    """
    with torch.enable_grad():
        # torch.autograd.grad carries no tangents and does not work inside vmap.
        if is_transformed():
            result: Any = torch.func.vjp(lambda z: _split(function(z)), y, has_aux=True)
            value, vjp, others = result
            values = (value, *others)
            (slope,) = vjp(torch.ones_like(value))
        else:
            leaf = leaf_of(y, recorded)
            values = function(leaf)
            (slope,) = torch.autograd.grad(
                values[0].sum(),
                leaf,
                # A detached gradient needs no graph of its own, but the values keep theirs.
                create_graph=recorded and not cut,
                retain_graph=recorded,
                # A first value that does not depend on y has the gradient 0 and not None.
                materialize_grads=True,
            )
    if not recorded:
        values = tuple(value.detach() for value in values)
    return values, slope if recorded and not cut else slope.detach()


def _split(values: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return values[0], values[1:]


def carries_tangent(*tensors: Tensor | None) -> bool:
    """Return whether one of the tensors carries a forward-mode tangent."""
    return forward_ad._current_level >= 0 and any(
        _has_tangent(layer) for tensor in tensors if tensor is not None for layer in _layers(tensor)
    )


def is_only_forward(*tensors: Tensor | None) -> bool:
    """Return whether one level of forward mode is all that differentiates the tensors.

    A tangent of the result then needs no derivative of its own. False inside vmap, inside a second transform, and
    where grad mode is on and a tensor or its tangent requires grad.
    """
    if torch.compiler.is_dynamo_compiling() or forward_ad._current_level != 0:
        return False
    stack = _functorch.get_interpreter_stack() or []
    if [interpreter.key() for interpreter in stack] not in ([], [_functorch.TransformType.Jvp]):
        return False
    if not torch.is_grad_enabled():
        return True
    unpack: Callable[[Tensor], Any] = forward_ad.unpack_dual
    parts = [part for tensor in tensors if tensor is not None for part in unpack(tensor)]
    return not any(part is not None and _requires_grad(part) for part in parts)


def refuse_derivatives(name: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError where an operator without derivatives would lose a requested derivative."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and _requires_grad(tensor):
                raise RuntimeError(f"{name} has no derivative: call it under torch.no_grad()")
    refuse_tangents(name, *tensors)


def refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError where one of the tensors carries a tangent, which the operator `name` would lose."""
    if carries_tangent(*tensors):
        raise RuntimeError(
            f"{name} has no derivative, and one of its inputs carries a forward-mode tangent: detach its inputs"
        )


def refuse_transforms(name: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError where forward mode or torch.func differentiates an operator that has only reverse-mode
    derivatives."""
    if not is_transformed():
        return
    if carries_tangent(*tensors):
        raise RuntimeError(f"{name} has no forward-mode derivative: use reverse mode")
    if torch.compiler.is_dynamo_compiling() or not torch.is_grad_enabled():
        return
    for tensor in tensors:
        if tensor is not None and any(
            _functorch.is_gradtrackingtensor(layer) and layer.requires_grad
            for layer in _layers(tensor)
        ):
            raise RuntimeError(
                f"{name} has no derivative inside torch.func.grad, vjp or jacrev: use torch.autograd.grad"
            )


def refuse_run(name: str, *inputs: Any) -> None:
    """Raise RuntimeError where a run without derivatives would lose one that torch.func or forward mode requests.

    inputs: tensors, and modules whose parameters and buffers count. Under plain grad mode the run is not refused:
    its results are detached, and torch itself raises an error where they are differentiated.
    """
    refuse_gradients(name)
    # Outside of forward mode no tensor can carry a tangent.
    if forward_ad._current_level < 0:
        return
    if _functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            f"{name} has no derivative and takes no tangent: call it outside of torch.func.jvp"
        )
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    for module in inputs:
        if isinstance(module, torch.nn.Module):
            tensors += [*module.parameters(), *module.buffers()]
    refuse_tangents(name, *tensors)


def refuse_gradients(name: str) -> None:
    """Raise RuntimeError where torch.func.grad, vjp or jacrev differentiates code under torch.no_grad, because
    the result would be zero."""
    stack = None if torch.compiler.is_dynamo_compiling() else _functorch.get_interpreter_stack()
    if not stack or not torch.is_grad_enabled():
        return
    if _functorch.TransformType.Grad in [interpreter.key() for interpreter in stack]:
        raise RuntimeError(
            f"{name} runs without gradients, so torch.func.grad, vjp and jacrev of it would give zeros: call it "
            "outside of them, or under torch.no_grad() if it is meant as a constant"
        )


def without_gradients(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function under torch.no_grad. It is refused inside the transforms that would take this for zero.

    Forward-mode tangents pass through.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse_gradients(function.__name__)
        with torch.no_grad():
            return function(*args, **kwargs)

    return call


def _layers(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor and the tensors inside its wrappers of torch.func, from the outside in."""
    yield tensor
    if torch.compiler.is_dynamo_compiling():
        return
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
        yield tensor


def _requires_grad(value: Tensor) -> bool:
    if value.requires_grad or _functorch.peek_interpreter_stack() is None:
        return value.requires_grad
    return any(layer.requires_grad for layer in _layers(value))


def _has_tangent(layer: Tensor) -> bool:
    # A batched tensor has no batching rule for this query. The tensor inside it is the next layer.
    if not torch.compiler.is_dynamo_compiling() and _functorch.is_batchedtensor(layer):
        return False
    unpack: Callable[[Tensor], Any] = forward_ad.unpack_dual
    return unpack(layer).tangent is not None
