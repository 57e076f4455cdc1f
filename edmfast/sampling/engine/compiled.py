"""A whole run as one compiled graph: all model calls and all combinations of a grid's steps.

Coefficients, noise levels and seeds are inputs of the graph, so another grid of the same length runs by the same
graph, and nothing is read on the host. The graph is traced by make_fx, see `edmfast.models.compiling.flat_graph`:
torch.compile cannot trace the gradient inside an energy's score. The weights of the model are constants of its
graphs, and a change of them makes new ones.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.nested import tensors_in
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.compiling.flat_graph import FlatGraph, Tensors
from edmfast.models.compiling.watched import Watched, parts_of
from edmfast.models.protocols import Denoiser
from edmfast.sampling.engine.conditions import key_of, with_inputs, without_tensors
from edmfast.sampling.engine.draws import NodeTable, NoiseSource
from edmfast.sampling.engine.machine import Item, Machine, Pass, prepared
from edmfast.sampling.engine.plan import Call, Plan

Threshold = Callable[[Tensor], Tensor]
_OTHERWISE = "the run goes on eagerly"


@dataclass(frozen=True)
class TracedSource:
    """A source of noise whose seeds are inputs of a graph."""

    seeds: Tensor
    stream: int
    first_sample: int

    def nodes(self, call: int, sigma_from: float, sigma_to: float) -> tuple[list[int], list[float]]:
        """Raise, because the nodes of a graph are its inputs."""
        raise NotImplementedError


class CompiledRuns:
    """The compiled graphs of a model's runs, one for each structure of a plan."""

    def __init__(self) -> None:
        self.graphs: dict[Hashable, FlatGraph] = {}
        self.watched: Watched | None = None

    def run(
        self,
        plan: Plan,
        model: Denoiser,
        x: Tensor,
        source: NoiseSource,
        table: NodeTable,
        threshold: Threshold | None,
        condition: dict[str, Any],
        eager: Callable[[], Tensor],
    ) -> Tensor:
        """Return the states at the end of the plan. eager: computes the same without a graph."""
        if self.watched is None or self.watched.change():
            parts = parts_of(model)
            self.graphs = {}
            self.watched = Watched(parts.modules, parts.functions, parts.objects)
        items = prepared(plan, torch.device("cpu"))
        place = source.stream, source.first_sample
        try:
            key = _structure(items), tuple(table.sizes), place, threshold, key_of(condition)
        except TypeError as error:
            warnings.warn(f"compile=True failed, {_OTHERWISE}: {error}", stacklevel=5)
            return eager()
        if key not in self.graphs:
            fixed = without_tensors(condition)
            traced = _traced(weakref_to(model), items, table.sizes, place, threshold, fixed)
            self.graphs[key] = FlatGraph(traced, otherwise=_OTHERWISE)
        inputs = [x, *_numbers(items, x), source.seeds, table.nodes, table.weights]
        (result,) = self.graphs[key]([], [*inputs, *tensors_in(condition)], lambda: (eager(),))
        return result


_RUNS: weakref.WeakKeyDictionary[Any, dict[str, CompiledRuns]] = weakref.WeakKeyDictionary()


def runs_of(model: Denoiser) -> CompiledRuns:
    """Return the graphs of a model, which live as long as the model does."""
    owner = getattr(model, "__self__", model)
    try:
        methods = _RUNS.setdefault(owner, {})
    except TypeError:
        # An object without weak references has no place to keep its graphs.
        return CompiledRuns()
    return methods.setdefault(getattr(model, "__name__", ""), CompiledRuns())


def weakref_to(model: Denoiser) -> Callable[[], Denoiser]:
    """Return a function that returns the model while it lives, so that its graphs do not keep it alive."""
    method = getattr(model, "__func__", None)
    try:
        owner: Any = weakref.ref(getattr(model, "__self__", model))
    except TypeError:
        return lambda: model
    return owner if method is None else lambda: method.__get__(owner())


def _traced(
    model: Callable[[], Denoiser],
    items: list[Item],
    sizes: list[int],
    place: tuple[int, int],
    threshold: Threshold | None,
    fixed: dict[str, Any],
) -> Callable[[Tensors, Tensors], tuple[Tensor, ...]]:
    counts = [len(item.names) for item in items if isinstance(item, Pass)]

    def run(_: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        x, coefficients, levels, seeds, nodes, weights, *tensors = inputs
        condition = with_inputs(fixed, tensors)
        rows = iter(coefficients.split(counts))
        own = [
            item._replace(coefficients=next(rows)) if isinstance(item, Pass) else item
            for item in items
        ]
        draws = NodeTable(nodes, weights, sizes).draws(TracedSource(seeds, *place))
        machine = Machine(Plan(()), x, draws, threshold, own)
        for sigma in levels.unbind():
            call = machine.next_call()
            assert call is not None
            # A view of one number could be changed by a model at all samples.
            level = sigma.repeat(len(x))
            machine.feed(call_denoiser(model(), machine.registers[call.state], level, **condition))
        return (machine.registers["x"],)

    return run


def _numbers(items: list[Item], x: Tensor) -> Iterator[Tensor]:
    """Yield the coefficients of all combinations and the noise levels of all calls, where the states are."""
    values = [c for item in items if isinstance(item, Pass) for c in item.coefficients]
    yield torch.tensor(values, dtype=torch.float64, device=x.device)
    yield x.new_tensor([item.sigma for item in items if isinstance(item, Call)])


def _structure(items: list[Item]) -> Hashable:
    return tuple(
        item._replace(coefficients=())
        if isinstance(item, Pass)
        else (item.state, item.out)
        if isinstance(item, Call)
        else item
        for item in items
    )
