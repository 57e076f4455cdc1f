"""A watch over the plain attributes of modules, whose values at the time of tracing are fixed in a graph.

A forward may read numbers, strings, flags, functions and small containers from its module, from its class, or from
the names around its class. `Attributes` remembers all of them and names the first that has changed. The check is
cheap, because nearly every value is still the same object, and only containers and objects are compared in depth.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

MOST_STATES = 4
"""The number of attribute states that get graphs. A model with more of them is called eagerly."""

_INTERNAL = frozenset(vars(nn.Module()))
_LEAVES: tuple[type, ...] = (
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type,
    types.FunctionType,
    torch.dtype,
)
_LEAVES += (types.BuiltinFunctionType, types.ModuleType, torch.device, property, staticmethod)
_MOST_ENTRIES, _DEEPEST = 64, 3
_MISSING = object()
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Place:
    """Some names of one dictionary, with the values they had when the place was made."""

    def __init__(
        self,
        name: str,
        values: Mapping[str, Any],
        names: list[str],
        kept: list[Any],
        versions: bool,
    ) -> None:
        self.name, self.values, self.size = name, values, len(values)
        self.versions = versions
        self.keys = [key for key in names if _is_leaf(values[key])]
        self.leaves = [values[key] for key in self.keys]
        # ids of immutable leaves suffice, while containers may change in place
        self.ids = [*map(id, self.leaves)]
        others = [key for key in names if not _is_leaf(values[key])]
        self.others = [(key, _mark(values[key], 0, kept, versions)) for key in others]

    def change(self) -> str | None:
        """Return the first name whose value has changed, None where all are as they were."""
        values = self.values
        # nearly always all values are the same objects, which one comparison of lists shows
        if [*map(id, map(values.get, self.keys))] != self.ids:
            for key, before in zip(self.keys, self.leaves, strict=True):
                current = values.get(key, _MISSING)
                if current is not before and not _same(current, before):
                    return f"{self.name}.{key}"
        for key, mark in self.others:
            if _mark(values.get(key, _MISSING), 0, None, self.versions) != mark:
                return f"{self.name}.{key}"
        return None


class _Members(_Place):
    """All plain attributes of a module, where a new attribute is a change too."""

    def change(self) -> str | None:
        """Return the first attribute that was changed, added or removed."""
        # a new attribute may change what the forward does, as a default in its class did before
        if len(self.values) != self.size:
            return f"{self.name} (an attribute was added or removed)"
        return super().change()


class Attributes:
    """The plain attributes of modules and of their classes, and the names that functions of these classes read.

    modules: modules, or other objects with attributes. functions: functions whose names are watched too. versions:
    False to watch which tensors there are, and not whether they change in place.
    """

    def __init__(
        self,
        modules: Iterable[Any],
        functions: Iterable[types.FunctionType] = (),
        versions: bool = True,
    ) -> None:
        self._versions = versions
        # ids are compared, so a replaced object is kept alive, lest its id pass to the new one
        self._kept: list[Any] = []
        self._read: set[types.FunctionType] = set()
        self._places: list[_Place] = []
        self._hooks: list[Any] = []
        classes: dict[type, None] = {}
        for module in modules:
            values = vars(module)
            names = [
                key
                for key in values
                if key not in _INTERNAL and not _is_of_this_package(values[key])
            ]
            self._add(_Members, type(module).__name__, values, names)
            self._hooks += [values[name] for name in _HOOKS if name in values]
            classes |= dict.fromkeys(type(module).__mro__[:-1])
            # a forward that was put on the instance reads names of its own
            if isinstance(values.get("forward"), types.FunctionType):
                self._add_names_of(values["forward"])
        # hooks of all modules run in every forward too
        self._hooks += [
            everywhere._global_forward_hooks,
            everywhere._global_forward_pre_hooks,
            everywhere._global_backward_hooks,
            everywhere._global_backward_pre_hooks,
        ]
        self._hooked = self._hook_ids()
        self._kept += [hook for hooks in self._hooks for hook in hooks.values()]
        for kind in classes:
            package = kind.__module__.partition(".")[0]
            names = [
                key
                for key in vars(kind)
                if key == "forward" or not (package == "torch" or key.startswith("__"))
            ]
            self._add(_Place, kind.__name__, vars(kind), names)
            # functions of torch and of this package do not read names that a program changes
            if package not in ("torch", "edmfast"):
                for value in vars(kind).values():
                    if isinstance(value, types.FunctionType):
                        self._add_names_of(value)

        for function in functions:
            self._add_names_of(function)
        # A watched function may be the model, which a watch must not keep alive.
        self._read.clear()

    def change(self) -> str | None:
        """Return the name of the first changed attribute, None where all are as they were."""
        for place in self._places:
            if name := place.change():
                return name
        return None if self._hook_ids() == self._hooked else "a hook"

    def _add(
        self,
        kind: Callable[..., _Place],
        name: str,
        values: Mapping[str, Any],
        names: list[str],
    ) -> None:
        self._places.append(kind(name, values, names, self._kept, self._versions))

    def _add_names_of(self, function: types.FunctionType) -> None:
        """Watch the names around a function that it reads: global ones, and those of an enclosing function.

        Functions of the same package that it names are followed as well.
        """
        if function in self._read:
            return
        self._read.add(function)
        # code that was run in a dictionary without a name has no module
        around, name = function.__globals__, function.__module__ or ""
        package = name.partition(".")[0]
        for key in function.__code__.co_names:
            value = around.get(key, _MISSING)
            # a helper of the program may read globals too, but those of libraries do not change
            is_function = isinstance(value, types.FunctionType)
            if is_function and str(value.__module__).partition(".")[0] == package:
                self._add_names_of(value)
        names = [
            key for key in function.__code__.co_names if _is_watched(around.get(key, _MISSING))
        ]
        self._add(_Place, name, around, names)
        for variable, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            # the cell of super() never changes
            if variable != "__class__":
                self._add(_Place, name, _Cell(cell, variable), [variable])

    def _hook_ids(self) -> list[int]:
        return [id(hook) for hooks in self._hooks if hooks for hook in hooks.values()]


def refuse_changed(before: Attributes) -> None:
    """Raise RuntimeError where a traced call has changed an attribute, which a run of the graph would not do."""
    if changed := before.change():
        raise RuntimeError(f"a call changes the attribute {changed}")


class _Cell(Mapping[str, Any]):
    """A variable of a closure, presented as a dictionary with one name."""

    def __init__(self, cell: types.CellType, name: str) -> None:
        self.cell, self.name = cell, name

    def __getitem__(self, key: str) -> Any:
        try:
            return self.cell.cell_contents
        except ValueError:  # the variable is not assigned yet
            return _MISSING

    def __iter__(self) -> Iterator[str]:
        return iter([self.name])

    def __len__(self) -> int:
        return 1


def _is_watched(value: Any) -> bool:
    """Return whether a global name is watched: plain values are, and small containers, which may change."""
    if type(value) in (dict, list, set):
        return len(value) <= _MOST_ENTRIES
    return _is_leaf(value)


def _is_leaf(value: Any) -> bool:
    if type(value) is tuple:
        return len(value) <= _MOST_ENTRIES and all(map(_is_leaf, value))
    return isinstance(value, _LEAVES)


def _is_of_this_package(value: Any) -> bool:
    """Return whether a value is internal to this package, such as the graphs of a compiled model."""
    kind = type(value)
    return kind.__module__.partition(".")[0] == "edmfast" and not isinstance(value, nn.Module)


def _same(current: Any, before: Any) -> bool:
    if type(current) is not type(before) or isinstance(current, types.FunctionType):
        return False
    # NaN differs from itself, but is unchanged where both values are NaN
    return bool(current == before) or (current != current and before != before)


def _mark(value: Any, depth: int, kept: list[Any] | None, versions: bool) -> Any:
    """Return a value to compare, which differs after a change. Objects that are compared by id are kept alive."""
    if _is_leaf(value):
        return type(value), value
    if kept is not None:
        kept.append(value)
    # a tensor counts its changes in place, so that its numbers need not be compared
    if isinstance(value, Tensor):
        counted = versions and not value.is_inference()
        return id(value), value._version if counted else None
    deeper = depth + 1
    if depth < _DEEPEST and isinstance(value, (list, tuple, set, frozenset)):
        if len(value) <= _MOST_ENTRIES:
            return type(value), [_mark(part, deeper, kept, versions) for part in value]
    elif depth < _DEEPEST and isinstance(value, dict):
        if len(value) <= _MOST_ENTRIES:
            return type(value), [
                (key, _mark(part, deeper, kept, versions)) for key, part in value.items()
            ]
    elif depth < _DEEPEST - 1 and hasattr(value, "__dict__") and not _is_of_this_package(value):
        members = vars(value)
        if len(members) <= _MOST_ENTRIES:
            return id(value), [
                (key, _mark(part, deeper, kept, versions)) for key, part in members.items()
            ]
    # small arrays are compared by their bytes, large ones by identity only
    elif getattr(value, "nbytes", _MOST_ENTRIES + 1) <= 8 * _MOST_ENTRIES:
        return id(value), value.tobytes() if hasattr(value, "tobytes") else None
    return id(value)
