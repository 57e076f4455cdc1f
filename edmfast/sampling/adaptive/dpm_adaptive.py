"""The adaptive DPM-Solver, with k-diffusion's arguments.

It takes a range of noise levels instead of a grid. Source: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_bool, as_float, as_int
from edmfast._internal.progress import progress_bar
from edmfast.models.protocols import Denoiser
from edmfast.sampling.adaptive.dpm_solver import DPMSolver
from edmfast.sampling.adaptive.span import times_of, with_levels
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.checks import checked_end
from edmfast.sampling.noise import NoiseSampler, noise_of_run
from edmfast.sampling.noise.foreign import checked
from edmfast.sampling.noise.source import evaluate

Seeds = int | Sequence[int] | Tensor | None


@overload
def sample_dpm_adaptive(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: dict[str, Any] | None = ...,
    callback: Callback | None = ...,
    disable: bool | None = ...,
    order: int = ...,
    rtol: float = ...,
    atol: float = ...,
    h_init: float = ...,
    pcoeff: float = ...,
    icoeff: float = ...,
    dcoeff: float = ...,
    accept_safety: float = ...,
    eta: float = ...,
    s_noise: float = ...,
    noise_sampler: NoiseSampler | None = ...,
    return_info: Literal[False] = ...,
    *,
    seed: Seeds = ...,
) -> Tensor: ...


@overload
def sample_dpm_adaptive(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: dict[str, Any] | None = ...,
    callback: Callback | None = ...,
    disable: bool | None = ...,
    order: int = ...,
    rtol: float = ...,
    atol: float = ...,
    h_init: float = ...,
    pcoeff: float = ...,
    icoeff: float = ...,
    dcoeff: float = ...,
    accept_safety: float = ...,
    eta: float = ...,
    s_noise: float = ...,
    noise_sampler: NoiseSampler | None = ...,
    *,
    return_info: Literal[True],
    seed: Seeds = ...,
) -> tuple[Tensor, dict[str, int]]: ...


@without_gradients
def sample_dpm_adaptive(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
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
    return_info: bool = False,
    *,
    seed: Seeds = None,
) -> Tensor | tuple[Tensor, dict[str, int]]:
    """Sample with DPM-Solver of order 2 or 3, in steps as long as the difference from one order less allows.

    The error of a step is one number for the whole batch, as in k-diffusion: the root mean square of
    (x_low - x_high) / max(atol, rtol max(|x_low|, |x_previous|)). The steps, and with them the result of a sample,
    therefore depend on the other samples of the batch. The model receives one level for all.
    Sources: Lu et al. 2022, arXiv 2206.00927, algorithm 3 (DPM-Solver-12 and 23); Söderlind 2003 (the controller).

    Args:
        model, extra_args: as for `sample_euler`.
        x: the noisy states [B, *shape], at the noise level sigma_max.
        sigma_min: the noise level of the result, in units of x, positive. Above sigma_max it carries samples
            back to their noise.
        sigma_max: the noise level of x, positive.
        callback: called after every accepted or rejected step with a dictionary of x, i, t = -ln sigma, t_up,
            sigma, sigma_hat, denoised, error, h, steps, nfe, n_accept and n_reject. It may change x in place.
        disable: True shows no progress. Other values show how much of the way in ln sigma is done, in percent.
        order: 2 or 3. A step takes as many model calls, and so does a rejected one.
        rtol, atol: the relative and the absolute tolerance, not both 0. atol is in units of x.
        h_init: the length of the first step in ln sigma, not 0.
        pcoeff, icoeff, dcoeff, accept_safety: see `PIDStepSizeController`.
        eta: 0 gives the ODE without noise, and 1 ancestral noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called after accepted steps
            where noise is added; by default independent noise that depends on the seed and the sample's index
            alone.
        return_info: return a pair of the states and their counts.
        seed: the seed of that noise, an integer or one for each sample [B]; by default a draw of torch's
            generator.

    Returns:
        The states [B, *shape] at the noise level sigma_min, without gradients. With return_info a pair of them
        and a dictionary of the counts steps, nfe (model calls), n_accept and n_reject.

    Raises:
        TypeError: x is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x of another shape or not finite, levels that are not positive, another number out of range,
            eta > 0 for a noise that rises, a model that returns another shape or NaN, or tolerances that no step
            meets.
    """
    start, end = times_of(x, sigma_min, sigma_max)
    order = as_int("order", order, least=2, most=3)
    rtol, atol = as_float("rtol", rtol, least=0), as_float("atol", atol, least=0)
    if rtol == atol == 0:
        raise ValueError("rtol and atol must not both be 0, because no step has an error of 0")
    h_init = abs(as_float("h_init", h_init))
    if h_init == 0:
        raise ValueError("h_init must not be 0, because it is the length of the first step")
    controller = {"pcoeff": pcoeff, "icoeff": icoeff, "dcoeff": dcoeff}
    controller = {name: as_float(name, value) for name, value in controller.items()}
    accept_safety = as_float("accept_safety", accept_safety)
    eta, s_noise = as_float("eta", eta, least=0), as_float("s_noise", s_noise, least=0)
    return_info = as_bool("return_info", return_info)
    draw = _draw(noise_sampler, x, seed, needed=eta > 0)
    with progress_bar(100, unit="%", disable=disable) as bar:

        def advance(t: Tensor) -> None:
            # The share of the way is a number on the host already.
            done = int(100 * float((t - start) / (end - start)))
            bar.update(done - bar.n)

        solver = DPMSolver(model, extra_args, info_callback=with_levels(callback, x))
        solver.time_callback = advance
        result, info = solver.dpm_solver_adaptive(
            x.clone(),
            start,
            end,
            order,
            rtol,
            atol,
            h_init,
            accept_safety=accept_safety,
            eta=eta,
            s_noise=s_noise,
            noise_sampler=draw,
            **controller,
        )
    checked_end(result)
    return (result, info) if return_info else result


def _draw(
    noise_sampler: NoiseSampler | None, x: Tensor, seed: Seeds, *, needed: bool
) -> NoiseSampler:
    """Return the noise sampler of a run that does not know how many draws it needs."""
    if noise_sampler is not None and seed is None:
        return checked(noise_sampler, x)
    source: Any = noise_of_run(noise_sampler, x, seed=seed, calls=int(needed))
    calls = itertools.count()

    def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return evaluate(source, source.nodes(next(calls), float(sigma), float(sigma_next)), x)

    return draw
