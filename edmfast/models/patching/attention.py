"""Attention with a second derivative inside models written for torch's scaled_dot_product_attention.

While a patched module runs, calls of `torch.nn.functional.scaled_dot_product_attention` go to
`edmfast.ops.attention`. Models whose attention is written that way, such as those of diffusers and
`torch.nn.MultiheadAttention` without weights, can then be trained as energies without editing them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.redirect import redirected
from edmfast.models.backbones.plain_attention import attend as attention
from edmfast.models.calling.foreign import is_ours, name_of

_METHODS = ("forward", "energy", "energy_and_score", "denoise")
"""The methods by which models are called."""


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p or enable_gqa:
        raise ValueError(
            "patched attention has neither dropout nor grouped queries, "
            f"got dropout_p={dropout_p}, enable_gqa={enable_gqa}"
        )
    lead, keys = query.shape[:-2], key.shape[-2]
    batch, key_mask = lead[:1], None
    if attn_mask is not None:
        key_mask = _key_mask(attn_mask).expand(*lead, keys)
        if _differs(key_mask):
            batch = lead
        for _ in lead[len(batch) :]:
            key_mask = key_mask.select(1, 0)
        key_mask = key_mask.reshape(batch.numel(), keys)
    heads = batch.numel(), lead[len(batch) :].numel()
    q, k, v = (
        tensor.expand(*lead, *tensor.shape[-2:]).reshape(*heads, *tensor.shape[-2:])
        for tensor in (query, key, value)
    )
    out = attention(q, k, v, scale, is_causal, key_mask)
    return out.reshape(*query.shape[:-1], value.shape[-1])


def _differs(mask: Tensor) -> bool:
    """Whether an expanded mask [batch, .., M] has more than one row for an entry of the batch."""
    inner = zip(mask.shape[1:-1], mask.stride()[1:-1], strict=True)
    return any(size == 0 or (size > 1 and stride > 0) for size, stride in inner)


def _key_mask(mask: Tensor) -> Tensor:
    """bool [.., M] of a mask that is the same for all queries: bool, or of zeros and -inf, which is
    looked at on the host. ValueError for any other."""
    if mask.dim() > 1 and mask.shape[-2] != 1:
        raise ValueError(
            "patched attention takes masks of keys, of one row for all queries, "
            f"got shape {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        kept = mask == 0
        if not bool((kept | (mask == -math.inf)).all()):
            raise ValueError("patched attention takes no mask but of zeros and -inf, or of bool")
        mask = kept
    return mask.squeeze(-2) if mask.dim() > 1 else mask


class _Patched:
    """A method of a patched module. An object that knows its module, so that a copy of the module gets a method of
    its own."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.before = vars(module).get(name)
        functools.update_wrapper(self, getattr(module, name), ("__name__", "__doc__"), ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.before or functools.partial(
            getattr(type(self.module), self.name), self.module
        )
        with redirected(scaled_dot_product_attention=_attend):
            return method(*args, **kwargs)


def patch_attention(module: nn.Module) -> nn.Module:
    """Make `module`, whenever it is called, attend by `edmfast.ops.attention`; returns it.

    module: a network, an `EnergyModel` or `Denoiser` of one, a target made of such, or an energy of your own. Of
    our models it is the networks inside that are patched, so that every method of theirs is covered, compiled or
    not; of an energy of your own its `forward`, `energy`, `energy_and_score` and `denoise` are.

    Derivatives of its attention then exist to second order, in memory linear in the length. Its forward
    raises ValueError where it asks for dropout, grouped queries, or a mask that differs between queries
    or does more than leave keys out. Patching twice is patching once. What runs the module's parts again
    without the module, as torch.utils.checkpoint inside it does, gets torch's attention there.
    Raises TypeError for anything but a module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"patch_attention takes a torch.nn.Module, given {name_of(module)}: patch the network inside it"
        )
    for part in _foreign_parts(module):
        for name in _METHODS:
            if callable(getattr(part, name, None)) and not isinstance(
                getattr(part, name), _Patched
            ):
                # past __setattr__ of modules, which may know the name
                part.__dict__[name] = _Patched(part, name)
    return module


def _foreign_parts(module: nn.Module) -> list[nn.Module]:
    """Return the modules to patch: the outermost that are not ours, and a network of ours only where somebody has
    put a module of theirs into it, since our own have no attention of torch's."""
    if not is_ours(module):
        return [module]
    if ".backbones." in type(module).__module__:
        kinds = (type(part).__module__.partition(".")[0] for part in module.modules())
        return [module] if set(kinds) - {"edmfast", "torch"} else []
    return [part for child in module.children() for part in _foreign_parts(child)]
