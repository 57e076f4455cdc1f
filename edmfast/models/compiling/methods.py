"""The methods of an energy as flat compiled graphs, for inference.

Batches are padded outside of the graphs, noise levels are tensors in them, and weights are arguments. So neither a
batch of the same padded size, nor another noise level, nor new weights cause a compilation. Replaced modules, tied
weights, hooks and changed plain attributes (see `edmfast.models.compiling.attributes`) do; graphs of attribute
values that come back are used again. A model whose attributes take more than `MOST_STATES` values is called
eagerly after one warning, which names one of them. A model whose calls change an attribute is called eagerly too.
Nothing in a graph waits for the device, so that on a GPU it can be captured as a CUDA graph.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.derivatives import is_transformed
from edmfast._internal.nested import tensors_in
from edmfast._internal.rows import pad_rows, shared_names, unpadded
from edmfast.models.compiling.attributes import MOST_STATES, Attributes, refuse_changed
from edmfast.models.compiling.flat_graph import FlatGraph, Tensors

Method = Callable[[Any, Tensor, Tensor, dict[str, Any]], tuple[Tensor, ...]]
"""A method of the model's class, called as method(model, x, levels, conditions)."""


def is_called_plainly() -> bool:
    """Return whether neither a tracer nor a transform is active: both would miss what a graph computes."""
    return get_proxy_mode() is None and not is_transformed()


class _Method(nn.Module):
    """A method of a model as the forward of a module, because functional_call only calls modules."""

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor, levels: Tensor, condition: dict[str, Any]) -> tuple[Tensor, ...]:
        """Return what the method returns."""
        return self.method(self.model, x, levels, condition)


class _Structure:
    """The modules of a model and the places of its tensors, with a quick check whether they are still the same.

    A walk over the whole model at every call would cost as much as a small network.
    """

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
        # equal numbers mark names that share one tensor
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
        """Return whether the modules, tied weights and hooks are those of the time of construction."""
        return self._shape() == self.shape

    def tensors(self) -> list[Tensor]:
        """Return the parameters, then the buffers, each once, in the order of `names`."""
        unique: dict[int, Tensor] = {}
        # the places alternate between parameters and buffers of a module
        for kind in (0, 1):
            for place in self.places[kind::2]:
                for tensor in place.values():
                    if tensor is not None:
                        unique.setdefault(id(tensor), tensor.detach())
        return [*unique.values()]


class CompiledMethods:
    """A caller of the model's methods by compiled graphs, each made at the first call of its method.

    mode: the mode of torch.compile, used on a GPU only. Copies and pickles hold no graphs.
    """

    def __init__(self, model: nn.Module, mode: str | None) -> None:
        self.__setstate__({"model": model, "mode": mode})

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "mode": self.mode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.model, self.mode = state["model"], state["mode"]
        # graphs hold compiled code, which neither a copy nor a pickle can carry
        self.structures: list[_Structure] = []
        self.given_up = False

    def __call__(
        self, method: Method, x: Tensor, levels: Tensor, condition: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Return what the method returns for the caller's rows, as a tuple.

        x: [B, *shape]. levels: [B, 1, ...], or [1, 1, ...] for one noise level.
        """
        batch = x.shape[0]
        shared = shared_names(getattr(self.model, "backbone", None))
        x, levels, condition = pad_rows(x, levels, condition, shared)
        tensors = {k: v for k, v in condition.items() if isinstance(v, Tensor)}
        constants = {k: v for k, v in condition.items() if k not in tensors}

        def eager() -> tuple[Tensor, ...]:
            with torch.no_grad(), unpadded():
                return method(self.model, x, levels, condition)

        # tensors inside lists and dictionaries would become constants of a graph
        if any(True for _ in tensors_in(constants)):
            return tuple(tensor[:batch] for tensor in eager())
        structure = self._structure()
        if structure is None:
            return tuple(tensor[:batch] for tensor in eager())
        # the type is part of the key because 1, 1.0 and True are equal but trace differently
        key = method, tuple(tensors), tuple((k, type(v), v) for k, v in sorted(constants.items()))
        try:
            flat = structure.flats.get(key)
        except TypeError:  # the condition is not hashable
            return tuple(tensor[:batch] for tensor in eager())
        if flat is None:
            flat = structure.flats[key] = self._flat(structure, method, tuple(tensors), constants)
        # a graph of training mode must not serve evaluation
        training = tuple(module.training for module in structure.modules)
        with torch.no_grad():
            inputs = [x, levels, *tensors.values()]
            results = flat(structure.tensors(), inputs, eager, training)
        return tuple(tensor[:batch] for tensor in results)

    def _structure(self) -> _Structure | None:
        """Return the structure whose graphs fit the model as it is now, None where the model changes too often."""
        if self.given_up:
            return None
        changed = None
        for position, structure in enumerate(self.structures):
            # other modules or tied weights make every graph of the old structure invalid
            if not structure.still_holds():
                self.structures = []
                break
            changed = structure.attributes.change()
            if changed is None:
                # the structure in use comes first, so that the next call finds it at once
                if position:
                    self.structures.insert(0, self.structures.pop(position))
                return structure
        if len(self.structures) >= MOST_STATES:
            self.given_up = True
            warnings.warn(
                f"compiled {type(self.model).__name__}: the attribute {changed} took more than {MOST_STATES} "
                "values, and each value needs its own graph. The model is called eagerly from now on; call "
                "compile() to start again",
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
        constants: dict[str, Any],
    ) -> FlatGraph:
        # functional_call names tensors from the module that it calls
        names = [f"model.{name}" for name in structure.names]

        # weights are arguments of the graph, so that new weights need no new graph
        def call(fixed: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
            x, levels, *conditions = inputs
            condition = dict(zip(tensors, conditions, strict=True)) | constants
            named = dict(zip(names, fixed, strict=True))
            # functional_call exchanges the tensors of its module for a while, and other threads may be
            # using the model, so it gets a copy
            twin = copy.deepcopy(self.model, _shared_tensors(self.model))
            before = Attributes(twin.modules())
            with torch.no_grad(), unpadded():
                results: tuple[Tensor, ...] = functional_call(
                    _Method(twin, method), named, (x, levels, condition)
                )
            self.given_up = self.given_up or before.change() is not None
            refuse_changed(before)
            return results

        return FlatGraph(call, otherwise="the model is called eagerly", mode=self.mode)


def _shared_tensors(model: nn.Module) -> dict[int, Any]:
    """Return a memo for deepcopy by which the copy shares all tensors, including those in plain attributes."""
    plain = (tensor for module in model.modules() for tensor in tensors_in(vars(module)))
    return {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers(), *plain)}
