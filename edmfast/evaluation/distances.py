"""The distances of a model's samples from the data, for every solver and number of model calls.

Three distances are measured: the Fréchet distance of features, and the sliced 2-Wasserstein distance and the
energy distance of the samples themselves. Two disjoint parts of the data give the floor of each.
Sources: Heusel et al. 2017, arXiv 1706.08500; Bonneel et al. 2015; Szekely and Rizzo 2013.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.generators import generator
from edmfast._internal.tables import Cell
from edmfast.diagnostics import energy_distance, sliced_wasserstein
from edmfast.evaluation.data import EvaluationData
from edmfast.evaluation.features import Features, extract
from edmfast.evaluation.frechet import frechet_of_features, noise_floor
from edmfast.evaluation.samples import Grid, as_solver, draw_samples, grid_of
from edmfast.evaluation.tables import Table
from edmfast.sampling.engine import Solver

FLOOR = "data"
"""The name of the row that compares data with data."""
_PAIR_NUMBERS = 1 << 28
"""The largest number of pairs of samples times their elements in an energy distance."""
_LABEL_SEED = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class DistanceOptions:
    """The settings of `distance_table`.

    solvers: the solvers by name. nfe: the numbers of model calls. samples: the samples of each run. features: a
    function from samples to features, or None for no Fréchet distances.
    """

    solvers: Mapping[str, Solver]
    nfe: tuple[int, ...]
    samples: int
    features: Features | None
    sigma_min: float
    sigma_max: float
    bootstrap: int
    batch_size: int
    seed: int

    def batches(self, count: int) -> int:
        """Return the number of batches that hold count samples."""
        return -(-count // self.batch_size)

    def grids(self, solver: Solver) -> list[Grid]:
        """Return the grids of a solver, one for each number of model calls that it can spend."""
        ends = self.sigma_min, self.sigma_max
        # two numbers of calls may lead to the same grid, which is sampled once
        grids = {grid.calls: grid for grid in (grid_of(solver, nfe, *ends) for nfe in self.nfe)}
        return [*grids.values()]


def named_solvers(solvers: Any) -> dict[str, Solver]:
    """Return solvers by the names that the table gives them. Raises as `as_solver` does."""
    names = [solvers] if isinstance(solvers, (str, Solver)) else list(solvers)
    if not names:
        raise ValueError("solvers must hold at least one solver, got none")
    named: dict[str, Solver] = {}
    for entry in names:
        solver = as_solver(entry)
        name = entry if isinstance(entry, str) else type(entry).__name__
        # two solvers of one class differ in their settings
        named[repr(solver) if name in named else name] = solver
    return named


def distance_table(
    models: Mapping[str, Any],
    data: EvaluationData,
    options: DistanceOptions,
    *,
    like: Mapping[str, Tensor],
    conditional: bool,
    finished: Callable[[str], Any] = lambda part: None,
) -> Table:
    """Draw samples of every model and return a table of their distances from the data.

    like: for each model a tensor of the dtype and the device of its states. conditional: the samples get the
    labels of random data. finished: called after each batch.
    """
    compared = _Compared(data, options, next(iter(like.values())), finished)
    rows = [compared.floor_row()]
    condition: dict[str, Tensor] = {}
    if conditional:
        assert data.labels is not None, "only labelled data are conditional"
        draws = generator((options.seed + _LABEL_SEED) % 2**64)
        chosen = torch.randint(len(data), (options.samples,), generator=draws)
        condition["class_label"] = data.labels[chosen]
    for name, model in models.items():
        given = {key: value.to(like[name].device) for key, value in condition.items()}
        for solver_name, solver in options.solvers.items():
            for grid in options.grids(solver):
                row: dict[str, Cell] = {"model": name, "solver": solver_name, "NFE": grid.calls}
                drawn, features = [], []
                for x in draw_samples(
                    model,
                    solver,
                    grid.sigmas,
                    data.shape,
                    options.samples,
                    batch_size=options.batch_size,
                    seed=options.seed,
                    like=like[name],
                    condition=given,
                ):
                    drawn.append(x.cpu())
                    if options.features is not None and bool(x.isfinite().all()):
                        features.append(extract(options.features, x))
                    finished(f"{name} {solver_name} {grid.calls}")
                rows.append(row | compared.distances(torch.cat(drawn), features))
    return Table("Distances of samples from the data", tuple(rows), compared.notes())


class _Compared:
    """The data, with their features, that samples are compared with."""

    def __init__(
        self,
        data: EvaluationData,
        options: DistanceOptions,
        like: Tensor,
        finished: Callable[[str], Any],
    ) -> None:
        self.data, self.options = data, options
        # data are not rounded to the half precision of a model
        self.like = like.float()
        self.order = data.order(options.seed)
        self.features: Tensor | None = None
        if options.features is not None:
            rows = []
            for index in self.order.split(options.batch_size):
                rows.append(extract(options.features, data.rows(index, like)))
                finished("features of the data")
            self.features = torch.cat(rows)

    def some(self, first: int, count: int) -> Tensor:
        """Return up to count samples of the data in random order, from the place `first` on."""
        return self.data.rows(self.order[first : first + count], self.like).cpu()

    def floor_row(self) -> dict[str, Cell]:
        """Return the row of data against data, with as many samples in the first part as runs have."""
        size = min(self.options.samples, len(self.data) // 2)
        row: dict[str, Cell] = {"model": FLOOR, "solver": None, "NFE": None}
        if self.features is not None:
            options = {"replicates": self.options.bootstrap, "seed": self.options.seed}
            found = noise_floor(self.features, size, **options)
            row |= {"FD": found.value, "FD ±": found.standard_error}
        return row | self._of_samples(self.some(0, size), self.some(size, self.options.samples))

    def distances(self, samples: Tensor, features: list[Tensor]) -> dict[str, Cell]:
        """Return the distances of samples, and None where they are not finite."""
        if not bool(samples.isfinite().all()):
            return {"sliced W2": None, "energy distance": None}
        row: dict[str, Cell] = {}
        if self.features is not None:
            options = {"replicates": self.options.bootstrap, "seed": self.options.seed}
            found = frechet_of_features(torch.cat(features), self.features, **options)
            row = {"FD": found.value, "FD ±": found.standard_error}
        return row | self._of_samples(samples, self.some(0, self.options.samples))

    def _of_samples(self, a: Tensor, b: Tensor) -> dict[str, Cell]:
        most = max(2, int((_PAIR_NUMBERS / a[0].numel()) ** 0.5))
        return {
            "sliced W2": sliced_wasserstein(a, b, seed=self.options.seed),
            "energy distance": energy_distance(a[:most], b[:most]),
        }

    def notes(self) -> tuple[str, ...]:
        """Return the lines below the table."""
        total, first = len(self.data), min(self.options.samples, len(self.data) // 2)
        lines = [
            f"{FLOOR}: {first} data against {total - first} others, which is the noise of each distance"
        ]
        if self.features is not None:
            lines.append(
                f"FD: squared Fréchet distance of {self.features.shape[1]} features of {self.options.samples} "
                f"samples and {total} data, ± standard error by {self.options.bootstrap} bootstrap draws"
            )
        lines.append("sliced W2, energy distance: of the samples themselves, in their units")
        return tuple(lines)


def parts_of(models: Mapping[str, Any], data: EvaluationData, options: DistanceOptions) -> int:
    """Return how often `distance_table` calls `finished`."""
    runs = sum(len(options.grids(solver)) for solver in options.solvers.values())
    features = 0 if options.features is None else options.batches(len(data))
    return features + len(models) * runs * options.batches(options.samples)
