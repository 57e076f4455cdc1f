"""Compare ways to differentiate for the residual: their errors in float32, and the cost of a loss with gradients.

- "loss": what training uses. The slope in sigma by autograd, the trace by one-sided differences of scores.
- "differences": the slope in sigma by central differences of the energy as well.
- "exact": slope and trace by autograd, whose parameter gradient is a third derivative. Attention and normalisation
  of this package have none, so that it serves perceptrons only.

The error is that of the estimate for given probes, relative to the standard deviation over the probes of the exact
estimate. Below 1, an error is less than what the probes add anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.studies.fokker_planck.students import teacher
from edmfast.distill.fokker_planck_loss import residual_estimates
from edmfast.models import EnergyModel
from edmfast.models.fokker_planck import fokker_planck_residual

LEVELS = (0.02, 0.1, 0.5, 2.0, 10.0)
_STEP = 1e-2


def _loss(student: EnergyModel, x: Tensor, sigma: Tensor, probe: Tensor) -> Tensor:
    return residual_estimates(student, x, sigma, (probe,), {})[0]


def _differences(student: EnergyModel, x: Tensor, sigma: Tensor, probe: Tensor) -> Tensor:
    step = _STEP * sigma
    points = torch.cat([x, x + step[:, None] * probe]).requires_grad_()
    energy = student.energy(points, sigma.repeat(2))
    (gradient,) = torch.autograd.grad(energy.sum(), points, create_graph=True)
    score, shifted = (-gradient).split(len(x))
    above, below = (student.energy(x, sigma + sign * step) for sign in (1, -1))
    trace = ((shifted - score) * probe).sum(1) / step
    return fokker_planck_residual((below - above) / (2 * step), score, trace, sigma)


def _exact(student: EnergyModel, x: Tensor, sigma: Tensor, probe: Tensor) -> Tensor:
    point, level = x.detach().requires_grad_(), sigma.detach().requires_grad_()
    energy, score = student.energy_and_score(point, level)
    (slope,) = torch.autograd.grad(energy.sum(), level, create_graph=True)
    (product,) = torch.autograd.grad((score * probe).sum(), point, create_graph=True)
    return fokker_planck_residual(-slope, score, (product * probe).sum(1), sigma)


WAYS: dict[str, Callable[[EnergyModel, Tensor, Tensor, Tensor], Tensor]] = {
    "loss": _loss,
    "differences": _differences,
    "exact": _exact,
}


def compare(student: EnergyModel, count: int = 512) -> list[dict[str, Any]]:
    """Return one row for each way: its relative errors at LEVELS, and milliseconds of residual and gradients."""
    rows: list[dict[str, Any]] = [{"way": name, "errors": []} for name in WAYS]
    double = EnergyModel(student.backbone, sigma_data=student.sigma_data)
    for sigma in LEVELS:
        x = teacher().sample(count, sigma, seed=3)
        draw = torch.Generator().manual_seed(4)
        probe = torch.rand(count, 2, generator=draw).lt(0.5).double() * 2 - 1
        level = torch.full((count,), sigma, dtype=torch.float64)
        double.double()
        truth = _exact(double, x, level, probe).detach()
        # in two dimensions there are two probes up to their sign, and the mean over both is exact
        other = _exact(double, x, level, probe * torch.tensor([1.0, -1.0])).detach()
        spread = float((truth - other).std()) / 2
        double.float()
        for row, way in zip(rows, WAYS.values(), strict=True):
            found = way(student, x.float(), level.float(), probe.float()).detach()
            row["errors"].append(
                float(f"{float((found - truth).square().mean().sqrt()) / spread:.2g}")
            )
    for row, way in zip(rows, WAYS.values(), strict=True):
        row["milliseconds"] = round(_milliseconds(way, student, count), 3)
    return rows


def _milliseconds(way: Callable[..., Tensor], student: EnergyModel, count: int) -> float:
    x, probe = torch.randn(2, count, 2).unbind()
    sigma, parameters = torch.rand(count) + 0.1, [*student.parameters()]
    times = []
    for _ in range(30):
        start = time.perf_counter()
        value = way(student, x, sigma, probe.sign()).square().mean()
        torch.autograd.grad(value, parameters, allow_unused=True)
        times.append(time.perf_counter() - start)
    # the shortest time is the one that other processes disturbed least
    return 1e3 * min(times)
