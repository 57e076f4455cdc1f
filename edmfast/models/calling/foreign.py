"""Calls to models that are not ours, and the checks of what they return.

The protocol is one and the same from every entry point:

denoiser   model(x [B, *shape], sigma [B], **condition) -> x0 like x
energy     model.energy_and_score(x [B, *shape], sigma, **condition) -> (U [B], S like x)

A foreign denoiser always receives one noise level per sample, in the dtype and on the device of x, as the wrappers
of k-diffusion and diffusers expect. An energy receives the level as the caller has it: a float, [] or [B].
Foreign models work on copies, and what they return is copied: one that changes its input in place, or uses its
output buffers again, changes nothing else. Our own models keep these promises without a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from edmfast.models.calling.conditions import explained
from edmfast.models.calling.second_order import watched_attention
from edmfast.models.preconditioning import expand_sigma


def is_ours(model: Any) -> bool:
    """Return whether a model is of a class of this package, or a method of one, and keeps the protocol itself."""
    owner = getattr(model, "__self__", model)
    return type(owner).__module__.partition(".")[0] == "edmfast"


def call_denoiser(
    model: Any, x: Tensor, sigma: float | Tensor, *labels: Tensor, **condition: Any
) -> Tensor:
    """Return x0, like x in shape and dtype.

    x: [B, *shape]; sigma: a float, [] or [B]; labels: passed by position, as the networks of EDM take them.
    TypeError where the model returns no floating tensor, ValueError where it returns one of another shape.
    """
    if is_ours(model):
        return check_denoised(model, model(x, sigma, *labels, **condition), x)
    levels = expand_sigma(sigma, x).reshape(-1).clone(memory_format=torch.contiguous_format)
    with _calling(model, x, condition):
        found = model(x.clone(), levels, *map(_copied, labels), **_copies(condition))
    return check_denoised(model, found, x).clone()


def call_energy(
    model: Any, x: Tensor, sigma: float | Tensor, **condition: Any
) -> tuple[Tensor, Tensor]:
    """Return (U [B], S like x) of a model with `energy_and_score`.

    x: [B, *shape]; sigma: a float, [] or [B]. TypeError where the model does not return two floating tensors,
    ValueError where their shapes are others.
    """
    if not hasattr(model, "energy_and_score"):
        raise TypeError(
            f"{name_of(model)} has no energy, and one is needed here: distil the denoiser with edmfast.distill, "
            "or give a model with energy_and_score(x, sigma) -> (energy [B], score like x)"
        )
    if is_ours(model):
        return check_energy(model, model.energy_and_score(x, sigma, **condition), x)
    with _calling(model, x, condition):
        found = model.energy_and_score(x.clone(), _copied(sigma), **_copies(condition))
    energy, score = check_energy(model, found, x)
    return energy.clone(), score.clone()


def energy_of(model: Any, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
    """Return U [B] of a model by its `energy`, or by `energy_and_score` where it has no such method.

    x: [B, *shape]; sigma: a float, [] or [B]. TypeError where the model does not return a floating tensor,
    ValueError where its shape is another.
    """
    if not hasattr(model, "energy"):
        return call_energy(model, x, sigma, **condition)[0]
    if is_ours(model):
        found = _check_numbers("energy", model, model.energy(x, sigma, **condition), x)
    else:
        with _calling(model, x, condition):
            found = model.energy(x.clone(), _copied(sigma), **_copies(condition))
        found = _check_numbers("energy", model, found, x).clone()
    _check_floating("an energy", model, found)
    return found


def call_backbone(backbone: Any, y: Tensor, c_noise: Tensor, **condition: Any) -> Tensor:
    """Return h like y of the network inside a model, in whatever floating dtype it computes.

    y: [B, *shape], scaled states; c_noise: [B]. A foreign network works on copies, since the model goes on with
    y and c_noise. TypeError where it returns no floating tensor, ValueError where it returns one of another
    shape.
    """
    if torch.compiler.is_compiling():
        # torch.compile traces no context managers of Python's
        return _check_backbone(backbone, _ask_backbone(backbone, y, c_noise, condition), y)
    with _calling(backbone, y, condition), watched_attention():
        found = _ask_backbone(backbone, y, c_noise, condition)
    return _check_backbone(backbone, found, y)


def _ask_backbone(backbone: Any, y: Tensor, c_noise: Tensor, condition: dict[str, Any]) -> Any:
    if is_ours(backbone):
        return backbone(y, c_noise, **condition)
    levels = c_noise.clone(memory_format=torch.contiguous_format)
    return backbone(y.clone(), levels, **_copies(condition))


def _check_backbone(backbone: Any, found: Any, y: Tensor) -> Tensor:
    if not isinstance(found, Tensor):
        raise TypeError(
            f"the backbone must return a tensor like its input, {name_of(backbone)} returned {_kind(found)}: "
            "wrap it in a module that takes the tensor out of it"
        )
    if found.shape != y.shape:
        raise ValueError(
            f"the backbone must return {_of_rows(y, y)} like its input: {name_of(backbone)} returned "
            f"{_of_rows(found, y)}"
        )
    _check_floating("the backbone", backbone, found)
    return found


def call_operator(operator: Any, x: Tensor) -> Tensor:
    """Return the measurement [B, *observation] of states x [B, *shape], which a foreign operator gets a copy of.

    TypeError where it returns no floating tensor, ValueError where it returns another number of rows.
    """
    found = operator(x if is_ours(operator) else x.clone())
    if not isinstance(found, Tensor):
        raise TypeError(
            f"an operator must return a tensor, {name_of(operator)} returned {_kind(found)}"
        )
    if found.dim() == 0 or found.shape[0] != x.shape[0]:
        raise ValueError(
            f"an operator must return one measurement for each row of x, [{x.shape[0]}, …]: "
            f"{name_of(operator)} returned {[*found.shape]}"
        )
    _check_floating("an operator", operator, found)
    _check_device(operator, found, x)
    return found


def call_reward(reward: Any, x: Tensor, name: str = "reward") -> Tensor:
    """Return one number for each row, [B], of a function of states x [B, *shape], which may change its own copy.

    name: what errors call the function. Counts and bools are numbers too. TypeError where it returns no tensor of
    real numbers, ValueError where it returns one of another shape.
    """
    if is_ours(reward):
        return _check_numbers(name, reward, reward(x), x)
    return _check_numbers(name, reward, reward(x.clone()), x).clone()


def check_denoised(model: Any, found: Any, x: Tensor) -> Tensor:
    """Return what a denoiser returned, in the dtype of x, if it is a floating tensor like x."""
    if not isinstance(found, Tensor):
        raise TypeError(
            f"a denoiser must return a tensor, {name_of(model)} returned {_kind(found)}: pass a function that "
            f"takes the tensor out of it, such as {_cure(found)}"
        )
    _check_floating("a denoiser", model, found)
    if found.shape != x.shape:
        raise ValueError(
            f"a denoiser must return the denoised states, {[*x.shape]} like x: {name_of(model)} returned "
            f"{[*found.shape]}"
        )
    _check_device(model, found, x)
    return found.to(x.dtype)


def check_energy(model: Any, found: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `energy_and_score` returned, if it is a pair of floating tensors [B] and like x."""
    pair = found if isinstance(found, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise TypeError(
            f"energy_and_score must return two tensors, (energy [B], score like x): {name_of(model)} returned "
            f"{_kind(found)}"
        )
    energy, score = pair
    if energy.shape != x.shape[:1] or score.shape != x.shape:
        raise ValueError(
            f"energy_and_score must return shapes {[*x.shape[:1]]} and {[*x.shape]}: {name_of(model)} returned "
            f"{[*energy.shape]} and {[*score.shape]}"
        )
    for part in pair:
        _check_floating("energy_and_score", model, part)
        _check_device(model, part, x)
    return energy, score


def name_of(model: Any) -> str:
    """Return what an error calls a model: the name of a function, or else of the class."""
    name = getattr(model, "__qualname__", None)
    return name if isinstance(name, str) else type(model).__name__


@contextlib.contextmanager
def _calling(model: Any, x: Tensor, condition: dict[str, Any]) -> Iterator[None]:
    """Within, an error of a model's call is raised in words that name the model and what it accepts."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        better = explained(error, model, x, condition)
        if better is error:
            raise
        raise better from error


def _check_numbers(what: str, model: Any, found: Any, x: Tensor) -> Tensor:
    if not isinstance(found, Tensor):
        raise TypeError(
            f"{_article(what)} must return a tensor [B] with one number for each row of x, {name_of(model)} "
            f"returned {_kind(found)}"
        )
    if found.shape != x.shape[:1]:
        raise ValueError(
            f"{_article(what)} must return one number for each row of x, {[*x.shape[:1]]}: {name_of(model)} "
            f"returned {[*found.shape]}"
        )
    if found.is_complex():
        raise TypeError(
            f"{_article(what)} must return real numbers, {name_of(model)} returned {found.dtype}"
        )
    _check_device(model, found, x)
    return found


def _check_floating(what: str, model: Any, found: Tensor) -> None:
    if not found.is_floating_point():
        raise TypeError(
            f"{what} must return floating-point numbers, {name_of(model)} returned {found.dtype}"
        )


def _check_device(model: Any, found: Tensor, x: Tensor) -> None:
    if found.device != x.device:
        raise ValueError(
            f"{name_of(model)} returned a tensor on {found.device} for states on {x.device}: move the model, or "
            "give its device"
        )


def _copies(condition: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) for name, value in condition.items()}


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _of_rows(found: Tensor, y: Tensor) -> str:
    """Return a shape with B for the rows of y: a batch may be padded to more rows than the caller gave."""
    sizes = [str(size) for size in found.shape]
    if sizes and found.shape[0] == y.shape[0]:
        sizes[0] = "B"
    return f"[{', '.join(sizes)}]"


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _cure(found: Any) -> str:
    if hasattr(found, "sample"):
        return "lambda x, sigma: model(x, sigma).sample"
    return "lambda x, sigma: model(x, sigma)[0]"


def _kind(found: Any) -> str:
    if isinstance(found, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in found)
        return f"a {type(found).__name__} of {len(found)} ({kinds})"
    return f"a {type(found).__name__}"
