"""DPM-Solver-fast under k-diffusion's name, which takes a number of model calls and a range of noise levels.

Source: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float, as_int
from edmfast.models.protocols import Denoiser
from edmfast.sampling.adaptive.dpm_solver import DPMSolver
from edmfast.sampling.adaptive.span import times_of, with_levels
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.noise import NoiseSampler

Seeds = int | Sequence[int] | Tensor | None


@without_gradients
def sample_dpm_fast(
    model: Denoiser,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    n: int,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    *,
    seed: Seeds = None,
    compile: bool = False,
) -> Tensor:
    """Sample with DPM-Solver-fast in n model calls: steps of order 3, and a last one or two of lower order.

    Source: Lu et al. 2022, arXiv 2206.00927, section 3.4.

    Args:
        model, extra_args, disable, seed, compile: as for `sample_euler`.
        x: the noisy states [B, *shape], at the noise level sigma_max.
        sigma_min: the noise level of the result, in units of x, positive. Above sigma_max it carries samples
            back to their noise.
        sigma_max: the noise level of x, positive.
        n: the number of model calls, at least 1.
        callback: called once per step with a dictionary of x, i, t = -ln sigma, t_up, sigma, sigma_hat and
            denoised. It may change x in place, which moves the point from which the step starts; a change of
            denoised has no effect.
        eta: 0 gives the ODE without noise, and 1 ancestral noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called where noise is added; by
            default independent noise that depends on the seed and the sample's index alone.

    Returns:
        The states [B, *shape] at the noise level sigma_min, without gradients.

    Raises:
        TypeError: x is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x of another shape or not finite, levels that are not positive or equal, another number out
            of range, eta > 0 for a noise that rises, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    start, end = times_of(x, sigma_min, sigma_max)
    n = as_int("n", n, least=1)
    eta, s_noise = as_float("eta", eta, least=0), as_float("s_noise", s_noise, least=0)
    if start == end:
        raise ValueError(f"sigma_min and sigma_max must differ, got {float(sigma_min):g} for both")
    solver = DPMSolver(model, extra_args, info_callback=with_levels(callback, x))
    return solver.dpm_solver_fast(
        x,
        start,
        end,
        n,
        eta,
        s_noise,
        noise_sampler,
        disable=disable,
        seed=seed,
        compile=compile,
    )
