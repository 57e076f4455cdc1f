"""Fresh noise inside linear combinations: drawn from counters in the same pass, or asked from a foreign source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edmfast.ops.linear_combination import linear_combination

Coefficients = Sequence[float] | Tensor


class NoiseSource(Protocol):
    """A source of normals that a counter-based generator draws, so that a sample has the same ones in any batch.

    seeds: int64 [1], or [B] with one seed for each sample, on the states' device.
    stream: the part of the counter that keeps these numbers apart from those of other uses.
    first_sample: the index of the first sample of the batch, where all samples share a seed.
    """

    @property
    def seeds(self) -> Tensor: ...

    @property
    def stream(self) -> int: ...

    @property
    def first_sample(self) -> int: ...

    def nodes(
        self, call: int, sigma_from: float, sigma_to: float
    ) -> tuple[Sequence[int], Sequence[float]]:
        """Return the node numbers and weights of a unit normal for an interval. call counts the draws of a run."""
        ...


class Draw(Protocol):
    """The fresh noise of one combination."""

    def combined(self, tensors: list[Tensor], coefficients: Coefficients) -> Tensor:
        """Return sum_k coefficient_k tensor_k + noise coefficient * xi."""
        ...


@dataclass
class CounterDraw:
    """Noise that the operator draws from counters while it combines the tensors."""

    source: NoiseSource
    nodes: Tensor
    weights: Tensor

    def combined(self, tensors: list[Tensor], coefficients: Coefficients) -> Tensor:
        return linear_combination(
            tensors,
            coefficients,
            seeds=self.source.seeds,
            nodes=self.nodes,
            weights=self.weights,
            stream=self.source.stream,
            first_sample=self.source.first_sample,
        )


@dataclass
class ForeignDraw:
    """Noise from a function (sigma, sigma_next) -> standard normals like x, which is called when it is needed."""

    function: Callable[..., Tensor]
    interval: tuple[Tensor, Tensor]
    coefficient: float
    drawn: Tensor | None = None

    def combined(self, tensors: list[Tensor], coefficients: Coefficients) -> Tensor:
        # A combination that is computed once more needs the same noise.
        fresh = self.drawn = self.function(*self.interval) if self.drawn is None else self.drawn
        # The coefficients of a run on an accelerator lie there already, without a place for the noise.
        if isinstance(coefficients, Tensor) or len(tensors) == 8:
            return linear_combination(tensors, coefficients).add_(fresh * self.coefficient)
        return linear_combination([*tensors, fresh], (*coefficients, self.coefficient))


Requests = Sequence[tuple[float, tuple[float, float]]]
"""The draws of a plan in their order: the coefficient of each and its interval of noise levels."""


@dataclass
class NodeTable:
    """The nodes and weights of all draws of a run, one after the other: int64 [M] and float64 [M]."""

    nodes: Tensor
    weights: Tensor
    sizes: list[int]

    def draws(self, source: NoiseSource) -> Iterator[Draw]:
        """Yield the draws of the run in their order."""
        pairs = zip(self.nodes.split(self.sizes), self.weights.split(self.sizes), strict=True)
        return (CounterDraw(source, *pair) for pair in pairs)


def node_table(source: NoiseSource, requests: Requests, least: int = 0) -> NodeTable:
    """Return the nodes of all draws. They reach the device in two copies for the whole run.

    least: fill up shorter draws to this number of nodes, with nodes of weight 0.
    """
    nodes: list[int] = []
    weights: list[float] = []
    sizes: list[int] = []
    for number, (coefficient, interval) in enumerate(requests):
        names, shares = source.nodes(number, *interval)
        missing = max(least - len(names), 0)
        nodes += [*names, *[0] * missing]
        weights += [*(coefficient * share for share in shares), *[0.0] * missing]
        sizes.append(len(names) + missing)
    device = source.seeds.device
    return NodeTable(
        torch.tensor(nodes, dtype=torch.int64, device=device),
        torch.tensor(weights, dtype=torch.float64, device=device),
        sizes,
    )


def draws_from_counters(source: NoiseSource, requests: Requests) -> Iterator[Draw]:
    """Yield one draw for each request."""
    return node_table(source, requests).draws(source)


def draws_from_function(
    function: Callable[..., Tensor], requests: Requests, like: Tensor
) -> Iterator[Draw]:
    """Yield one draw for each request, with its levels as 0-dimensional tensors like `like`."""
    levels = [level for _, interval in requests for level in interval]
    tensors = like.new_tensor(levels).unbind()
    for k, (coefficient, _) in enumerate(requests):
        yield ForeignDraw(function, (tensors[2 * k], tensors[2 * k + 1]), coefficient)
