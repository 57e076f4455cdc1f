"""The methods of an energy as flat compiled graphs, for inference.

Padding is done outside of the graphs, noise levels are tensors in them, and weights are arguments: neither
another batch of the same padded size, nor another noise level, nor new weights compile anything. Replaced
modules, tied weights, hooks and plain attributes (see `edmfast.models.compiling.attributes`) are noticed and
compiled anew;
graphs of attributes that come back are used again. A model whose attributes take more values than that is called
eagerly, after one warning that names one of them, and so is one whose calls change an attribute. Nothing in a
graph waits for the device; on a GPU it may be captured as a CUDA graph.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edmfast._internal.nested import tensors_in
from edmfast._internal.rows import pad_rows, shared_names, unpadded
from edmfast.models.compiling.attributes import MOST_STATES, Attributes, refuse_changed
from edmfast.models.compiling.flat_graph import FlatGraph, Tensors

Method = Callable[[Any, Tensor, Tensor, dict[str, Any]], tuple[Tensor, ...]]
"""A method of the model's class, called as method(model, x, levels, conditions)."""


class _Method(nn.Module):
    """A method of a model as the forward of a module, which functional_call asks for."""

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor, levels: Tensor, condition: dict[str, Any]) -> tuple[Tensor, ...]:
        return self.method(self.model, x, levels, condition)


class _Structure:
    """The modules of a model and where its tensors are, with what tells whether that is still so: a walk over
    all of them at every call would cost as much as a small network."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [*model.modules()]
        self.places = [p for m in self.modules for p in (m._parameters, m._buffers)]
        self.names = [
            *(name for name, _ in model.named_parameters()),
            *(name for name, _ in model.named_buffers()),
        ]
        self.shape = self._shape()
        self.attributes = Attributes(self.modules)
        self.flats: dict[Hashable, FlatGraph] = {}

    def _shape(self) -> Hashable:
        first: dict[int, int] = {}
        tied = tuple(
            None if tensor is None else first.setdefault(id(tensor), len(first))
            for place in self.places
            for tensor in place.values()
        )
        keys = tuple(tuple(place) for place in self.places)
        inner = tuple(
            (
                type(module),
                tuple(map(id, module._modules.values())),
                len(module._forward_hooks) + len(module._forward_pre_hooks),
                id(vars(module).get("forward")),
            )
            for module in self.modules
        )
        return tied, keys, inner

    def still_holds(self) -> bool:
        return self._shape() == self.shape

    def tensors(self) -> list[Tensor]:
        """Parameters, then buffers, each once, in the order of names."""
        found: dict[int, Tensor] = {}
        for kind in (0, 1):
            for place in self.places[kind::2]:
                for tensor in place.values():
                    if tensor is not None:
                        found.setdefault(id(tensor), tensor.detach())
        return [*found.values()]


class CompiledMethods:
    """Called with the name of a method of the model and its arguments; a graph for each, made at its first
    call. mode: of torch.compile, on a GPU only. Copies and pickles hold no graphs."""

    def __init__(self, model: nn.Module, mode: str | None) -> None:
        self.__setstate__({"model": model, "mode": mode})

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "mode": self.mode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.model, self.mode = state["model"], state["mode"]
        self.structures: list[_Structure] = []
        self.given_up = False

    def __call__(
        self, method: Method, x: Tensor, levels: Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """x [B, *shape], levels [B, 1, ...] or [1, 1, ...] -> what the method returns, as a tuple."""
        batch = x.shape[0]
        shared = shared_names(getattr(self.model, "backbone", None))
        x, levels, condition = pad_rows(x, levels, condition, shared)
        tensors = {k: v for k, v in condition.items() if isinstance(v, Tensor)}
        rest = {k: v for k, v in condition.items() if k not in tensors}

        def eager() -> tuple[Tensor, ...]:
            with torch.no_grad(), unpadded():
                return method(self.model, x, levels, condition)

        if any(True for _ in tensors_in(rest)):
            # tensors inside lists and dictionaries would become constants of a graph
            return tuple(tensor[:batch] for tensor in eager())
        structure = self._structure()
        if structure is None:
            return tuple(tensor[:batch] for tensor in eager())
        key = method, tuple(tensors), tuple((k, type(v), v) for k, v in sorted(rest.items()))
        try:
            flat = structure.flats.get(key)
        except TypeError:  # a condition that cannot be a key
            return tuple(tensor[:batch] for tensor in eager())
        if flat is None:
            flat = structure.flats[key] = self._flat(structure, method, tuple(tensors), rest)
        training = tuple(module.training for module in structure.modules)
        with torch.no_grad():
            inputs = [x, levels, *tensors.values()]
            found = flat(structure.tensors(), inputs, eager, training)
        return tuple(tensor[:batch] for tensor in found)

    def _structure(self) -> _Structure | None:
        """Return the structure of the model as it is now, whose graphs fit; None where it changes too often."""
        if self.given_up:
            return None
        changed = None
        for place, structure in enumerate(self.structures):
            if not structure.still_holds():
                self.structures = []
                break
            changed = structure.attributes.change()
            if changed is None:
                if place:  # the one in use is looked at first
                    self.structures.insert(0, self.structures.pop(place))
                return structure
        if len(self.structures) >= MOST_STATES:
            self.given_up = True
            warnings.warn(
                f"compiled {type(self.model).__name__}: the attribute {changed} took more than {MOST_STATES} "
                "values, and each needs a graph of its own. The model is called eagerly from now on; compile() "
                "starts anew",
                stacklevel=5,
            )
            return None
        self.structures.insert(0, _Structure(self.model))
        return self.structures[0]

    def _flat(
        self,
        structure: _Structure,
        method: Method,
        tensors: tuple[str, ...],
        rest: dict[str, Any],
    ) -> FlatGraph:
        names = [f"model.{name}" for name in structure.names]

        def call(fixed: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
            x, levels, *given = inputs
            condition = dict(zip(tensors, given, strict=True)) | rest
            named = dict(zip(names, fixed, strict=True))
            # functional_call puts other tensors into its module for a while: not into the one that other
            # threads may be using
            twin = copy.deepcopy(self.model, _themselves(self.model))
            before = Attributes(twin.modules())
            with torch.no_grad(), unpadded():
                found = functional_call(_Method(twin, method), named, (x, levels, condition))
            self.given_up = self.given_up or before.change() is not None
            refuse_changed(before)
            return found

        return FlatGraph(call, otherwise="the model is called eagerly", mode=self.mode)


def _themselves(model: nn.Module) -> dict[int, Any]:
    """A memo by which a copy of the model shares its tensors, also those that are plain attributes."""
    plain = (tensor for module in model.modules() for tensor in tensors_in(vars(module)))
    return {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers(), *plain)}
