"""Check the arguments of norms, and combine them into one scale and one shift."""

from __future__ import annotations

from torch import Tensor

from edmfast._internal.derivatives import refuse_transforms
from edmfast._internal.numbers import as_float
from edmfast.ops._shared.dtypes import DTYPES, arithmetic


def check(name: str, x: Tensor, eps: float, **numbers: Tensor | None) -> float:
    """Return eps as a float.

    Raises TypeError for a dtype, and ValueError for a device or an eps, that a norm cannot take; RuntimeError
    under forward mode and transforms of functions.
    """
    present = {key: tensor for key, tensor in numbers.items() if tensor is not None}
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    # weights are computed in the dtype of x, where wider ones would lose digits without notice
    widest = arithmetic(x.dtype)
    for key, tensor in present.items():
        if tensor.dtype not in DTYPES or tensor.dtype.itemsize > widest.itemsize:
            raise TypeError(f"{key} must be no wider than {widest}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{key} must be on {x.device} as x, got {tensor.device}")
    eps = as_float("eps", eps, least=0)
    refuse_transforms(name, x, *present.values())
    return eps


def check_shapes(batch: int, channels: int, **numbers: Tensor | None) -> None:
    """Raise ValueError unless weight and bias are [channels], scale and shift [batch or 1, channels]."""
    for key, tensor in numbers.items():
        if tensor is None:
            continue
        of_layer = key in ("weight", "bias")
        accepted = [(channels,)] if of_layer else [(batch, channels), (1, channels)]
        if all(tensor.shape != shape for shape in accepted):
            wanted = [channels] if of_layer else f"[{batch} or 1, {channels}]"
            raise ValueError(f"{key} must be {wanted}, got {[*tensor.shape]}")


def combined(
    x: Tensor,
    channels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return one scale and one shift [1 or B, C]: weight (1 + scale) and bias (1 + scale) + shift."""
    dtype = arithmetic(x.dtype)
    # absent weights become ones and zeros, so that the operator has one form
    factor = x.new_ones(1, channels, dtype=dtype) if weight is None else weight.to(dtype)[None]
    term = x.new_zeros(1, channels, dtype=dtype) if bias is None else bias.to(dtype)[None]
    if scale is not None:
        steered = 1 + scale.to(dtype)
        factor = steered if weight is None else factor * steered
        term = term if bias is None else term * steered
    if shift is not None:
        term = shift.to(dtype) if bias is None else term + shift.to(dtype)
    # one row serves all samples where none has numbers of its own
    shared = all(tensor is None or tensor.shape[0] == 1 for tensor in (scale, shift))
    sets = 1 if shared else x.shape[0]
    return factor.expand(sets, channels), term.expand(sets, channels)
