"""Callbacks of the samplers, with the keys and the effects of k-diffusion's.

A callback is called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change the
tensors x and denoised in place. `sample_euler` and `sample_heun` compute the slope before the callback: a change
of x moves the point from which the step starts, and a change of denoised has no effect. `sample_dpmpp_2m` and
`sample_euler_ancestral` compute it afterwards, so both changes have an effect, in `sample_dpmpp_2m` also on the
next step. The start that the caller passed in stays as it is.
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
