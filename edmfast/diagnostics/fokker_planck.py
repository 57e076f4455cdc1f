"""A check that an energy follows the heat equation from one noise level to the next.

The log-density u(x, sigma) = -E of data plus noise of standard deviation sigma satisfies

    d u / d sigma = sigma (tr(grad² u) + |grad u|²),

so R = du/dsigma - sigma (tr(grad² u) + |grad u|²) vanishes for an exact energy, up to a constant per noise level
where the energy has a gauge of its own. The mean of R over the samples of a level is that constant, and its
standard deviation is an error. R describes single noise levels, while `self_check` describes whole steps.

The trace is exact by one vector-Jacobian product of the score per dimension, or estimated by Hutchinson probes of
independent signs. The derivative du/dsigma comes from autograd through sigma or from central differences.
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
from edmfast.models.fokker_planck import fokker_planck_residual
from edmfast.models.protocols import Target
from edmfast.ops import random_signs

_DIAGNOSTICS_STREAM = 5
_PROBE_STEP = 3 << 30
"""The counter's step for probes. It is far from the steps of trajectories, because a probe that repeats the noise
in the states would be biased."""
_EXACT_DIMENSIONS = 64
"""The largest number of dimensions for which the trace is exact by default."""
_DEFAULT_PROBES = 16


@dataclass(frozen=True)
class FokkerPlanck:
    """The residual R at T noise levels with B samples each, in nats per unit of sigma.

    All tensors are float64, on the samples' device.

    Attributes:
        sigmas: the noise levels [T], in units of x.
        residuals: R including the drift of the gauge, [T, B].
        trace_error: the standard error of the probed sigma tr(grad² u), [T, B]; 0 where the trace is exact, and
            NaN for a single probe.
        sigma_error: a bound of the error of central differences, [T, B]; 0 for autograd.
    """

    sigmas: Tensor
    residuals: Tensor
    trace_error: Tensor
    sigma_error: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean of R at each level, [T]: the drift of the gauge, which is no error."""
        return self.residuals.mean(1)

    @property
    def centred(self) -> Tensor:
        """R minus its mean at each level, [T, B]."""
        return self.residuals - self.mean[:, None]

    @property
    def sd(self) -> Tensor:
        """The standard deviation of R over the samples of each level, [T], with the spread of the probes."""
        return self.residuals.std(1)


def fokker_planck(
    model: Target,
    states: Iterable[Tensor],
    sigmas: Tensor | Sequence[float],
    *,
    probes: int | None = None,
    sigma_derivative: str = "auto",
    relative_step: float | None = None,
    seed: int = 0,
    **condition: Any,
) -> FokkerPlanck:
    """Compute the residual R of the heat equation at the states of each noise level.

    Sources: Lai et al. 2023, arXiv 2210.04296; Hutchinson 1990.

    Args:
        model: the target, with energy_and_score(x, sigma, **condition) -> ([B], [B, *shape]) and the exponent 1.
            The score must be differentiable where x requires grad.
        states: T tensors [B, *shape], of which the i-th is at the noise level sigmas[i], such as
            `noising_trajectory` returns.
        sigmas: the noise levels [T] in units of x, positive.
        probes: the number of probes per sample for the trace. With None the trace is exact up to 64 dimensions and
            has 16 probes above.
        sigma_derivative: "autograd" differentiates the energy through sigma [B]. "difference" takes central
            differences of fourth order, from four more energies. "auto" takes autograd where the energy has a
            derivative with respect to sigma, and differences where it has none.
        relative_step: the step of the differences divided by sigma; by default 1e-3 for float64 and 1e-2 for other
            dtypes.
        seed: the seed of the probes; those of sample k depend on (seed, k) alone.
        condition: keyword conditions for the model.

    Returns:
        A `FokkerPlanck` with the residuals [T, B] in nats per unit of sigma.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: other noise levels, another number of states than levels, probes < 1, an exponent other than 1,
            a score without a graph, an unknown sigma_derivative, or "autograd" where there is no derivative.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode.
    """
    levels = [as_float(f"sigmas[{i}]", sigma) for i, sigma in enumerate(sigmas)]
    seed = as_seed(seed)
    probes = None if probes is None else as_int("probes", probes, least=1)
    if relative_step is not None:
        relative_step = as_float("relative_step", relative_step, positive=True)
    # states may be a generator, and its length is checked before any evaluation.
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
    residuals = []
    for i, (x, sigma) in enumerate(zip(points, levels, strict=True)):
        probe_count = probes
        if probes is None and math.prod(x.shape[1:]) > _EXACT_DIMENSIONS:
            probe_count = _DEFAULT_PROBES
        # The error of rounding grows as eps/step, so a lower precision needs a longer step.
        step = relative_step or (1e-3 if x.dtype == torch.float64 else 1e-2)
        # Each level gets its own seed, so the errors of the probes are independent between levels.
        options = (probe_count, sigma_derivative, step * sigma, (seed + i) % 2**64)
        residuals.append(_residual(model, x, sigma, condition, *options))
    columns = [torch.stack(column) for column in zip(*residuals, strict=True)]
    level_tensor = torch.tensor(levels, dtype=torch.float64, device=columns[0].device)
    return FokkerPlanck(level_tensor, *columns)


def _residual(
    model: Target,
    x: Tensor,
    sigma: float,
    condition: dict[str, Any],
    probes: int | None,
    derivative: str,
    step: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (R, the standard error of sigma times the trace, the error of the differences), each float64 [B]."""
    with torch.enable_grad(), second_derivatives():
        point = x.detach().requires_grad_()
        # One level per sample lets one backward pass of the sum give every sample its own
        # derivative.
        level = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device, requires_grad=True)
        energy, score = call_energy(model, point, level, **condition)
        if not score.requires_grad:
            raise ValueError(
                f"{type(model).__name__} returns a score without a graph: it must be differentiable where x "
                "requires grad"
            )
        slope, slope_error = None, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        # The graph is kept for the trace, which differentiates the score of the same evaluation.
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
    # In float64, because the two terms nearly cancel: at usual states of a Gaussian they are about
    # -d/sigma² and d/sigma².
    residual = fokker_planck_residual(-slope.double(), score.detach().double(), trace, sigma)
    return residual, sigma * trace_error, slope_error


def _trace(score: Tensor, point: Tensor, probes: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return the trace of the score's Jacobian and its standard error, each float64 [B]."""
    if probes is None:
        total = torch.zeros(len(point), dtype=torch.float64, device=point.device)
        flat = score.flatten(1)
        for i in range(flat.shape[1]):
            # Samples are independent, so the gradient of the sum over the batch holds one row per
            # sample.
            (row,) = torch.autograd.grad(flat[:, i].sum(), point, retain_graph=True)
            total += row.flatten(1)[:, i].double()
        return total, torch.zeros_like(total)
    estimates = []
    for i in range(probes):
        step = _PROBE_STEP + i
        like = point.detach()[None]
        # Among probes of independent entries with variance 1, signs give the least variance.
        signs = random_signs(like, seed=seed, step=step, stream=_DIAGNOSTICS_STREAM)[0]
        (product,) = torch.autograd.grad((score * signs).sum(), point, retain_graph=True)
        estimates.append((product * signs).double().flatten(1).sum(1))
    stacked = torch.stack(estimates)
    # One probe has no spread from which its error could be told.
    mean = stacked.mean(0)
    if probes == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, stacked.std(0) / math.sqrt(probes)


@torch.no_grad()
def _difference(
    model: Target, x: Tensor, sigma: float, condition: dict[str, Any], step: float
) -> tuple[Tensor, Tensor]:
    """Return dE/dsigma by central differences at one and two steps, extrapolated, and a bound of its error.

    The bound is the size of the extrapolation plus the rounding of the energies. It holds where the step resolves
    the energy.
    """

    def energy(level: float) -> Tensor:
        return call_energy(model, x, level, **condition)[0].double()

    below, above = energy(sigma - step), energy(sigma + step)
    # Both quotients have errors of order step², whose ratio 4 makes near + (near - far)/3 of fourth
    # order.
    near = (above - below) / (2 * step)
    far = (energy(sigma + 2 * step) - energy(sigma - 2 * step)) / (4 * step)
    rounding = 4 * torch.finfo(x.dtype).eps * torch.maximum(above.abs(), below.abs()) / step
    return near + (near - far) / 3, (near - far).abs() / 3 + rounding
