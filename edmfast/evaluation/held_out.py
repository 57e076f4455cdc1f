"""The table of the likelihood of held-out data, by the ways of `edmfast.evaluation.likelihood`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.generators import generator
from edmfast._internal.tables import Cell
from edmfast.evaluation.data import EvaluationData
from edmfast.evaluation.likelihood import ODE, Likelihood, has_energy, likelihoods
from edmfast.evaluation.tables import Table
from edmfast.models.calling.conditions import accepted_conditions

_REFERENCES = 16
"""The states whose log-densities give the constant of energies; with classes, this number for all together."""
_LEAST_OF_CLASS = 2
_NOISE_SEED = 0x9E3779B97F4A7C15


def likelihood_table(
    models: Mapping[str, Any],
    data: EvaluationData,
    truth: Any,
    *,
    count: int,
    sigma_min: float,
    sigma_max: float,
    batch_size: int,
    seed: int,
    like: Mapping[str, Tensor],
    conditional: bool,
    finished: Callable[[str], Any] = lambda part: None,
) -> Table:
    """Return a table with the mean log-density of held-out data for every model and way.

    count: the number of held-out states. like: for each model a tensor of the dtype and the device of its states.
    conditional: the labels of the data are passed. finished: called after each way of each model.
    """
    order = data.order(seed)
    index = order[:count]
    labels = data.labels if conditional else None
    rest = _references(order[count:], index, labels)
    plain = torch.empty(0, dtype=torch.float64)
    states = _noisy(data, index, sigma_min, seed, plain)
    known = None if rest is None else _noisy(data, rest, sigma_min, seed + 1, plain)
    dim, rows = math.prod(data.shape), []
    exact = _exact(truth, states, sigma_min, None if labels is None else labels[index])
    if exact is not None:
        rows.append(_row("truth", "truth", Likelihood(exact, 0.0, 0), dim, data.bin_width))
    for name, model in models.items():
        own = like[name]
        conditions: list[dict[str, Tensor]] = [{}, {}]
        if labels is not None:
            parts = (index, index[:0] if rest is None else rest)
            conditions = [{"class_label": labels[part].to(own.device)} for part in parts]
        found = likelihoods(
            model,
            states.to(own),
            None if known is None else known.to(own),
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            batch_size=batch_size,
            seed=seed,
            condition=conditions[0],
            reference_condition=conditions[1],
            finished=functools.partial(_told, finished, name),
        )
        for way, result in found.items():
            row = _row(name, way, result, dim, data.bin_width)
            if exact is not None:
                difference = result.minus(exact)
                row |= {"minus truth": difference[0], "minus truth ±": difference[1]}
            if way != ODE:
                difference = result.minus(found[ODE].values)
                row |= {"minus ode": difference[0], "minus ode ±": difference[1]}
            rows.append(row)
    return Table("Log-density of held-out data", tuple(rows), _notes(data, count, sigma_min))


def parts_of(models: Mapping[str, Any]) -> int:
    """Return how often `likelihood_table` calls `finished`."""
    return sum(3 if has_energy(model) else 2 for model in models.values())


def _told(finished: Callable[[str], Any], name: str, way: str) -> None:
    finished(f"{name}: {way}")


def _noisy(
    data: EvaluationData, index: Tensor, sigma_min: float, seed: int, like: Tensor
) -> Tensor:
    """Return states with Gaussian noise of the level, or with uniform noise of the width of a bin."""
    x = data.rows(index, like)
    draws = generator((seed + _NOISE_SEED) % 2**64)
    if data.bin_width is not None:
        uniform = torch.rand(x.shape, generator=draws, dtype=x.dtype)
        return x + data.bin_width * (uniform - 0.5)
    return x + sigma_min * torch.randn(x.shape, generator=draws, dtype=x.dtype)


def _references(others: Tensor, index: Tensor, labels: Tensor | None) -> Tensor | None:
    """Return rows for the constant of energies, at least two of each class, or None where there are too few."""
    if labels is None:
        return others[:_REFERENCES] if len(others) >= _LEAST_OF_CLASS else None
    present = labels[index].unique()
    each = max(_LEAST_OF_CLASS, _REFERENCES // max(1, len(present)))
    chosen = [others[labels[others] == label][:each] for label in present]
    if any(len(rows) < _LEAST_OF_CLASS for rows in chosen):
        return None
    return torch.cat(chosen)


def _exact(truth: Any, states: Tensor, sigma: float, labels: Tensor | None) -> Tensor | None:
    if not callable(getattr(truth, "log_prob", None)):
        return None
    condition: dict[str, Any] = {}
    if labels is not None:
        if "class_label" not in (accepted_conditions(truth) or ()):
            return None  # the truth of a class is not known
        condition["class_label"] = labels
    values: Tensor = truth.log_prob(states, sigma, **condition)
    return values.double().cpu()


def _row(
    model: str, way: str, found: Likelihood, dim: int, bin_width: float | None
) -> dict[str, Cell]:
    row: dict[str, Cell] = {"model": model, "way": way, "nats": found.mean}
    row["nats ±"] = found.standard_error
    row["calls"] = found.calls or None
    if bin_width is not None:
        per_dimension = dim * math.log(2)
        row["bits/dim"] = -found.mean / per_dimension - math.log2(bin_width)
        row["bits/dim ±"] = found.standard_error / per_dimension
    return row


def _notes(data: EvaluationData, count: int, sigma_min: float) -> tuple[str, ...]:
    noise = f"Gaussian noise of {sigma_min:.3g}"
    if data.bin_width is not None:
        noise = f"uniform noise of the width {data.bin_width:.3g}"
    return (
        f"mean log p(x; {sigma_min:.3g}) of {count} held-out data with {noise}, ± standard error of the mean,",
        "    which contains no bias of the steps of the ODE or of the levels of the paths",
        "minus truth, minus ode: mean difference for the same states, ± its standard error",
        "calls: evaluations of the model for all states and references together",
    )
