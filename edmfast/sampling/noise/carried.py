"""Draws along a Brownian path that keep W at the end of an interval for the next one, which starts there.

An increment is W(b) - W(a), and each of its ends takes up to 19 normals for every element. A run meets nearly
every end twice, so it draws W(b) once, from the start of its cell, and keeps it as a tensor of two combinations:

    x = sum_k c_k T_k + c / sqrt(b - a) (W(b) - W(a) + the whole cells between)

This halves the normals of a run at the cost of one more pass. On the CPU a normal costs as much as reading a few
tensors; on an accelerator one launch with all nodes is faster, so that runs there do without.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast.ops.linear_combination import linear_combination
from edmfast.ops.linear_combination.operator import MAX_TENSORS
from edmfast.sampling.engine import host
from edmfast.sampling.engine.draws import Coefficients, CounterDraw, Draw, Requests
from edmfast.sampling.noise.brownian import (
    BrownianPath,
    Weights,
    add,
    bridge,
    cells_between,
    is_long,
)
from edmfast.sampling.noise.octaves import place_of

_WORTH, _ELEMENTS = 4, 1024
"""More normals than this, for at least so many elements of a sample, cost more than a tensor of their sum."""


@dataclass
class _End:
    """An end that several intervals share. Its value W(end) - W(start of its cell) is kept while it is needed."""

    normals: CounterDraw
    draws_left: int
    value: Tensor | None = None

    def take(self, like: Tensor) -> Tensor:
        """Return the value in the shape of the states `like`, for one of the draws."""
        value = self.value
        if value is None:
            value = self.normals.combined([torch.zeros_like(like)], [0.0])
        self.draws_left -= 1
        self.value = value if self.draws_left else None
        return value


@dataclass
class PathDraw:
    """An increment of a path whose shared ends are tensors.

    ends: (end, coefficient) pairs. rest: all other normals of the increment.
    """

    ends: list[tuple[_End, float]]
    rest: CounterDraw
    _values: list[Tensor] | None = None

    def combined(self, tensors: list[Tensor], coefficients: Coefficients) -> Tensor:
        """Return sum_k coefficient_k tensor_k + noise coefficient * xi."""
        # A combination that is computed once more needs the same values.
        if self._values is None:
            self._values = [end.take(tensors[0]) for end, _ in self.ends]
        numbers = [*coefficients, *(coefficient for _, coefficient in self.ends)]
        together = [*tensors, *self._values]
        # The last tensors wait where the operator has no place for them.
        result = self._add_rest(together[:MAX_TENSORS], numbers[:MAX_TENSORS])
        for tensor, number in zip(together[MAX_TENSORS:], numbers[MAX_TENSORS:], strict=True):
            result.add_(tensor, alpha=number)
        return result

    def _add_rest(self, tensors: list[Tensor], coefficients: list[float]) -> Tensor:
        if not len(self.rest.nodes):
            return linear_combination(tensors, coefficients)
        return self.rest.combined(tensors, coefficients)


def pays(x: Tensor) -> bool:
    """Return whether a run over states x [B, *shape] is faster, and as exact, with values that it keeps.

    The answer does not depend on the batch size, so that neither do the bits of a sample.
    """
    # In half precision the kept values would lose the digits that short increments need.
    return host.is_host(x.device) and x.dtype.itemsize >= 4 and math.prod(x.shape[1:]) >= _ELEMENTS


def draws_along(path: BrownianPath, requests: Requests) -> Iterator[Draw]:
    """Yield one draw for each request of a run for whose states `pays` holds."""
    times = [path.times(*interval) for _, interval in requests]
    uses = Counter(time for pair in times if is_long(*pair) for time in pair)
    shared = [t for t, count in uses.items() if count > 1 and len(bridge(place_of(t))) > _WORTH]
    numbers = {time: k for k, time in enumerate(shared)}
    sums = [dict(bridge(place_of(time))) for time in shared]
    ends: list[list[tuple[int, float]]] = []
    for (coefficient, interval), (start, end) in zip(requests, times, strict=True):
        kept: list[tuple[int, float]] = []
        if is_long(start, end):
            scale = path.sign * coefficient / math.sqrt(abs(end - start))
            rest = dict(cells_between(place_of(start), place_of(end)))
            for sign, time in ((1.0, end), (-1.0, start)):
                if time in numbers:
                    kept.append((numbers[time], sign * scale))
                else:
                    add(rest, bridge(place_of(time)), sign)
        else:
            names, weights = path.nodes(0, *interval)
            scale, rest = coefficient, dict(zip(names, weights, strict=True))
        sums.append({node: scale * weight for node, weight in rest.items()})
        ends.append(kept)
    normals = _normals(path, sums)
    left = Counter(number for kept in ends for number, _ in kept)
    values = [_End(normals[number], left[number]) for number in range(len(shared))]
    for kept, rest_of_draw in zip(ends, normals[len(shared) :], strict=True):
        yield PathDraw([(values[number], factor) for number, factor in kept], rest_of_draw)


def _normals(path: BrownianPath, sums: list[Weights]) -> list[CounterDraw]:
    """Return a draw for each sum of normals, whose nodes and weights are parts of two tensors."""
    sizes = [len(weights) for weights in sums]
    nodes = torch.tensor([node for weights in sums for node in weights], dtype=torch.int64)
    numbers = [weight for weights in sums for weight in weights.values()]
    parts = torch.tensor(numbers, dtype=torch.float64).split(sizes)
    return [CounterDraw(path, *pair) for pair in zip(nodes.split(sizes), parts, strict=True)]
