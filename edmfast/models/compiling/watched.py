"""A watch over everything of a model that a compiled graph holds as constant: its weights and plain attributes.

A model may be a module, a function, a `functools.partial`, a method or another callable object. `parts_of` finds
the modules, functions and objects that it reaches through attributes, containers, closures and the global names
that its functions read.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from edmfast.models.compiling.attributes import Attributes

_DEEPEST, _MOST, _LONGEST = 6, 5000, 64
"""The depth of the search, the number of values that it looks at, and the length of containers that it enters."""

_LIBRARIES = ("torch", "numpy", "builtins", "functools")


class Parts:
    """The parts of a model: its modules, functions, and other objects with attributes."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.functions: list[types.FunctionType] = []
        self.objects: list[Any] = []
        self._seen: dict[int, Any] = {}

    def add(self, value: Any, depth: int = 0) -> None:
        """Add a value and what it reaches."""
        if id(value) in self._seen or depth > _DEEPEST or len(self._seen) > _MOST:
            return
        self._seen[id(value)] = value
        for inner in self._sort(value):
            self.add(inner, depth + 1)

    def _sort(self, value: Any) -> Iterable[Any]:
        """Put a value into its list, and return the values inside it."""
        if isinstance(value, nn.Module):
            self.modules.append(value)
            return [part for member in value.modules() for part in vars(member).values()]
        if isinstance(value, functools.partial):
            return [value.func, *value.args, *value.keywords.values()]
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, types.FunctionType):
            if _package(value.__module__) in (*_LIBRARIES, "edmfast"):
                return []
            self.functions.append(value)
            around = [value.__globals__.get(name) for name in value.__code__.co_names]
            names = [v for v in around if isinstance(v, (nn.Module, types.FunctionType))]
            cells = [_content(cell) for cell in value.__closure__ or ()]
            return [*names, *cells, *(value.__defaults__ or ())]
        if isinstance(value, dict):
            return [*value.values()] if len(value) <= _LONGEST else []
        if isinstance(value, (list, tuple, set)):
            return [*value] if len(value) <= _LONGEST else []
        plain = isinstance(value, (Tensor, type, types.ModuleType))
        if (
            plain
            or _package(type(value).__module__) in _LIBRARIES
            or not hasattr(value, "__dict__")
        ):
            return []
        self.objects.append(value)
        return [*vars(value).values()]


def parts_of(model: Any) -> Parts:
    """Return the parts that a model reaches, itself included."""
    parts = Parts()
    parts.add(model)
    return parts


class Watched:
    """The plain attributes and the weights of modules, and of all modules inside them.

    functions, objects: further parts of a model, of which the plain values that they read are watched.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        functions: Iterable[types.FunctionType] = (),
        objects: Iterable[Any] = (),
    ) -> None:
        members = [*{id(m): m for module in modules for m in module.modules()}.values()]
        self.attributes = Attributes([*members, *objects], functions)
        # The dictionaries of a module are held and not the module, so that a watch does not keep its model alive.
        self._places = [
            place
            for member in members
            for place in (member._parameters, member._buffers, member._modules)
        ]
        # What is there now is kept, lest its id pass to what replaces it.
        self._kept = [[*place.values()] for place in self._places]
        self.state = self._state()

    def change(self) -> str | None:
        """Return a name for what has changed since the start, None where nothing has."""
        if self._state() != self.state:
            return "a parameter, buffer or submodule"
        attribute = self.attributes.change()
        return None if attribute is None else f"the attribute {attribute}"

    def _state(self) -> list[tuple[int, int, int]]:
        """Return numbers that change when a tensor or a module is replaced, or a tensor changes in place."""
        return [_marks(value) for place in self._places for value in place.values()]


def _marks(value: Tensor | nn.Module | None) -> tuple[int, int, int]:
    # Tensors of inference mode count no versions.
    if not isinstance(value, Tensor) or value.is_inference():
        return id(value), 0, 0
    # A change in place raises the version, and new data has another address.
    return id(value), value.data_ptr(), value._version


def _package(module: str | None) -> str:
    return str(module).partition(".")[0]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable without a value yet
        return None


def modules_in(value: Any) -> Iterator[nn.Module]:
    """Yield the modules in a value, also those inside lists, tuples and dictionaries."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from modules_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from modules_in(part)
