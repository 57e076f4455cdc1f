"""Conversion of numbers at the boundary of the package, so that the code inside never meets a NumPy scalar or
tensor.

A public function accepts a Python number, a NumPy scalar, or a tensor or array without dimensions, and calls one
of these functions once. Inside, an int is an int and a float is a float: both can be written as JSON, hashed, and
compared without waiting for a device.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from typing import Any

import torch

_LOWEST_SEED, _HIGHEST_SEED = -(2**63), 2**64 - 1


def as_int(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """Return value as an int.

    name: the name of the argument in error messages. least, most: the accepted range, ends included.
    Raises TypeError for a bool, a float, a string or a tensor with dimensions; ValueError outside the range.
    """
    # The common case comes first, because a call on a small population is mostly such overhead.
    if type(value) is int:
        number: int | None = value
    else:
        number = None if _is_bool(value) or _has_dimensions(value) else _as_index(value)
    if number is None:
        raise TypeError(f"{name} must be an integer, got {_described(value)}")
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name} must be an integer {_range_text(least, most)}, got {number}")
    return number


def as_bool(name: str, value: Any) -> bool:
    """Return value as a bool. Raises TypeError for anything but a bool or a NumPy bool.

    name: the name of the argument in error messages.
    """
    if not _is_bool(value) or _has_dimensions(value):
        raise TypeError(f"{name} must be True or False, got {_described(value)}")
    return bool(value)


def as_float(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    positive: bool = False,
    finite: bool = True,
) -> float:
    """Return value as a float.

    name: the name of the argument in error messages. least, most: the accepted range, ends included.
    positive: refuse 0 too. finite: refuse infinities. NaN is always refused.
    Raises TypeError for a bool, a string, a complex number or a tensor with dimensions; ValueError outside the
    range.
    """
    if type(value) is float:
        number: float | None = value
    else:
        number = None if _is_bool(value) or _has_dimensions(value) else _as_real(value)
    if number is None:
        raise TypeError(f"{name} must be a real number, got {_described(value)}")
    fits = not math.isnan(number) and (not finite or math.isfinite(number))
    fits = fits and (least is None or number >= least) and (most is None or number <= most)
    if not fits or (positive and number <= 0):
        words = [word for word, applies in (("positive", positive), ("finite", finite)) if applies]
        words += [word for word in (_range_text(least, most).removeprefix("of "),) if word]
        accepted = " and ".join(words)
        raise ValueError(f"{name} must be {accepted or 'a number'}, got {number}")
    return number


def as_seed(value: Any, name: str = "seed") -> int:
    """Return value as an int that fits 64 bits, signed or unsigned. -1 is the same seed as 2^64 - 1.

    Raises TypeError for anything but an integer, ValueError for an integer that does not fit.
    """
    number = as_int(name, value)
    if not _LOWEST_SEED <= number <= _HIGHEST_SEED:
        raise ValueError(f"{name} must fit 64 bits, got {number}")
    return number


def as_shape(name: str, value: Any) -> tuple[int, ...]:
    """Return the shape of one sample as a tuple of positive ints, from a sequence or a tensor of integers.

    Raises TypeError for anything else, including a single number; ValueError for a shape that is empty or has
    sizes below 1.
    """
    if _is_array(value) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        number = _as_index(value)
        advice = "" if number is None else f": write ({number},)"
        raise TypeError(f"{name} must be a sequence of integers, got {_described(value)}{advice}")
    if not value:
        raise ValueError(f"{name} must hold at least one size, got {tuple(value)}")
    return tuple(as_int(f"{name}[{i}]", size, least=1) for i, size in enumerate(value))


def as_range(name: str, value: Any) -> tuple[float, float]:
    """Return a pair (lo, hi) of numbers with 0 <= lo < hi, where hi may be infinite.

    Raises TypeError or ValueError for anything else.
    """
    low, high = (as_float(name, bound, finite=False) for bound in as_pair(name, value))
    if not 0 <= low < high:
        raise ValueError(f"{name} must be (lo, hi) with 0 <= lo < hi, got {(low, high)}")
    return low, high


def as_numbers(name: str, value: Any, *, finite: bool = True) -> torch.Tensor:
    """Return a number, sequence, array or tensor of real numbers as a detached float64 tensor.

    finite: refuse infinities. NaN is always refused. Raises TypeError for anything that is not a real number,
    including bools; ValueError for numbers out of range and for rows of unequal length.
    """
    # Nested lists are checked number by number, because torch would take a bool for a number.
    if not isinstance(value, torch.Tensor):
        value = _nested(name, value, finite)
    if _is_bool(value) or _is_complex(value):
        raise TypeError(f"{name} must be real numbers, got {value.dtype}")
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64)
    except ValueError as error:
        raise ValueError(f"{name} must have rows of one length, got {_described(value)}") from error
    if not bool((numbers.isfinite() if finite else ~numbers.isnan()).all()):
        raise ValueError(
            f"{name} must be {'finite' if finite else 'no NaN'}, got {_described(value)}"
        )
    return numbers.detach()


def _nested(name: str, value: Any, finite: bool) -> Any:
    """Return lists of floats with the structure of value."""
    if _has_dimensions(value):
        if _is_bool(value) or _is_complex(value):
            raise TypeError(f"{name} must be real numbers, got {value.dtype}")
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_nested(name, part, finite) for part in value]
    return as_float(name, value, finite=finite)


def as_pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return the two entries of a sequence, tensor or array. Raises TypeError or ValueError for anything else."""
    if _is_array(value) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a pair of numbers, got {_described(value)}")
    if len(value) != 2:
        raise ValueError(f"{name} must be a pair of numbers, got {len(value)}")
    return value[0], value[1]


def _as_index(value: Any) -> int | None:
    """Return value as an int, or None where it is no integer."""
    try:
        return operator.index(value)
    except (TypeError, RuntimeError, ValueError):
        return None


def _as_real(value: Any) -> float | None:
    """Return value as a float, or None where it is no real number."""
    # float() would parse a string, and drop the imaginary part of a NumPy number with a warning
    # only.
    if isinstance(value, (str, bytes)) or _is_complex(value):
        return None
    try:
        return float(value)
    except (TypeError, RuntimeError, ValueError, OverflowError):
        return None


def _is_bool(value: Any) -> bool:
    # The dtype is compared by name, which serves torch and NumPy without importing NumPy.
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or "complex" in str(getattr(value, "dtype", ""))


def _has_dimensions(value: Any) -> bool:
    return _is_array(value) and value.ndim > 0


def _is_array(value: Any) -> bool:
    """Return True for a tensor or a NumPy array.

    NumPy is not imported here: if NumPy was never imported, no value can be an array.
    """
    if isinstance(value, torch.Tensor):
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _range_text(least: float | None, most: float | None) -> str:
    """Return the accepted range in words, or "" where there are no bounds."""
    if least is not None and most is not None:
        return f"from {least:g} to {most:g}" if most < 1e6 else f"from {least} to {most}"
    if least is not None:
        return f"of at least {least:g}"
    return "" if most is None else f"of at most {most:g}"


def _described(value: Any) -> str:
    if _has_dimensions(value):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__name__})"
