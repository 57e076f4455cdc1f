"""Calls to models that are not ours, and the checks of what they return.

The protocol is one and the same from every entry point:

denoiser   model(x [B, *shape], sigma [B], **condition) -> x0 like x
energy     model.energy_and_score(x [B, *shape], sigma, **condition) -> (U [B], S like x)

A foreign denoiser always receives one noise level per sample, as the wrappers of k-diffusion and diffusers do.
An energy receives the level as the caller has it: a float, [] or [B]. Foreign models work on a copy of the states,
so that one that changes its input in place changes nothing else, and what an energy returns is copied, so that it
may use its buffers again. Our own models keep these promises without a copy.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edmfast.models.preconditioning import expand_sigma


def is_ours(model: Any) -> bool:
    """Return whether the class of a model is one of this package, which keeps the protocol by itself."""
    return type(model).__module__.partition(".")[0] == "edmfast"


def call_denoiser(model: Any, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
    """Return x0, like x in shape and dtype.

    x: [B, *shape]; sigma: a float, [] or [B]. TypeError where the model returns no tensor, ValueError where it
    returns a tensor of another shape.
    """
    if is_ours(model):
        return check_denoised(model, model(x, sigma, **condition), x)
    levels = expand_sigma(sigma, x).reshape(-1).contiguous()
    return check_denoised(model, model(x.clone(), levels, **condition), x)


def call_energy(
    model: Any, x: Tensor, sigma: float | Tensor, **condition: Any
) -> tuple[Tensor, Tensor]:
    """Return (U [B], S like x) of a model with `energy_and_score`.

    x: [B, *shape]; sigma: a float, [] or [B]. TypeError where the model does not return two tensors, ValueError
    where their shapes are others.
    """
    if is_ours(model):
        return check_energy(model, model.energy_and_score(x, sigma, **condition), x)
    found = model.energy_and_score(x.clone(), sigma, **condition)
    energy, score = check_energy(model, found, x)
    return energy.clone(), score.clone()


def check_denoised(model: Any, found: Any, x: Tensor) -> Tensor:
    """Return what a denoiser returned, in the dtype of x, if it is a tensor like x."""
    if not isinstance(found, Tensor):
        raise TypeError(
            f"a denoiser must return a tensor, {name_of(model)} returned a {type(found).__name__}: pass a "
            "function that takes the tensor out of it, such as lambda x, sigma: model(x, sigma)[0]"
        )
    if found.shape != x.shape or not found.is_floating_point():
        raise ValueError(
            f"a denoiser must return the denoised states, floating {[*x.shape]} like x: {name_of(model)} returned "
            f"{found.dtype} {[*found.shape]}"
        )
    return found.to(x.dtype)


def check_energy(model: Any, found: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `energy_and_score` returned, if it is a pair of tensors [B] and like x."""
    pair = found if isinstance(found, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise TypeError(
            f"energy_and_score must return two tensors, (energy [B], score like x): {name_of(model)} returned "
            f"{_kinds(found)}"
        )
    energy, score = pair
    if energy.shape != x.shape[:1] or score.shape != x.shape:
        raise ValueError(
            f"energy_and_score must return shapes {[*x.shape[:1]]} and {[*x.shape]}: {name_of(model)} returned "
            f"{[*energy.shape]} and {[*score.shape]}"
        )
    return energy, score


def name_of(model: Any) -> str:
    """Return what an error calls a model: the name of a function, or else of the class."""
    name = getattr(model, "__qualname__", None)
    return name if isinstance(name, str) else type(model).__name__


def _kinds(found: Any) -> str:
    if isinstance(found, (tuple, list)):
        return f"{len(found)} values ({', '.join(type(part).__name__ for part in found)})"
    return f"a {type(found).__name__}"
