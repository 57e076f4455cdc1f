"""The multistep solver DPM-Solver++(2M), which reuses the last denoised state.

In lambda = -ln sigma, with h = lambda_next - lambda and r = h_previous / h,

    x' = (sigma_next / sigma) x - (exp(-h) - 1) D',   D' = D + (D - D_previous) / (2 r).

Because exp(-h) = sigma_next / sigma, a step moves x towards the extrapolated D'. Source: Lu et al. 2022,
"DPM-Solver++", arXiv 2211.01095, algorithm 2; the name and the callback are k-diffusion's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.engine.run import run
from edmfast.sampling.solvers.dpmpp_2m import DPMSolverPP2M


@without_gradients
def sample_dpmpp_2m(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    compile: bool = False,
) -> Tensor:
    """Sample with DPM-Solver++(2M), of second order, in one model call per step.

    The first step, and a last step that ends at 0, are of first order.
    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0; or
            strictly increasing from a positive level, which carries samples back to their noise (inversion).
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            and denoised in place. Both changes act on the step, and a changed denoised also acts on the next one.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        compile: run all steps as one compiled graph, without a callback; see `compiled`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, or the model returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, or a
            model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    return run(DPMSolverPP2M(), model, x, sigmas, extra_args, callback, disable, compile=compile)
