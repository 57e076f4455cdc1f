"""The one entry for every solver of `edmfast.sampling.solvers`, and for those that a user describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.engine import Solver
from edmfast.sampling.engine.run import run
from edmfast.sampling.noise import NoiseSampler


@without_gradients
def sample(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    solver: Solver,
    *,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
    seed: int | Sequence[int] | Tensor | None = None,
    compile: bool = False,
) -> Tensor:
    """Sample with any solver, for example `sample(model, x, sigmas, solvers.Heun())`.

    The coefficients of a solver over a grid are computed once and kept, and a step is one pass over the states for
    each model call.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0; or
            strictly increasing from a positive level, where the solver allows it. The last positive level of
            three or more may be there twice, where the solver allows it.
        solver: an object of `edmfast.sampling.solvers`, or of another subclass of `engine.Solver`.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called where noise is added; by
            default noise from counters.
        seed: the seed of that noise, an integer or one for each sample [B]; by default a draw of torch's
            generator.
        compile: run all steps as one compiled graph, without a callback; see `compiled`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, solver is not an `engine.Solver`, or the model
            returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, or a model that
            returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    if not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be an object of edmfast.sampling.solvers, got {type(solver).__name__}: {solver!r}"
        )
    return run(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler=noise_sampler,
        seed=seed,
        compile=compile,
    )
