"""Callbacks of the samplers, with the keys and the effects of k-diffusion's.

A callback is called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change the
tensors x and denoised in place. Solvers with `slope_first`, which are those of `sample_euler`, `sample_heun`,
`sample_dpm_2`, `sample_lms` and `sample_dpm_fast`, compute the slope before the callback: a change of x moves the
point from which the step starts, and a change of denoised has no effect. All others compute it afterwards, so both
changes have an effect, and in a multistep solver also on the next step. The start that the caller passed in stays
as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Callback = Callable[[dict[str, Any]], Any]


def first_state(x: Tensor, callback: Callback | None) -> Tensor:
    """Return the state of the first step, which is a copy where a callback could change the caller's tensor."""
    return x if callback is None else x.clone()


def report(
    callback: Callback | None, x: Tensor, i: int, sigma: Tensor, sigma_hat: Tensor, denoised: Tensor
) -> None:
    """Call the callback, if there is one, with k-diffusion's dictionary."""
    if callback is not None:
        # The levels are views of the caller's sigmas, and a callback may change what it gets.
        levels = {"sigma": sigma.clone(), "sigma_hat": sigma_hat.clone()}
        callback({"x": x, "i": i, **levels, "denoised": denoised})
