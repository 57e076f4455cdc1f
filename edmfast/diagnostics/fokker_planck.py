"""Does an energy follow the heat equation from one noise level to the next?

The log-density u(x, sigma) = -E of data plus noise of standard deviation sigma satisfies

    d u / d sigma = sigma (tr(grad² u) + |grad u|²),

so R = du/dsigma - sigma (tr(grad² u) + |grad u|²) vanishes for an exact energy, up to a constant per noise
level where the energy has a gauge of its own: its mean over the samples of a level is that constant, its
standard deviation is an error. What R says of one noise level, `self_check` says of whole steps.

The trace is exact by one vector-Jacobian product of the score per dimension, or estimated by Hutchinson
probes of independent signs; du/dsigma comes from autograd through sigma or from central differences.
Sources: Lai et al. 2023, arXiv 2210.04296 (the residual as a diagnostic); Hutchinson 1990.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.models.calling.foreign import call_energy
from edmfast.models.calling.second_order import second_derivatives
from edmfast.ops import standard_normal

_FREE_STREAM = 5
_PROBE_STEP = 3 << 30
"""Far from the steps of trajectories, whose noise is in the states: a probe that knew it would be biased."""
_EXACT_DIMENSIONS = 64


@dataclass(frozen=True)
class FokkerPlanck:
    """R in nats per unit of sigma, at T noise levels with B samples each; all float64, on the samples' device.

    sigmas [T]; residuals [T, B], with the gauge in; trace_error [T, B]: standard error of the probed
    sigma tr(grad² u), 0 where the trace is exact, NaN for a single probe; sigma_error [T, B]: what central
    differences may be off by, 0 under autograd.
    """

    sigmas: Tensor
    residuals: Tensor
    trace_error: Tensor
    sigma_error: Tensor

    @property
    def mean(self) -> Tensor:
        """Per level, [T]: the drift of the gauge, which is no error."""
        return self.residuals.mean(1)

    @property
    def centred(self) -> Tensor:
        """R without its mean per level, [T, B]."""
        return self.residuals - self.mean[:, None]

    @property
    def sd(self) -> Tensor:
        """Over the samples of each level, [T]; probes add their own spread to it."""
        return self.residuals.std(1)


def fokker_planck(
    model: Any,
    states: Iterable[Tensor],
    sigmas: Tensor | Sequence[float],
    *,
    probes: int | None = None,
    sigma_derivative: str = "auto",
    relative_step: float | None = None,
    seed: int = 0,
    **condition: Any,
) -> FokkerPlanck:
    """The residual R at the states of each noise level.

    Args:
        model: energy_and_score(x, sigma, **condition) -> ([B], [B, *shape]) with exponent 1, the score
            differentiable where x requires grad.
        states: T tensors [B, *shape], such as `noising_trajectory` gives. sigmas: [T], positive.
        probes: per sample, for the trace; None takes the exact one up to 64 dimensions, 16 probes above.
        sigma_derivative: "autograd" through sigma [B]; "difference": central, of fourth order, from four
            more energies; "auto": the first where the energy has a derivative with respect to sigma, the
            second where it has none.
        relative_step: of the differences, in units of sigma; by default 1e-3, in float32 1e-2.
        seed: of the probes; sample k's depend on k alone.

    Raises:
        ValueError: bad sigmas or another number of states, probes < 1, exponent not 1, a score without a
            graph, an unknown sigma_derivative, or "autograd" where there is no derivative.
    """
    levels = [as_float(f"sigmas[{i}]", sigma) for i, sigma in enumerate(sigmas)]
    seed = as_seed(seed)
    probes = None if probes is None else as_int("probes", probes, least=1)
    if relative_step is not None:
        relative_step = as_float("relative_step", relative_step, positive=True)
    points = list(states)
    refuse_run("fokker_planck", model, *points)
    if not levels or not all(sigma > 0 and math.isfinite(sigma) for sigma in levels):
        raise ValueError(f"sigmas must be positive levels, got {levels}")
    if len(points) != len(levels):
        raise ValueError(f"{len(levels)} sigmas need as many states, got {len(points)}")
    if sigma_derivative not in ("auto", "autograd", "difference"):
        raise ValueError(
            f"sigma_derivative must be 'auto', 'autograd' or 'difference', got {sigma_derivative!r}"
        )
    exponent = getattr(model, "exponent", 1.0)
    if exponent != 1:
        raise ValueError(f"the heat equation holds for a model of exponent 1, got {exponent}")
    found = []
    for i, (x, sigma) in enumerate(zip(points, levels, strict=True)):
        probe_count = probes
        if probes is None and math.prod(x.shape[1:]) > _EXACT_DIMENSIONS:
            probe_count = 16
        step = relative_step or (1e-3 if x.dtype == torch.float64 else 1e-2)
        options = (probe_count, sigma_derivative, step * sigma, (seed + i) % 2**64)
        found.append(_residual(model, x, sigma, condition, *options))
    columns = [torch.stack(column) for column in zip(*found, strict=True)]
    at = torch.tensor(levels, dtype=torch.float64, device=columns[0].device)
    return FokkerPlanck(at, *columns)


def _residual(
    model: Any,
    x: Tensor,
    sigma: float,
    condition: dict[str, Any],
    probes: int | None,
    derivative: str,
    step: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad(), second_derivatives():
        point = x.detach().requires_grad_()
        level = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device, requires_grad=True)
        energy, score = call_energy(model, point, level, **condition)
        if not score.requires_grad:
            raise ValueError(f"{type(model).__name__} returns a score without a graph")
        slope, slope_error = None, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if derivative != "difference" and energy.requires_grad:
            (slope,) = torch.autograd.grad(
                energy.sum(), level, retain_graph=True, allow_unused=True
            )
        if slope is None and derivative == "autograd":
            raise ValueError(
                f"the energy of {type(model).__name__} has no derivative with respect to sigma; "
                "use sigma_derivative='difference'"
            )
        trace, trace_error = _trace(score, point, probes, seed)
    if slope is None:
        slope, slope_error = _difference(model, x, sigma, condition, step)
    growth = trace + score.detach().double().flatten(1).square().sum(1)
    return -slope.double() - sigma * growth, sigma * trace_error, slope_error


def _trace(score: Tensor, point: Tensor, probes: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Trace of the score's Jacobian [B] and its standard error, float64."""
    if probes is None:
        total = torch.zeros(len(point), dtype=torch.float64, device=point.device)
        flat = score.flatten(1)
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), point, retain_graph=True)
            total += row.flatten(1)[:, i].double()
        return total, torch.zeros_like(total)
    estimates = []
    for i in range(probes):
        step = _PROBE_STEP + i
        normals = standard_normal(point.detach()[None], seed=seed, step=step, stream=_FREE_STREAM)[
            0
        ]
        signs = torch.ones_like(normals).copysign(normals)
        (product,) = torch.autograd.grad((score * signs).sum(), point, retain_graph=True)
        estimates.append((product * signs).double().flatten(1).sum(1))
    stacked = torch.stack(estimates)
    mean = stacked.mean(0)
    if probes == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, stacked.std(0) / math.sqrt(probes)


@torch.no_grad()
def _difference(
    model: Any, x: Tensor, sigma: float, condition: dict[str, Any], step: float
) -> tuple[Tensor, Tensor]:
    """dE/dsigma by central differences at step and twice the step, extrapolated; and a bound that holds
    where the step resolves the energy: the extrapolation's size plus the rounding of the energies."""

    def energy(level: float) -> Tensor:
        return call_energy(model, x, level, **condition)[0].double()

    below, above = energy(sigma - step), energy(sigma + step)
    near = (above - below) / (2 * step)
    far = (energy(sigma + 2 * step) - energy(sigma - 2 * step)) / (4 * step)
    rounding = 4 * torch.finfo(x.dtype).eps * torch.maximum(above.abs(), below.abs()) / step
    return near + (near - far) / 3, (near - far).abs() / 3 + rounding
