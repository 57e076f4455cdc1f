"""NumPy's arrays and numbers in a pickle, made from their bytes: real, integer and boolean numbers only."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from edmfast.teachers.pickles.budget import Budget
from edmfast.teachers.pickles.errors import DamagedPickleError, UnsafePickleError
from edmfast.teachers.pickles.stand_ins import Name

_CODE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
_ORDERS = {"<": "<", ">": ">", "|": "|", "=": "="}
_MOST_DIMENSIONS = 32
ARRAY = Name("numpy", "ndarray")


class Dtype:
    """A dtype by its code, such as f4, and its byte order."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"

    def value(self) -> np.dtype[Any]:
        """Return NumPy's own object."""
        return np.dtype(self.order + self.code)


class Array:
    """An array, which is empty before it gets its state."""

    def __init__(self) -> None:
        self.value: np.ndarray[Any, Any] = np.zeros(0)


def make_dtype(code: Any, *_: Any) -> Dtype:
    """Return the dtype of a code. Raises UnsafePickleError for objects, texts, records and dates."""
    if type(code) is not str or not _CODE.fullmatch(code):
        raise UnsafePickleError(
            "the pickle has a NumPy dtype other than numbers, which is not read"
        )
    return Dtype(code)


def make_array(kind: Any, *_: Any) -> Array:
    """Return an empty array, whose state follows."""
    if kind != ARRAY:
        raise UnsafePickleError("the pickle has a subclass of numpy.ndarray, which is not read")
    return Array()


def array_of_bytes(budget: Budget, raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Return an array as protocol 5 writes it, with its bytes and shape as arguments."""
    array = Array()
    give_state(array, (1, shape, dtype, order == "F", raw), budget)
    return array


def make_number(dtype: Any, raw: Any) -> Any:
    """Return a number of NumPy as a number of Python."""
    if type(dtype) is not Dtype:
        raise UnsafePickleError("the pickle has a NumPy number without a dtype")
    return _numbers(raw, dtype, 1)[0].item()


def give_state(target: Dtype | Array, state: Any, budget: Budget) -> None:
    """Complete a dtype by its byte order, or an array by (version, shape, dtype, Fortran order, bytes).

    budget: pays for the bytes of an array.
    """
    if type(state) is not tuple:
        raise DamagedPickleError("the state of a NumPy object is no tuple")
    if isinstance(target, Dtype):
        if (
            len(state) < 5
            or state[1] not in _ORDERS
            or any(part is not None for part in state[2:5])
        ):
            raise UnsafePickleError("the pickle has a NumPy dtype with fields, which is not read")
        target.order = _ORDERS[state[1]]
        return
    _, shape, dtype, fortran, raw = state
    few = isinstance(shape, tuple) and len(shape) <= _MOST_DIMENSIONS
    sizes = few and all(type(n) is int and 0 <= n < 2**48 for n in shape)
    if type(dtype) is not Dtype or not sizes:
        raise DamagedPickleError("the pickle has a NumPy array without a shape or a dtype")
    count = 1
    for length in shape:
        count *= length
    numbers = _numbers(raw, dtype, count)
    budget.spend(numbers.nbytes)
    target.value = numbers.reshape(shape, order="F" if fortran is True else "C").copy()


def _numbers(raw: Any, dtype: Dtype, count: int) -> np.ndarray[Any, Any]:
    kind = dtype.value()
    # an array of objects has a list in the place of bytes
    if type(raw) is not memoryview:
        raise UnsafePickleError("the pickle has a NumPy array that is not made of bytes")
    if len(raw) != count * kind.itemsize:
        raise DamagedPickleError(f"a NumPy array of {count} numbers has {len(raw)} bytes")
    return np.frombuffer(raw, dtype=kind)
