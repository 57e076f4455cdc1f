"""`log_likelihood`: log p(x) at a low noise level, by the probability-flow ODE up to a nearly Gaussian level.

With d the number of elements of a state, the ODE and the log-density along it are

    dx/dsigma = (x - D(x; sigma)) / sigma,    d log p/dsigma = -(d - tr dD/dx) / sigma,

so log p(x; sigma_min) = log N(x'; 0, sigma_max² I) + the integral of (d - tr dD/dx) / sigma, where x' is the
state at sigma_max. In sigma itself the trajectories are straight at high noise, which allows long steps. The
trace is exact where the model has the method `jacobian_trace`, and otherwise v·(dD/dx) v with one vector of
random signs v for the whole path.

An energy E(x, sigma) = -log p + c(sigma) has an unknown constant for each level. Differences between states of one
level are exact, and the ODE from a single reference state gives the constant:

    log p(x; sigma_min) = log p(reference; sigma_min) + E(reference, sigma_min) - E(x, sigma_min).

Sources: Song et al. 2021, arXiv 2011.13456, appendix D.2; Chen et al. 2018, arXiv 1806.07366; Hutchinson 1990; the
name and the arguments are k-diffusion's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.inference_mode import as_ordinary, without_inference_mode
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float
from edmfast._internal.seeds import as_seeds
from edmfast.models.calling.foreign import (
    call_denoiser,
    call_jacobian_trace,
    energy_of,
    is_ours,
    name_of,
)
from edmfast.models.calling.second_order import second_derivatives
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser
from edmfast.sampling.checks import check_state, checked_end
from edmfast.sampling.likelihood.runge_kutta import Rates, integrate
from edmfast.sampling.noise import Independent
from edmfast.sampling.noise.source import evaluate

_PROBE_STREAM = 2


def log_likelihood(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: dict[str, Any] | None = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
    *,
    seed: int | Sequence[int] | Tensor | None = None,
    reference: Tensor | None = None,
) -> tuple[Tensor, dict[str, int]]:
    """Return (log p(x; sigma_min) [B] in nats, {"fevals": the number of model calls}).

    The integral is taken by an adaptive Runge-Kutta method of order 5, with steps of its own for every sample,
    so a result depends neither on the rest of the batch nor on other processes. Nothing is communicated between
    processes: they may take different numbers of calls, and a model in DistributedDataParallel is called without
    this wrapper.

    An exact mixture of `edmfast.analytic`, which has the method `log_prob`, answers itself in one call.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0. Its results must be
            differentiable, unless it has the method jacobian_trace(x, sigma [B], **extra_args) -> tr dD/dx [B].
        x: the states [B, *shape], data with noise of the level sigma_min.
        sigma_min: the noise level of the states, in units of x, positive.
        sigma_max: the level where the density is taken for N(0, sigma_max² I); at least ten times the standard
            deviation of the data. Above sigma_min.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        atol: the absolute tolerance of a step, positive, in units of x, and in nats.
        rtol: the relative tolerance of a step, not negative.
        seed: the seed of the random signs, an integer or one for each sample [B]; by default a draw of torch's
            generator. The signs of sample b depend on (seed, b), or on the sample's own seed, alone.
        reference: one typical state [*shape] of the level sigma_min, for a model with an energy. The integral is
            then taken for this state alone, once or for each row of a condition, and the other states differ
            from it by exact differences of the energy. Its error, also that of the random signs, is the same for
            all states with one condition.

    Returns:
        The log-densities [B] in the dtype of x, and a dictionary with the number of model calls. A call
        evaluates all samples.

    Raises:
        TypeError: x is not a floating-point tensor, a number is none, or a reference for a model without an
            energy.
        ValueError: x or the reference of another shape or not finite, sigma_min >= sigma_max, a number out of
            range, tolerances that no step meets, or a model whose result has no graph.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode.

    Warns:
        NonFiniteWarning: the model returned NaN or infinity for some samples, whose results are NaN.
    """
    with torch.no_grad():
        check_state(x, "x")
    low = as_float("sigma_min", sigma_min, positive=True)
    high = as_float("sigma_max", sigma_max, positive=True)
    check_level("sigma_min", low, x.dtype)
    check_level("sigma_max", high, x.dtype)
    if low >= high:
        raise ValueError(
            f"sigma_min must be below sigma_max, got sigma_min={low}, sigma_max={high}"
        )
    atol, rtol = as_float("atol", atol, positive=True), as_float("rtol", rtol, least=0)
    # The forward of this wrapper may wait for other processes, which need other numbers of calls.
    inner: Any = model.module if isinstance(model, DistributedDataParallel) else model
    refuse_run("log_likelihood", inner, x)
    condition = dict(extra_args or {})
    with without_inference_mode(), torch.no_grad():
        x = as_ordinary(x.detach())
        seeds = as_seeds(seed, x)
        path = _Path(inner, low, high, atol, rtol)
        if is_ours(inner) and callable(getattr(inner, "log_prob", None)):
            result, calls = inner.log_prob(x, low, **condition), 1
        elif reference is not None:
            result, calls = _from_reference(path, x, reference, condition, seeds)
        else:
            result, calls = path.log_density(x, condition, _signs(x, seeds))
    return checked_end(result.to(x.dtype)[:, None])[:, 0], {"fevals": calls}


@dataclass(frozen=True)
class _Path:
    """The ODE of a model between two levels, with the tolerances of a step."""

    model: Any
    low: float
    high: float
    atol: float
    rtol: float

    def log_density(
        self, x: Tensor, condition: dict[str, Any], signs: Tensor
    ) -> tuple[Tensor, int]:
        """Return (log p(x) float64 [B], NaN where the model was not finite, the model calls)."""
        rates = _rates(self.model, x, condition, signs)
        end = integrate(rates, x, self.low, self.high, self.atol, self.rtol)
        size = x[:1].numel()
        square = end.y.double().flatten(1).square().sum(1) / self.high**2
        prior = -square / 2 - size / 2 * math.log(2 * math.pi * self.high**2)
        return torch.where(end.finite, prior + end.q, math.nan), end.evaluations


def _from_reference(
    path: _Path, x: Tensor, reference: Tensor, condition: dict[str, Any], seeds: Tensor
) -> tuple[Tensor, int]:
    """Return (log p(x) float64 [B], the model calls) by differences of the energy from a reference state."""
    if not (hasattr(path.model, "energy_and_score") or hasattr(path.model, "energy")):
        raise TypeError(
            f"a reference needs a model with an energy, and {name_of(path.model)} has none: leave reference out"
        )
    if not isinstance(reference, Tensor) or reference.shape != x.shape[1:]:
        given = list(reference.shape) if isinstance(reference, Tensor) else type(reference).__name__
        raise ValueError(f"reference must be one state {[*x.shape[1:]]}, got {given}")
    state = as_ordinary(reference.detach()).to(x)[None]
    check_state(state, "reference")
    # States without conditions of their own share one path.
    spread = any(
        isinstance(value, Tensor) and value.dim() > 0 and len(value) > 1
        for value in condition.values()
    )
    rows = state.expand_as(x).contiguous() if spread else state
    # All rows have the same signs, so that rows with the same condition have the same constant.
    signs = _signs(state, seeds[:1]).expand_as(rows)
    start, calls = path.log_density(rows, condition, signs)
    constant = start + energy_of(path.model, rows, path.low, **condition).double()
    return constant - energy_of(path.model, x, path.low, **condition).double(), calls + 2


def _signs(x: Tensor, seeds: Tensor) -> Tensor:
    """Return random signs like x, which depend on the seed and the index of a sample alone."""
    normals = evaluate(Independent(seeds, stream=_PROBE_STREAM), ((0,), (1.0,)), x)
    return torch.where(normals < 0, -1.0, 1.0).to(x.dtype)


def _rates(
    model: Any, x: Tensor, condition: dict[str, Any], signs: Tensor
) -> Callable[[Tensor, Tensor], Rates]:
    """Return the rates of the state and of the log-density with respect to sigma."""
    size = x[:1].numel()

    def rates(u: Tensor, y: Tensor, sigma: Tensor, denoised: Tensor, trace: Tensor) -> Rates:
        return (y - denoised) / expand_sigma(sigma, y), (size - trace) / u

    def exact(u: Tensor, y: Tensor) -> Rates:
        sigma = u.to(y.dtype)
        trace = call_jacobian_trace(model, y, sigma, **condition).double()
        return rates(u, y, sigma, call_denoiser(model, y, sigma, **condition), trace)

    def estimated(u: Tensor, y: Tensor) -> Rates:
        with torch.enable_grad():
            point = y.detach().requires_grad_()
            sigma = u.to(y.dtype)
            denoised = call_denoiser(model, point, sigma, **condition)
            if not denoised.requires_grad:
                raise ValueError(
                    f"log_likelihood differentiates {name_of(model)}, which returns a result without a graph: "
                    "remove torch.no_grad or detach from it, or give it a method jacobian_trace(x, sigma) -> "
                    "tr dD/dx [B]"
                )
            with second_derivatives():
                (product,) = torch.autograd.grad(
                    denoised, point, signs.to(denoised.dtype), materialize_grads=True
                )
        trace = (product.double() * signs).flatten(1).sum(1)
        return rates(u, y, sigma, denoised.detach(), trace)

    return exact if callable(getattr(model, "jacobian_trace", None)) else estimated
