"""Checks of what models return, with errors that name the model, what it returned and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edmfast.models.calling.origin import name_of


def check_denoised(model: Any, returned: Any, x: Tensor) -> Tensor:
    """Return the result of a denoiser in the dtype of x.

    Raises TypeError unless it is a floating tensor, and ValueError unless it has the shape and device of x.
    """
    if not isinstance(returned, Tensor):
        raise TypeError(
            f"a denoiser must return a tensor, {name_of(model)} returned {_kind(returned)}: pass a function that "
            f"takes the tensor out of it, such as {_unwrapping(returned)}"
        )
    _check_floating("a denoiser", model, returned)
    if returned.shape != x.shape:
        raise ValueError(
            f"a denoiser must return the denoised states, {[*x.shape]} like x: {name_of(model)} returned "
            f"{[*returned.shape]}"
        )
    _check_device(model, returned, x)
    # under autocast a denoiser may return half precision, but samplers go on in the dtype of x
    return returned.to(x.dtype)


def check_energy_and_score(model: Any, returned: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result of `energy_and_score` as a pair (U [B], S like x).

    Raises TypeError unless it is a pair of floating tensors, and ValueError for other shapes or devices.
    """
    pair = returned if isinstance(returned, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise TypeError(
            f"energy_and_score must return two tensors, (energy [B], score like x): {name_of(model)} returned "
            f"{_kind(returned)}"
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


def check_energy(model: Any, returned: Any, x: Tensor) -> Tensor:
    """Return the result of a model's `energy`, [B]. Raises TypeError or ValueError unless it is such a tensor."""
    energy = check_row_numbers("energy", model, returned, x)
    _check_floating("an energy", model, energy)
    return energy


def check_row_numbers(what: str, model: Any, returned: Any, x: Tensor) -> Tensor:
    """Return a result that must hold one real number per row of x, [B]. what: a noun for the function in errors.

    Counts and bools are numbers too. Raises TypeError unless it is a tensor of real numbers, and ValueError for
    another shape or device.
    """
    function = _with_article(what)
    if not isinstance(returned, Tensor):
        raise TypeError(
            f"{function} must return a tensor [B] with one number for each row of x, {name_of(model)} "
            f"returned {_kind(returned)}"
        )
    if returned.shape != x.shape[:1]:
        raise ValueError(
            f"{function} must return one number for each row of x, {[*x.shape[:1]]}: {name_of(model)} "
            f"returned {[*returned.shape]}"
        )
    if returned.is_complex():
        raise TypeError(
            f"{function} must return real numbers, {name_of(model)} returned {returned.dtype}"
        )
    _check_device(model, returned, x)
    return returned


def check_backbone_output(
    backbone: Any, returned: Any, y: Tensor, noun: str = "the backbone", heads: int = 1
) -> Tensor:
    """Return the result of a backbone, like y with `heads` times as many numbers on axis 1.

    noun: the name of the network in errors. Raises TypeError unless it is a floating tensor, and ValueError for
    another shape.
    """
    if not isinstance(returned, Tensor):
        raise TypeError(
            f"{noun} must return a tensor like its input, {name_of(backbone)} returned {_kind(returned)}: "
            "wrap it in a module that takes the tensor out of it"
        )
    if returned.shape != (y.shape[0], heads * y.shape[1], *y.shape[2:]):
        like = "like its input"
        if heads > 1:
            like = f"for an input {_shape_of(y.shape, y)}, {heads} heads side by side on axis 1"
        accepted = y.shape[0], heads * y.shape[1], *y.shape[2:]
        raise ValueError(
            f"{noun} must return {_shape_of(accepted, y)} {like}: {name_of(backbone)} returned "
            f"{_shape_of(returned.shape, y)}"
        )
    _check_floating(noun, backbone, returned)
    return returned


def check_measurement(operator: Any, returned: Any, x: Tensor) -> Tensor:
    """Return the result of a measurement operator, [B, *observation].

    Raises TypeError unless it is a floating tensor, and ValueError for another number of rows or another device.
    """
    if not isinstance(returned, Tensor):
        raise TypeError(
            f"an operator must return a tensor, {name_of(operator)} returned {_kind(returned)}"
        )
    if returned.dim() == 0 or returned.shape[0] != x.shape[0]:
        raise ValueError(
            f"an operator must return one measurement for each row of x, [{x.shape[0]}, …]: "
            f"{name_of(operator)} returned {[*returned.shape]}"
        )
    _check_floating("an operator", operator, returned)
    _check_device(operator, returned, x)
    return returned


def _check_floating(what: str, model: Any, returned: Tensor) -> None:
    if not returned.is_floating_point():
        raise TypeError(
            f"{what} must return floating-point numbers, {name_of(model)} returned {returned.dtype}"
        )


def _check_device(model: Any, returned: Tensor, x: Tensor) -> None:
    if returned.device != x.device:
        raise ValueError(
            f"{name_of(model)} returned a tensor on {returned.device} for states on {x.device}: move the model to "
            "the device of the states, or pass its device"
        )


def _shape_of(shape: Sequence[int], y: Tensor) -> str:
    """Return a shape for an error, with B for the rows of y: they may have been padded beyond the caller's."""
    sizes = [str(size) for size in shape]
    if sizes and shape[0] == y.shape[0]:
        sizes[0] = "B"
    return f"[{', '.join(sizes)}]"


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _unwrapping(returned: Any) -> str:
    if hasattr(returned, "sample"):
        return "lambda x, sigma: model(x, sigma).sample"
    return "lambda x, sigma: model(x, sigma)[0]"


def _kind(returned: Any) -> str:
    if isinstance(returned, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in returned)
        return f"a {type(returned).__name__} of {len(returned)} ({kinds})"
    return f"a {type(returned).__name__}"
