"""The methods of an energy as flat compiled graphs, for inference.

Padding is done outside of the graphs, noise levels are tensors in them, and weights are arguments: neither
another batch of the same padded size, nor another noise level, nor new weights compile anything. Nothing in
a graph waits for the device; on a GPU it may be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edmfast.models.flat import Flat, Tensors
from edmfast.models.rows import pad_rows, unpadded


class _Method(nn.Module):
    """A method of a model as the forward of a module, which functional_call asks for."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.model, self.name)(*args, **kwargs)


Slot = tuple[str, dict[str, Any], str]


def _slots(model: nn.Module) -> list[Slot]:
    """(name, dictionary, key) of every parameter and buffer: a walk over the modules at every call would
    cost as much as a small network."""
    found: dict[int, Slot] = {}
    for prefix, module in model.named_modules():
        for place in (module._parameters, module._buffers):
            for key, tensor in place.items():
                if tensor is not None:
                    name = f"{prefix}.{key}" if prefix else key
                    found.setdefault(id(tensor), (name, place, key))
    return [*found.values()]


class CompiledMethods:
    """Called with the name of a method of the model and its arguments; a graph for each, made at its first
    call. mode: of torch.compile, on a GPU only."""

    def __init__(self, model: nn.Module, mode: str | None) -> None:
        self.model, self.mode = model, mode
        self.flats: dict[Hashable, Flat] = {}
        self.modules = [*model.modules()]
        self.slots = _slots(model)

    def __call__(
        self, name: str, x: Tensor, levels: Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """x [B, *shape], levels [B, 1, ...] or [1, 1, ...] -> what the method returns, as a tuple."""
        batch = x.shape[0]
        x, levels, condition = pad_rows(x, levels, condition)
        tensors = {k: v for k, v in condition.items() if isinstance(v, Tensor)}
        rest = {k: v for k, v in condition.items() if k not in tensors}
        key = name, tuple(tensors), tuple(sorted(rest.items()))
        if key not in self.flats:
            self.flats[key] = self._flat(name, tuple(tensors), rest)
        training = tuple(module.training for module in self.modules)
        with torch.no_grad():
            fixed = [place[entry].detach() for _, place, entry in self.slots]
            found = self.flats[key](fixed, [x, levels, *tensors.values()], training)
        return tuple(tensor[:batch] for tensor in found)

    def _flat(self, name: str, tensors: tuple[str, ...], rest: dict[str, Any]) -> Flat:
        method = _Method(self.model, name)
        names = [f"model.{name}" for name, _, _ in self.slots]

        def call(fixed: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
            x, levels, *given = inputs
            condition = dict(zip(tensors, given, strict=True)) | rest
            named = dict(zip(names, fixed, strict=True))
            with torch.no_grad(), unpadded():
                found = functional_call(method, named, (x, levels, condition))
            return found if isinstance(found, tuple) else (found,)

        return Flat(call, otherwise="the model is called eagerly", mode=self.mode)
