"""The linear multistep method as diffusers' `LMSDiscreteScheduler` runs it where a run begins inside of its grid.

It takes the weights of the full order from the first step on, as if the slopes before the start were zero.
Pipelines that start from an image begin so. A run over the whole grid is that of `LinearMultistep`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.linear_multistep import integrals


@dataclass(frozen=True)
class LateLinearMultistep(Solver):
    """The linear multistep method of an order, whose grid has levels before the start."""

    order: int
    before: tuple[float, ...]

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        slopes = ["d", *(f"d{j}" for j in range(1, self.order))]
        keep = tuple(zip(slopes[1:], slopes, strict=False))
        grid, x = (*self.before, *levels), register("x")
        for i, sigma in enumerate(levels[:-1]):
            place = len(self.before) + i
            nodes = grid[max(0, place + 1 - self.order) : place + 1][::-1]
            weights = integrals(nodes, sigma, levels[i + 1])
            move = x
            for name, weight in zip(slopes[: i + 1], weights, strict=False):
                move = move + weight * register(name)
            slope = Combine("d", (x - register("D")) / sigma)
            yield Step(sigma, (Call(sigma), slope, Combine("x", move)), keep[: i + 1])
