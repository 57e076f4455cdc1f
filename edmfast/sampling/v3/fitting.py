"""Fit the statistics of DPM-Solver-v3 to a denoiser or an energy, from clean data.

l is the mean over the data of the diagonal of sigma d eps / dx = 1 - dD/dx. For an energy, whose D is
x - sigma² grad E, it is the diagonal of sigma² times the Hessian of E. s and b are the regression of df/dlambda on
f = sigma eps - l x, element by element, where the derivative is taken along the ODE by central differences.
Source: Zheng et al. 2023, arXiv 2310.13268, section 3.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.models.calling.foreign import call_denoiser, energy_of
from edmfast.models.protocols import Denoiser, Target
from edmfast.sampling.checks import check_start, check_state
from edmfast.sampling.v3.statistics import DPMSolverV3Statistics


def fit_dpm_solver_v3(
    model: Denoiser | Target,
    data: Tensor,
    sigmas: Tensor,
    *,
    seed: int,
    probes: int | None = None,
    extra_args: dict[str, Any] | None = None,
    batch_size: int = 256,
    step: float = 0.02,
) -> DPMSolverV3Statistics:
    """Return the statistics l, s and b of a model at noise levels, from clean data.

    It costs one call and `probes` derivatives for l, and two calls for s and b, for every sample and level.
    Source: Zheng et al. 2023, arXiv 2310.13268, section 3.2.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0, through which autograd must work;
            or an energy with the method `energy_and_score`, which must be differentiable twice.
        data: clean states [N, *shape]. 1000 or more are usual.
        sigmas: the noise levels [K], positive and strictly decreasing; 100 evenly spaced in ln sigma are usual.
        seed: the seed of the noise and of the probes.
        probes: the number of random signs by which the diagonal is estimated, at least 1; None takes the exact
            one, at one derivative for each element of a state.
        extra_args: keyword conditions for the model. A tensor [N, ...] has one row for each sample.
        batch_size: the number of samples in one call.
        step: the half length in lambda of the central difference, positive.

    Returns:
        The statistics, in float64 on the device of data.

    Raises:
        TypeError: data or sigmas is not a floating-point tensor, or an argument is no number.
        ValueError: data or sigmas of another shape, NaN or infinity in them, levels out of order, or a number out
            of its range.
    """
    check_state(data, "data")
    if isinstance(sigmas, Tensor) and sigmas.ndim == 1 and len(sigmas) == 1:
        levels = check_start(data, torch.cat([sigmas, sigmas / 2]))[:1]
    else:
        levels = check_start(data, sigmas, rising=False)
    if levels[-1] == 0:
        raise ValueError("sigmas must be positive, got a last level of 0")
    seed = as_seed(seed)
    probes = None if probes is None else as_int("probes", probes, least=1)
    batch_size = as_int("batch_size", batch_size, least=1)
    step = as_float("step", step, positive=True)
    fit = _Fit(model, dict(extra_args or {}), len(data), batch_size)
    generator = torch.Generator().manual_seed(seed % 2**63)
    # The same noise serves all levels, so that the statistics are smooth in lambda.
    noise = torch.randn(data.shape, generator=generator, dtype=data.dtype, device="cpu").to(data)
    l = torch.stack(  # noqa: E741, the source's name
        [fit.diagonal(data + sigma * noise, sigma, probes, generator) for sigma in levels]
    )
    grid = torch.tensor(levels, dtype=torch.float64, device=data.device)
    zero = torch.zeros_like(l)
    only_l = DPMSolverV3Statistics(grid, l, zero, zero)
    slopes = [fit.slope(data + sigma * noise, sigma, step, only_l) for sigma in levels]
    s, b = (torch.stack(rows) for rows in zip(*slopes, strict=True))
    return DPMSolverV3Statistics(grid, l, s, b)


class _Fit:
    """A model with its conditions, which is called in batches."""

    def __init__(
        self, model: Denoiser | Target, condition: dict[str, Any], rows: int, batch_size: int
    ) -> None:
        self._model, self._condition = model, condition
        self._batches = [slice(i, i + batch_size) for i in range(0, rows, batch_size)]
        self._rows = rows

    def _clean(self, x: Tensor, sigma: float, rows: slice) -> Tensor:
        """Return the denoised states, as a function of x for autograd."""
        condition = {
            name: value[rows] if isinstance(value, Tensor) and len(value) == self._rows else value
            for name, value in self._condition.items()
        }
        if callable(self._model):
            return call_denoiser(self._model, x, sigma, **condition)
        with torch.enable_grad():
            points = x if x.requires_grad else x.detach().requires_grad_(True)
            energy = energy_of(self._model, points, sigma, **condition)
            (slope,) = torch.autograd.grad(energy.sum(), points, create_graph=x.requires_grad)
        return x - sigma**2 / float(getattr(self._model, "exponent", 1.0)) * slope

    def diagonal(
        self, x: Tensor, sigma: float, probes: int | None, generator: torch.Generator
    ) -> Tensor:
        """Return the mean over samples of the diagonal of 1 - dD/dx, [*shape] in float64."""
        total = torch.zeros(x.shape[1:], dtype=torch.float64, device=x.device)
        for rows in self._batches:
            points = x[rows].detach().requires_grad_(True)
            with torch.enable_grad():
                denoised = self._clean(points, sigma, rows)
            if probes is None:
                vectors = _basis(points)
            else:
                vectors = (_signs(points, generator) / math.sqrt(probes) for _ in range(probes))
            for vector in vectors:
                (back,) = torch.autograd.grad(denoised, points, vector, retain_graph=True)
                total += (vector * back).double().sum(0)
        return 1 - total / self._rows

    @torch.no_grad()
    def slope(
        self, x: Tensor, sigma: float, step: float, statistics: DPMSolverV3Statistics
    ) -> tuple[Tensor, Tensor]:
        """Return s and b at a level: the regression of df/dlambda on f over the samples."""
        place = -math.log(sigma)
        pairs = []
        for rows in self._batches:
            points = x[rows]
            velocity = points - self._clean(points, sigma, rows)
            f = velocity - statistics.at(place)[0] * points
            ends = []
            for sign in (-1, 1):
                moved, there = points - sign * step * velocity, sigma * math.exp(-sign * step)
                remain = 1 - statistics.at(place + sign * step)[0]
                ends.append(remain * moved - self._clean(moved, there, rows))
            pairs.append((f.double(), (ends[1] - ends[0]).double() / (2 * step)))
        f, change = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        mean, rate = f.mean(0), change.mean(0)
        spread = ((f - mean) ** 2).mean(0)
        shared = ((f - mean) * (change - rate)).mean(0)
        # Where f does not vary, its variance is rounding, and b alone describes the derivative.
        varies = spread > 1e-10 * (f**2).mean(0)
        s = torch.where(varies, shared / spread.where(varies, torch.ones_like(spread)), 0.0)
        return s, rate - s * mean


def _basis(x: Tensor) -> Any:
    """Yield the unit vectors of all elements of a state, each like x."""
    for index in range(x[0].numel()):
        vector = torch.zeros_like(x).reshape(len(x), -1)
        vector[:, index] = 1
        yield vector.reshape(x.shape)


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, x.shape, generator=generator, device="cpu")
    return (2 * bits - 1).to(x)
