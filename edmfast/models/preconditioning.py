"""EDM noise-level coefficients, broadcast over a batch.

c_in = 1/sqrt(sigma² + sigma_data²), c_skip = sigma_data² c_in², c_out = sigma sigma_data c_in,
c_noise = ln(sigma)/4.  Source: Karras et al. 2022, arXiv 2206.00364, table 1.
Shapes: x [B, *shape]; sigma is a float, [] or [B], in the units of the data.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.numbers import as_float, check_level
from edmfast._internal.rows import per_sample, shared_rows


def expand_sigma(sigma: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Noise levels as a [B, 1, 1, ...] tensor that broadcasts against x.

    x: floating [B, *shape]. sigma: float, [] or [B]. The result has x's dtype and device.
    Raises TypeError for a non-floating x and a sigma that is no number, ValueError for other shapes and,
    where sigma is a Python number, for one that is negative, not finite, or has no square in x's dtype
    (tensors are not read back to the host).
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor [B, *shape], given {given}")
    if x.dim() < 2:
        raise ValueError(f"x must be [B, *shape] with at least 2 dimensions, given {[*x.shape]}")
    if not isinstance(sigma, torch.Tensor):
        level = _as_level(sigma, x.dtype)
        return x.new_full((), level).expand(x.shape[0], *[1] * (x.dim() - 1))
    if sigma.dtype == torch.bool or sigma.is_complex():
        raise TypeError(f"sigma must be real numbers, given {sigma.dtype}")
    if sigma.dim() > 1 or (sigma.dim() == 1 and sigma.shape[0] != x.shape[0]):
        raise ValueError(
            f"sigma must be a float, [] or [B] with B = {x.shape[0]}, given {[*sigma.shape]}"
        )
    levels = sigma.to(device=x.device, dtype=x.dtype).expand(x.shape[0])
    return levels.reshape(-1, *[1] * (x.dim() - 1))


def _as_level(sigma: float, dtype: torch.dtype) -> float:
    # this is on the way of every call of a model, so a plain float is looked at once
    level = sigma if type(sigma) is float and sigma > 0 else as_float("sigma", sigma, least=0)
    if level > 0:
        check_level("sigma", level, dtype)
    return level


def noise_levels(x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """As `expand_sigma`, of one row where sigma is one noise level."""
    levels = expand_sigma(sigma, x)
    return levels if isinstance(sigma, torch.Tensor) and sigma.dim() == 1 else levels[:1]


def refuse_zero(model: object, sigma: float | torch.Tensor) -> None:
    """Raise ValueError for the number 0 as the noise level of a model that is known at positive levels only.

    A tensor is looked at on the CPU only, where that waits for nothing, and not within a trace or a transform.
    Elsewhere a level of 0 gives NaN.
    """
    given = None
    if not isinstance(sigma, torch.Tensor):
        given = "0" if sigma == 0 else None
    elif _can_be_read(sigma) and bool((sigma <= 0).any()):
        given = f"{float(sigma.min()):g} in a tensor"
    if given is not None:
        raise ValueError(
            f"sigma must be positive, given {given}: {type(model).__name__} divides by it. At the end of a "
            "schedule, denoise at the last positive level"
        )


def _can_be_read(sigma: torch.Tensor) -> bool:
    return (
        type(sigma) is torch.Tensor
        and sigma.device.type == "cpu"
        and sigma.numel() > 0
        and not torch.compiler.is_compiling()
        and get_proxy_mode() is None
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def check_sigma_data(sigma_data: float) -> float:
    """Return sigma_data as a float. Raises ValueError unless it is positive and its square fits float32."""
    number = as_float("sigma_data", sigma_data, positive=True)
    check_level("sigma_data", number, torch.float32)
    return number


class Scaling(NamedTuple):
    """Coefficients of one batch: c_in, c_skip, c_out are [B, 1, ...]; c_noise is [B]."""

    c_in: torch.Tensor
    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_noise: torch.Tensor


def edm_scaling(levels: torch.Tensor, sigma_data: float) -> Scaling:
    """Coefficients at noise levels [B, 1, ...] (as `expand_sigma` returns them, positive)."""
    c_in = (levels.square() + sigma_data**2).rsqrt()
    return Scaling(
        c_in=c_in,
        c_skip=sigma_data**2 * c_in.square(),
        c_out=sigma_data * levels * c_in,
        c_noise=levels.flatten().log() / 4,
    )


def shared_scaling(
    levels: torch.Tensor, batch: int, sigma_data: float
) -> tuple[torch.Tensor, Scaling]:
    """(levels, coefficients) for a batch, with a row for each sample or, where levels is one row, one for all."""
    if levels.shape[0] != batch:
        levels = shared_rows(levels)
    scaling = edm_scaling(levels, sigma_data)
    return per_sample(levels, batch), Scaling(*(per_sample(c, batch) for c in scaling))
