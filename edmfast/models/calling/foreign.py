"""Calls to models of any origin: the one protocol that every entry point of the package uses.

denoiser   model(x [B, *shape], sigma [B], **condition) -> x0 like x
energy     model.energy_and_score(x [B, *shape], sigma, **condition) -> (U [B], S like x)
trace      model.jacobian_trace(x [B, *shape], sigma, **condition) -> tr dx0/dx [B], an optional method

A foreign denoiser always receives one noise level per sample, in the dtype and on the device of x, as the wrappers
of k-diffusion and diffusers expect. An energy receives the noise level in the caller's form: a float, [] or [B].

A foreign model works on copies of its arguments, and its results are copied too. So a model that changes its input
in place, or that reuses its output buffers, changes nothing else. Our own models keep that promise without copies.

A condition has one row per sample, or one row for all; see `edmfast.models.calling.condition_rows`. Our own models
check that themselves, and all others are called after the check.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.conditions import explained
from edmfast.models.calling.origin import is_ours, name_of
from edmfast.models.calling.returned import (
    check_backbone_output,
    check_denoised,
    check_energy,
    check_energy_and_score,
    check_measurement,
    check_row_numbers,
)
from edmfast.models.calling.second_order import watched_attention
from edmfast.models.level_table import no_table
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser, Target

__all__ = [
    "call_backbone",
    "call_denoiser",
    "call_energy",
    "call_jacobian_trace",
    "call_on_own_states",
    "call_operator",
    "call_reward",
    "energy_of",
    "is_ours",
    "name_of",
]


def call_denoiser(
    model: Denoiser | Target,
    x: Tensor,
    sigma: float | Tensor,
    *labels: Tensor,
    **condition: Any,
) -> Tensor:
    """Return the denoised states x0 of a denoiser, in the shape and dtype of x.

    x: [B, *shape]. sigma: a float, [] or [B]. labels: passed by position, as the networks of EDM take them.
    Raises TypeError where the model returns no floating tensor, and ValueError where the shape is not that of x,
    and for a condition whose rows are neither B nor 1.
    """
    denoiser: Any = model
    if is_ours(model):
        return check_denoised(model, denoiser(x, sigma, *labels, **condition), x)
    check_condition_rows(model, {"labels": labels}, len(x))
    # a dense copy, since foreign code may write to the levels or view them
    levels = expand_sigma(sigma, x).reshape(-1).clone(memory_format=torch.contiguous_format)
    with _calling(model, x, condition):
        returned = denoiser(x.clone(), levels, *map(_copied, labels), **_copies(condition))
    return check_denoised(model, returned, x).clone()


def call_on_own_states(
    model: Denoiser | Target, x: Tensor, sigma: float | Tensor, **condition: Any
) -> Tensor:
    """Return what `call_denoiser` returns, without copies: the caller gives all arguments away.

    The model may change them, and may overwrite the result at its next call.
    """
    if is_ours(model):
        return call_denoiser(model, x, sigma, **condition)
    levels = expand_sigma(sigma, x).reshape(-1).contiguous()
    denoiser: Any = model
    with _calling(model, x, condition):
        returned = denoiser(x, levels, **condition)
    return check_denoised(model, returned, x)


def call_energy(
    model: Denoiser | Target, x: Tensor, sigma: float | Tensor, **condition: Any
) -> tuple[Tensor, Tensor]:
    """Return (U [B] in nats, S like x) from the model's `energy_and_score`.

    x: [B, *shape]. sigma: a float, [] or [B]. Raises TypeError where the model has no such method or returns
    anything but two floating tensors, and ValueError where their shapes are others.
    """
    if not hasattr(model, "energy_and_score"):
        raise TypeError(
            f"{name_of(model)} has no energy, and an energy is needed here: distil the denoiser with "
            "edmfast.distill, or pass a model with energy_and_score(x, sigma) -> (energy [B], score like x)"
        )
    target = cast(Target, model)
    if is_ours(model):
        return check_energy_and_score(model, target.energy_and_score(x, sigma, **condition), x)
    with _calling(model, x, condition):
        returned = target.energy_and_score(x.clone(), _copied(sigma), **_copies(condition))
    energy, score = check_energy_and_score(model, returned, x)
    return energy.clone(), score.clone()


def energy_of(
    model: Denoiser | Target, x: Tensor, sigma: float | Tensor, **condition: Any
) -> Tensor:
    """Return U [B] in nats from the model's `energy`, or from `energy_and_score` where it has no such method.

    x: [B, *shape]. sigma: a float, [] or [B]. Raises TypeError where the model returns no floating tensor, and
    ValueError where its shape is not [B].
    """
    # an energy alone is cheaper than with its score, where the model offers it
    method: Any = getattr(model, "energy", None)
    if method is None:
        return call_energy(model, x, sigma, **condition)[0]
    if is_ours(model):
        return check_energy(model, method(x, sigma, **condition), x)
    with _calling(model, x, condition):
        returned = method(x.clone(), _copied(sigma), **_copies(condition))
    return check_energy(model, returned, x).clone()


def call_jacobian_trace(
    model: Denoiser | Target, x: Tensor, sigma: float | Tensor, **condition: Any
) -> Tensor:
    """Return the trace [B] of the Jacobian dD/dx of the denoised states D, from the method `jacobian_trace`.

    x: [B, *shape]. sigma: a float, [] or [B]. Raises TypeError where the model returns no tensor of real numbers,
    and ValueError where its shape is not [B].
    """
    # the protocols do not name this method, because it is optional
    method = cast(Any, model).jacobian_trace
    if is_ours(model):
        return check_row_numbers("jacobian_trace", model, method(x, sigma, **condition), x)
    # the trace belongs to a denoiser, which receives one level per sample
    levels = expand_sigma(sigma, x).reshape(-1).clone(memory_format=torch.contiguous_format)
    with _calling(model, x, condition):
        returned = method(x.clone(), levels, **_copies(condition))
    return check_row_numbers("jacobian_trace", model, returned, x).clone()


def call_backbone(
    backbone: Callable[..., Any],
    y: Tensor,
    c_noise: Tensor,
    noun: str = "the backbone",
    *,
    heads: int = 1,
    **condition: Any,
) -> Tensor:
    """Return the output h, like y, of the network inside a model, in the floating dtype that it computes.

    y: [B, *shape], scaled states. c_noise: [B]. noun: the name of the network in errors. heads: how often the
    output has the numbers of y on axis 1. A foreign network works on copies, since the model goes on to use y and
    c_noise. Raises TypeError where it returns no floating tensor, and ValueError for another shape.
    """
    # torch.compile cannot trace the context managers of the ordinary path
    if torch.compiler.is_compiling():
        returned = _run_backbone(backbone, y, c_noise, condition)
        return check_backbone_output(backbone, returned, y, noun, heads)
    with _calling(backbone, y, condition), watched_attention():
        returned = _run_backbone(backbone, y, c_noise, condition)
    return check_backbone_output(backbone, returned, y, noun, heads)


def _run_backbone(
    backbone: Callable[..., Any], y: Tensor, c_noise: Tensor, condition: dict[str, Any]
) -> Any:
    if is_ours(backbone):
        return backbone(y, c_noise, **condition)
    levels = c_noise.clone(memory_format=torch.contiguous_format)
    return backbone(y.clone(), levels, **_copies(condition))


def call_operator(operator: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the measurement [B, *observation] of states x [B, *shape]; a foreign operator receives a copy of x.

    Raises TypeError where it returns no floating tensor, and ValueError where it returns another number of rows.
    """
    return check_measurement(operator, operator(x if is_ours(operator) else x.clone()), x)


def call_reward(reward: Callable[[Tensor], Tensor], x: Tensor, name: str = "reward") -> Tensor:
    """Return one number per row, [B], from a function of states x [B, *shape]; a foreign one may change its copy.

    name: a noun for the function in errors. Counts and bools are numbers too. Raises TypeError where the function
    returns no tensor of real numbers, and ValueError where the shape is not [B].
    """
    if is_ours(reward):
        return check_row_numbers(name, reward, reward(x), x)
    # a reward may ask for derivatives in the weights of a model, which the numbers of a run do not carry
    with no_table():
        result = reward(x.clone())
    return check_row_numbers(name, reward, result, x).clone()


@contextlib.contextmanager
def _calling(model: Any, x: Tensor, condition: dict[str, Any]) -> Iterator[None]:
    """Check the rows of the conditions, and replace an error of the call by a clearer one that names the model."""
    check_condition_rows(model, condition, len(x))
    try:
        yield
    except (TypeError, RuntimeError) as error:
        clearer = explained(error, model, x, condition)
        # an error that is not recognised keeps its own traceback
        if clearer is error:
            raise
        raise clearer from error


def _copies(condition: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) for name, value in condition.items()}


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
