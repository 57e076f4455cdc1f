"""A watch over everything of a model that a compiled graph holds as constant: its weights and plain attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from edmfast.models.compiling.attributes import Attributes


class Watched:
    """The plain attributes, weights and buffers of modules, and of all modules inside them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        members = {id(m): m for module in modules for m in module.modules()}
        self.attributes = Attributes(members.values())
        # These are the dictionaries of the modules and not the modules, which the watch does not keep alive.
        self.places: list[dict[str, Any]] = [
            place
            for module in members.values()
            for place in (module._parameters, module._buffers, module._modules)
        ]
        # They are kept, so that the identity of one that was replaced cannot pass to another.
        self.held = self._members()
        self.tensors = [
            tensor
            for tensor in self.held
            # Tensors of inference mode count no versions.
            if isinstance(tensor, Tensor) and not tensor.is_inference()
        ]
        self.versions = self._versions()

    def change(self) -> str | None:
        """Return a name for what has changed since the start, None where nothing has."""
        if [*map(id, self._members())] != [*map(id, self.held)]:
            return "a parameter, buffer or submodule"
        if self._versions() != self.versions:
            return "a parameter or buffer"
        attribute = self.attributes.change()
        return None if attribute is None else f"the attribute {attribute}"

    def _members(self) -> list[Any]:
        return [member for place in self.places for member in place.values()]

    def _versions(self) -> list[tuple[int, int]]:
        # A change in place raises the version, and new memory (`tensor.data = ...`) has another address.
        return [(tensor.data_ptr(), tensor._version) for tensor in self.tensors]


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
