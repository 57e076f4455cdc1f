"""The linear multistep method of k-diffusion, in one model call per step.

Source: Adams and Bashforth 1883, with steps of any lengths. The name, the arguments and the callback are
k-diffusion's; the formulas are in `edmfast.sampling.solvers.linear_multistep`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_int
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.engine.run import run
from edmfast.sampling.solvers.linear_multistep import LinearMultistep


@without_gradients
def sample_lms(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 4,
    *,
    compile: bool = False,
) -> Tensor:
    """Sample with the linear multistep method in sigma, in one model call per step.

    Source: Adams and Bashforth 1883; also called rho-AB in DEIS (Zhang and Chen 2023, arXiv 2204.13902).

    Args:
        model, x, sigmas, extra_args, callback, disable, compile: as for `sample_euler`.
        order: the number of slopes that a step uses, from 1 to 7. The first steps use the slopes that there are.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, an order out of
            range, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    solver = LinearMultistep(as_int("order", order, least=1, most=7))
    return run(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        compile=compile,
    )
