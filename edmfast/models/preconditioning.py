"""The coefficients of EDM at each noise level, and the checks of noise levels.

c_in = 1/sqrt(sigma² + sigma_data²), c_skip = sigma_data² c_in², c_out = sigma sigma_data c_in,
c_noise = ln(sigma)/4.  Source: Karras et al. 2022, arXiv 2206.00364, table 1.
Shapes: x [B, *shape]; sigma is a float, [] or [B], in the units of the data.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float
from edmfast._internal.rows import per_sample, shared_rows
from edmfast.models.level_table import level_row, of_level


def expand_sigma(sigma: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return noise levels as a tensor [B, 1, 1, ...] that broadcasts against x, in the dtype of x.

    The values of tensors are not checked, because reading them would wait for the device.

    Args:
        sigma: a float, [] or [B], in the units of x.
        x: [B, *shape], floating. The result is on its device.

    Raises:
        TypeError: an x that is not floating, or a sigma that is not a number.
        ValueError: other shapes, or a Python number that is negative, not finite, or has no square in the dtype
            of x.
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor [B, *shape], given {kind}")
    if x.dim() < 2:
        raise ValueError(f"x must be [B, *shape] with at least 2 dimensions, given {[*x.shape]}")
    if (row := level_row(sigma, x)) is not None:
        return row.reshape([1] * x.dim()).expand(x.shape[0], *[1] * (x.dim() - 1))
    if not isinstance(sigma, torch.Tensor):
        level = _as_level(sigma, x.dtype)
        # one element that is expanded to B rows takes no memory for the rows
        return x.new_full((), level).expand(x.shape[0], *[1] * (x.dim() - 1))
    if sigma.dtype == torch.bool or sigma.is_complex():
        raise TypeError(f"sigma must be real numbers, given {sigma.dtype}")
    if sigma.dim() > 1 or (sigma.dim() == 1 and sigma.shape[0] != x.shape[0]):
        raise ValueError(
            f"sigma must be a float, [] or [B] with B = {x.shape[0]}, given {[*sigma.shape]}"
        )
    levels = sigma.to(device=x.device, dtype=x.dtype).expand(x.shape[0])
    return unsqueeze_like(levels, x)


def _as_level(sigma: float, dtype: torch.dtype) -> float:
    # every call of a model comes through here, so the usual case of a plain float takes one comparison
    level = sigma if type(sigma) is float and sigma > 0 else as_float("sigma", sigma, least=0)
    if level > 0:
        check_level("sigma", level, dtype)
    return level


def noise_levels(x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """Return what `expand_sigma` returns, but only its first row where sigma is one noise level."""
    levels = expand_sigma(sigma, x)
    return levels if isinstance(sigma, torch.Tensor) and sigma.dim() == 1 else levels[:1]


def refuse_zero(model: object, sigma: float | torch.Tensor) -> None:
    """Raise ValueError for a noise level of 0, where a model is defined at positive levels only.

    A tensor is read only on the CPU, where reading waits for nothing, and never inside a trace or a transform.
    Where it is not read, a level of 0 gives NaN.
    """
    refused = None
    if not isinstance(sigma, torch.Tensor):
        refused = "0" if sigma == 0 else None
    elif can_be_read(sigma) and bool((sigma <= 0).any()):
        refused = f"{float(sigma.min()):g} in a tensor"
    if refused is not None:
        raise ValueError(
            f"sigma must be positive, given {refused}: {type(model).__name__} divides by it. At the end of a "
            "schedule, denoise at the last positive level"
        )


def can_be_read(sigma: torch.Tensor) -> bool:
    """Return whether reading the numbers of a tensor waits for no device and breaks no trace or transform."""
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
    """The coefficients for one batch: c_in, c_skip and c_out are [B, 1, ...], c_noise is [B]."""

    c_in: torch.Tensor
    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_noise: torch.Tensor


def edm_scaling(levels: torch.Tensor, sigma_data: float) -> Scaling:
    """Return the coefficients at positive noise levels [B, 1, ...], as `expand_sigma` returns them."""
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
    """Return (levels, coefficients) for a batch: one row per sample, or one row for all where levels has one."""
    name = ("scaling", sigma_data)
    prepared = of_level((levels,), name, (), lambda rows: edm_scaling(rows, sigma_data))
    if prepared is not None:
        return levels, Scaling(*prepared)
    # the coefficients of one level are computed on few rows, with the bits of any batch
    if levels.shape[0] != batch:
        levels = shared_rows(levels)
    scaling = edm_scaling(levels, sigma_data)
    return per_sample(levels, batch), Scaling(*(per_sample(c, batch) for c in scaling))
