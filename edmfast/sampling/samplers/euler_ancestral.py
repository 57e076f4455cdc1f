"""The stochastic single-step solver: Euler's method with ancestral noise.

A step from sigma to sigma_next is a deterministic move to sigma_down < sigma_next followed by fresh noise of
standard deviation sigma_up, with sigma_down² + sigma_up² = sigma_next² (see `get_ancestral_step`). Sources: Ho et
al. 2020, arXiv 2006.11239 (ancestral sampling); Song et al. 2021, arXiv 2010.02502 (eta). The name and the
callback are k-diffusion's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.engine.run import run
from edmfast.sampling.noise import NoiseSampler
from edmfast.sampling.solvers.euler import AncestralEuler


@without_gradients
def sample_euler_ancestral(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    *,
    seed: int | Sequence[int] | Tensor | None = None,
    compile: bool = False,
) -> Tensor:
    """Sample ancestrally with Euler steps, in one model call per step.

    Sources: Ho et al. 2020, arXiv 2006.11239; Song et al. 2021, arXiv 2010.02502 (eta).

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0. With
            eta = 0, which is Euler's method, they may also increase strictly from a positive level.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            and denoised in place, and both changes act on the step.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        eta: 1 gives ancestral sampling, and 0 gives the ODE without noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called where noise is added; by
            default noise that depends on torch's seed and the sample's index alone, see `noise_sampler`.
        seed: the seed of that noise, an integer or one for each sample [B]; by default a draw of torch's
            generator.
        compile: run all steps as one compiled graph, without a callback; see `compiled`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, or the model returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative eta or
            s_noise, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    eta = as_float("eta", eta, least=0, finite=False)
    s_noise = as_float("s_noise", s_noise, least=0)
    # Only the ODE can run upwards: the ancestral split has no real value for a level that rises.
    return run(
        AncestralEuler(eta, s_noise),
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler=noise_sampler,
        seed=seed,
        compile=compile,
        rising=eta == 0,
    )
