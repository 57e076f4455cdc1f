"""The exact list of names that a pickle of a network may hold, and what the reader does in their place.

Objects of torch and NumPy become tensors, arrays and numbers. Instances of persistent classes, and of the modules
of torch, become a `Record` of class name and state. Dictionaries of other kinds become plain ones.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch

from edmfast.teachers.pickles import arrays
from edmfast.teachers.pickles.budget import Budget
from edmfast.teachers.pickles.errors import UnsafePickleError
from edmfast.teachers.pickles.machine import Meanings
from edmfast.teachers.pickles.stand_ins import Name, Record, printable
from edmfast.teachers.pickles.storages import load_storage, rebuild_parameter, rebuild_tensor

_MODULE_OF_TORCH = re.compile(r"torch\.nn\.modules\.[a-z_]+")
_BYTES_OF_AN_ELEMENT = 64
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")
_DICTIONARIES = {Name("collections", "OrderedDict"), Name("dnnlib.util", "EasyDict")}
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


def _persistent_object(meta: Any) -> Record:
    """Return the record of a persistent object, whose class stands in the file as source text: it is dropped."""
    if type(meta) is not dict or meta.get("type") != "class":
        raise UnsafePickleError("the pickle has a persistent object that is not of the type class")
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or type(state) is not dict:
        raise UnsafePickleError(
            "the pickle has a persistent object without a class name or a state"
        )
    return Record(name, state, persistent=True)


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise UnsafePickleError("the pickle makes a dictionary from arguments, which is not read")
    return {}


def _same(value: Any = ()) -> Any:
    """Return the argument: a size as its tuple."""
    return value


def _first(value: Any, *_: Any) -> Any:
    """Return the first argument: the kind of a device without its number."""
    return value


def _set(budget: Budget, items: Any = ()) -> set[Any]:
    """Return a set of strings, which older protocols write as a list."""
    if type(items) not in (list, tuple):
        raise UnsafePickleError("the pickle makes a set of something that is no list")
    budget.spend(_BYTES_OF_AN_ELEMENT * len(items))
    if not all(type(item) is str for item in items):
        raise UnsafePickleError(
            "the pickle has a set of other things than strings, which is not read"
        )
    return set(items)


def _bytes(budget: Budget, text: Any = "", encoding: Any = "latin1") -> memoryview:
    """Return bytes, which protocol 2 writes as text."""
    if type(text) is not str or encoding != "latin1":
        raise UnsafePickleError("the pickle has encoded text of an unknown form")
    budget.spend(len(text))
    return memoryview(text.encode("latin1"))


def _no_bytes() -> memoryview:
    return memoryview(b"")


_CALLS: dict[Name, Callable[..., Any]] = {
    Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
    Name("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    Name("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    Name("torch", "Size"): _same,
    Name("torch", "device"): _first,
    Name("collections", "OrderedDict"): _dictionary,
    Name("numpy.core.multiarray", "_reconstruct"): arrays.make_array,
    Name("numpy._core.multiarray", "_reconstruct"): arrays.make_array,
    Name("numpy.core.multiarray", "scalar"): arrays.make_number,
    Name("numpy._core.multiarray", "scalar"): arrays.make_number,
    Name("numpy", "dtype"): arrays.make_dtype,
    Name("__builtin__", "bytes"): _no_bytes,
}
_COPIES: dict[Name, Callable[..., Any]] = {
    Name("torch.storage", "_load_from_bytes"): lambda budget, data: load_storage(data, budget),
    Name("builtins", "set"): _set,
    Name("builtins", "frozenset"): _set,
    Name("__builtin__", "set"): _set,
    Name("__builtin__", "frozenset"): _set,
    Name("_codecs", "encode"): _bytes,
    Name("numpy.core.numeric", "_frombuffer"): arrays.array_of_bytes,
    Name("numpy._core.numeric", "_frombuffer"): arrays.array_of_bytes,
}
"""Calls that copy their arguments, for which a budget pays."""
_VALUES = {Name("torch", name): getattr(torch, name) for name in _DTYPES}


def _made(name: Name) -> Callable[[], Any] | None:
    """Return the function that makes an instance of a class without arguments, or None for other names."""
    if name in _DICTIONARIES:
        return dict
    if _MODULE_OF_TORCH.fullmatch(name.module) and _CLASS.fullmatch(name.attribute):
        return lambda: Record(name.attribute, {})
    return None


def _build(target: Any, state: Any, budget: Budget) -> None:
    if isinstance(target, (arrays.Dtype, arrays.Array)):
        arrays.give_state(target, state, budget)
    elif type(target) is Record and not target.persistent and not target.state:
        if type(state) is not dict:
            raise UnsafePickleError(
                f"the pickle gives a {printable(target.class_name)} a state that is no dictionary"
            )
        target.state = state
    # ordered dictionaries of states have attributes, which say nothing about the numbers
    elif type(target) is not dict:
        raise UnsafePickleError(f"the pickle gives a state to a {type(target).__name__}")


def meanings_of_networks(length: int) -> Meanings:
    """Return the meanings of the names in a pickle of networks of `length` bytes."""
    budget = Budget(length)
    copies = {name: functools.partial(call, budget) for name, call in _COPIES.items()}
    build = functools.partial(_build, budget=budget)
    return Meanings({**_CALLS, **copies}, _made, _VALUES, frozenset({arrays.ARRAY}), build)
