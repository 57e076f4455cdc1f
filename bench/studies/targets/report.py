"""Report runs on a hard target: means over populations, their standard errors, and the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.harness import machine
from edmfast.diagnostics import sliced_wasserstein


class Row(NamedTuple):
    """One number.

    error: its standard error, 0 where it is exact. truth: the right value, where known; for a distance, the
    distance between as many independent exact samples.
    """

    target: str
    run: str
    quantity: str
    value: float
    error: float = 0.0
    truth: float | None = None


def mean(target: str, run: str, quantity: str, values: Tensor, truth: float | None = None) -> Row:
    """Return the row of one number per population or pair of sample sets, [P]."""
    values = values.double()
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Row(target, run, quantity, float(values.mean()), error, truth)


def table(rows: Sequence[Row]) -> str:
    """Return aligned text, one block per target and run."""
    lines, last = [], ("", "")
    for row in rows:
        if (row.target, row.run) != last:
            last = (row.target, row.run)
            lines.append(f"{row.target}, {row.run}")
        error = f" ± {row.error:.2g}" if row.error else ""
        truth = "" if row.truth is None else f"   (truth {row.truth:.6g})"
        lines.append(f"  {row.quantity:<34}{row.value:>12.6g}{error}{truth}")
    return "\n".join(lines)


def write_json(path: str, rows: Sequence[Row], options: dict[str, Any]) -> None:
    """Write the rows and where they were measured."""
    facts = {
        "commit": machine.commit(),
        "versions": machine.versions(),
        "device_name": machine.device_name(torch.device("cpu")),
        "options": options,
        "rows": [row._asdict() for row in rows],
    }
    Path(path).write_text(json.dumps(facts, indent=1) + "\n")


def evenly(x: Tensor, weights: Tensor, n: int) -> Tensor:
    """Take n of the particles x [N, ...] by systematic resampling with their weights [N]."""
    cumulative = weights.double().cumsum(0)
    points = (torch.arange(n, dtype=torch.float64) + 0.5) / n * cumulative[-1]
    return x[torch.searchsorted(cumulative, points, right=True).clamp(max=len(x) - 1)]


def wasserstein_1d(a: Tensor, b: Tensor) -> float:
    """Return the exact 2-Wasserstein distance of numbers [n] and [m]."""
    return sliced_wasserstein(a[:, None], b[:, None], projections=1)


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Return the exact 2-Wasserstein distance of two sets [n, D] of one size, by an optimal assignment."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(a.double(), b.double()).square().numpy()
    row, column = linear_sum_assignment(cost)
    return math.sqrt(float(cost[row, column].mean()))
