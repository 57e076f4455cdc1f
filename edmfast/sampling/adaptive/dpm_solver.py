"""DPM-Solver as an object whose steps can be taken one by one, under k-diffusion's names.

Times are t = -ln sigma, tensors without dimensions, whose dtype is the one that coefficients are computed in.
The formulas of the steps are in `edmfast.sampling.solvers.shared.dpm_solver_steps`. Source: Lu et al. 2022,
"DPM-Solver", arXiv 2206.00927; the adaptive method is its algorithm 3 with k-diffusion's controller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.protocols import Denoiser
from edmfast.ops.linear_combination import linear_combination
from edmfast.sampling.adaptive.controller import PIDStepSizeController
from edmfast.sampling.engine import Expression
from edmfast.sampling.engine.run import run
from edmfast.sampling.noise import NoiseSampler
from edmfast.sampling.solvers.dpm_fast import DPMSolverFast, orders_of
from edmfast.sampling.solvers.shared.dpm_solver_steps import R1, SingleStep, ancestral_move

Cache = dict[str, Tensor]
_NEAR_END = 1e-5
"""A run ends where its time is so near to the last one."""


class DPMSolver(nn.Module):
    """The steps of DPM-Solver for one model, one by one or a whole run.

    States x are [B, *shape], and times are t = -ln sigma, tensors without dimensions.
    Source: Lu et al. 2022, arXiv 2206.00927; names and arguments are those of k-diffusion.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        extra_args: keyword conditions for the model.
        eps_callback: called without arguments after every model call.
        info_callback: called in every step with a dictionary; see `sample_dpm_fast` and `sample_dpm_adaptive`.

    Attributes:
        time_callback: called with the time after every step of `dpm_solver_adaptive`, None by default.

    Raises:
        TypeError: in a step, the model returns no tensor.
        ValueError: in a step, the model returns another shape. In a run, eta > 0 where the noise rises, or with
            adaptive steps a model that returns NaN or infinity, or tolerances that no step meets.
    """

    def __init__(
        self,
        model: Denoiser,
        extra_args: dict[str, Any] | None = None,
        eps_callback: Callable[[], Any] | None = None,
        info_callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.extra_args = dict(extra_args or {})
        self.eps_callback, self.info_callback = eps_callback, info_callback
        self.time_callback: Callable[[Tensor], Any] | None = None

    def t(self, sigma: Tensor) -> Tensor:
        """Return the time -ln sigma of a level."""
        return -sigma.log()

    def sigma(self, t: Tensor) -> Tensor:
        """Return the level exp(-t) of a time."""
        return t.neg().exp()

    def eps(
        self, eps_cache: Cache, key: str, x: Tensor, t: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Cache]:
        """Return ((x - D) / sigma, the cache with it under the key), by a model call unless the cache holds it."""
        if key in eps_cache:
            return eps_cache[key], eps_cache
        level = float(self.sigma(t))
        sigma = x.new_full((len(x),), level)
        denoised = call_denoiser(self.model, x, sigma, *args, **self.extra_args, **kwargs)
        if self.eps_callback is not None:
            self.eps_callback()
        eps = linear_combination([x, denoised], [1 / level, -1 / level])
        return eps, {key: eps, **eps_cache}

    def dpm_solver_1_step(
        self, x: Tensor, t: Tensor, t_next: Tensor, eps_cache: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """Return (the states at t_next by a step of order 1, the cache of eps)."""
        _, cache = self.eps(eps_cache or {}, "eps", x, t)
        return _states(SingleStep(t, t_next).first(), x, cache), cache

    def dpm_solver_2_step(
        self,
        x: Tensor,
        t: Tensor,
        t_next: Tensor,
        r1: float = 1 / 2,
        eps_cache: Cache | None = None,
    ) -> tuple[Tensor, Cache]:
        """Return (the states at t_next by a step of order 2, the cache of eps).

        r1: the place of the second model call in the step.
        """
        step = SingleStep(t, t_next)
        cache = self._evaluated(x, step, r1, eps_cache)
        return _states(step.second(r1), x, cache), cache

    def dpm_solver_3_step(
        self,
        x: Tensor,
        t: Tensor,
        t_next: Tensor,
        r1: float = 1 / 3,
        r2: float = 2 / 3,
        eps_cache: Cache | None = None,
    ) -> tuple[Tensor, Cache]:
        """Return (the states at t_next by a step of order 3, the cache of eps).

        r1, r2: the places of the second and the third model call in the step.
        """
        step = SingleStep(t, t_next)
        cache = self._evaluated(x, step, r1, eps_cache)
        if "eps_r2" not in cache:
            stage = _states(step.third_stage(r1, r2), x, cache)
            _, cache = self.eps(cache, "eps_r2", stage, step.place(r2))
        return _states(step.third(r2), x, cache), cache

    def dpm_solver_fast(
        self,
        x: Tensor,
        t_start: Tensor,
        t_end: Tensor,
        nfe: int,
        eta: float = 0.0,
        s_noise: float = 1.0,
        noise_sampler: NoiseSampler | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the states at t_end after nfe model calls; see `sample_dpm_fast`.

        options: `disable`, `seed` and `compile`, as for `sample_dpm_fast`.
        """
        if eta and not t_end > t_start:
            raise ValueError(
                f"eta must be 0 where the noise rises, got eta = {eta} from sigma = {self.sigma(t_start):g} to "
                f"{self.sigma(t_end):g}"
            )
        ts = torch.linspace(
            float(t_start), float(t_end), len(orders_of(nfe)) + 1, dtype=t_start.dtype, device="cpu"
        )
        solver = DPMSolverFast(nfe, eta, s_noise, t_start.dtype, tuple(ts.tolist()))
        return run(
            solver,
            # The graphs of compiled runs are kept with the model itself.
            self.model if self.eps_callback is None else self._counted,
            x,
            self.sigma(ts).to(x.device),
            self.extra_args,
            self._informed(ts),
            noise_sampler=noise_sampler,
            rising=not eta,
            **{"disable": True, **options},
        )

    def dpm_solver_adaptive(
        self,
        x: Tensor,
        t_start: Tensor,
        t_end: Tensor,
        order: int = 3,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h_init: float = 0.05,
        pcoeff: float = 0.0,
        icoeff: float = 1.0,
        dcoeff: float = 0.0,
        accept_safety: float = 0.81,
        eta: float = 0.0,
        s_noise: float = 1.0,
        noise_sampler: NoiseSampler | None = None,
    ) -> tuple[Tensor, dict[str, int]]:
        """Return (the states at t_end, the counts of steps and model calls); see `sample_dpm_adaptive`.

        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, torch.randn_like by default.
        """
        forward = bool(t_end > t_start)
        if eta and not forward:
            raise ValueError(
                f"eta must be 0 where the noise rises, got eta = {eta} from sigma = {self.sigma(t_start):g} to "
                f"{self.sigma(t_end):g}"
            )
        pid = PIDStepSizeController(
            abs(h_init) * (1 if forward else -1),
            pcoeff,
            icoeff,
            dcoeff,
            1.5 if eta else order,
            accept_safety,
        )
        # The tolerances are rounded as k-diffusion rounds them.
        rtol, atol = (float(torch.tensor(value, device="cpu")) for value in (rtol, atol))
        info = {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0}
        # The error of no states is unknown, and there is nothing to do.
        if not x.numel():
            return x, info
        s, previous = t_start, x
        while s < t_end - _NEAR_END if forward else s > t_end + _NEAR_END:
            t = s + pid.h
            t = torch.minimum(t_end, t) if forward else torch.maximum(t_end, t)
            if t == s:
                raise ValueError(
                    f"atol = {atol:g} and rtol = {rtol:g} are too small for this model: no step from sigma = "
                    f"{self.sigma(s):g} meets them"
                )
            end, fresh = ancestral_move(s, t, t_end, eta)
            start, sigma = x, float(self.sigma(s))
            eps, cache = self.eps({}, "eps", x, s)
            if order == 2:
                low, cache = self.dpm_solver_1_step(x, s, end, cache)
                high, cache = self.dpm_solver_2_step(x, s, end, eps_cache=cache)
            else:
                low, cache = self.dpm_solver_2_step(x, s, end, R1, cache)
                high, cache = self.dpm_solver_3_step(x, s, end, eps_cache=cache)
            delta = low.abs().maximum(previous.abs()).mul_(rtol).clamp_(min=atol)
            error = torch.linalg.vector_norm((low - high).div_(delta)) / x.numel() ** 0.5
            if not bool(error.isfinite()):
                raise ValueError(
                    f"the model returned NaN or infinity at sigma = {self.sigma(s):g} or in the step after it, so "
                    "that the error of the step is unknown"
                )
            if pid.propose_step(error):
                previous, x, s, interval = low, high, t, (self.sigma(s), self.sigma(t))
                if fresh:
                    noise = (
                        torch.randn_like(x) if noise_sampler is None else noise_sampler(*interval)
                    )
                    x = x.add_(noise, alpha=float(fresh * s_noise))
                info["n_accept"] += 1
            else:
                info["n_reject"] += 1
            info["nfe"] += order
            info["steps"] += 1
            if self.time_callback is not None:
                self.time_callback(s)
            if self.info_callback is not None:
                denoised = linear_combination([start, eps], [1.0, -sigma])
                seen = {"x": x, "i": info["steps"] - 1, "t": s, "t_up": s, "denoised": denoised}
                self.info_callback({**seen, "error": error, "h": pid.h, **info})
        return x, info

    def _evaluated(self, x: Tensor, step: SingleStep, r1: float, cache: Cache | None) -> Cache:
        """Return the cache with "eps" and "eps_r1"."""
        _, cache = self.eps(cache or {}, "eps", x, step.t)
        if "eps_r1" not in cache:
            _, cache = self.eps(cache, "eps_r1", _states(step.first(r1), x, cache), step.place(r1))
        return cache

    def _counted(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        denoised: Tensor = self.model(x, sigma, **condition)
        if self.eps_callback is not None:
            self.eps_callback()
        return denoised

    def _informed(self, ts: Tensor) -> Callable[[dict[str, Any]], Any] | None:
        """Return the callback of a run over the times ts."""
        callback = self.info_callback
        if callback is None:
            return None

        def inform(seen: dict[str, Any]) -> None:
            i = seen["i"]
            callback(
                {"x": seen["x"], "i": i, "t": ts[i].clone(), "t_up": ts[i].clone()}
                | {"denoised": seen["denoised"]}
            )

        return inform


def _states(expression: Expression, x: Tensor, cache: Cache) -> Tensor:
    """Return the value of an expression in the registers "x" and those of the cache."""
    tensors = [x if name == "x" else cache[name] for name in expression.terms]
    return linear_combination(tensors, list(expression.terms.values()))
