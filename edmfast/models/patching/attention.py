"""Attention with second derivatives for models written with torch's scaled_dot_product_attention.

While a patched module runs, calls of `torch.nn.functional.scaled_dot_product_attention` go to
`edmfast.ops.attention`. So models whose attention is written that way, such as those of diffusers and
`torch.nn.MultiheadAttention` without weights, can be trained as energies without an edit.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.redirect import redirected
from edmfast.models.backbones.plain_attention import attend as attention
from edmfast.models.calling.origin import is_ours, name_of

_EXCLUDING = -9000.0
"""A number of a mask that excludes a key. The -10000 of diffusers is -9984 in bfloat16."""
_METHODS = ("forward", "energy", "energy_and_score", "denoise")
"""The names of the methods by which models are called."""


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
            "patched attention takes dropout_p=0 and enable_gqa=False only, "
            f"given dropout_p={dropout_p}, enable_gqa={enable_gqa}"
        )
    lead, keys = query.shape[:-2], key.shape[-2]
    batch, key_mask = lead[:1], None
    if attn_mask is not None:
        key_mask = _key_mask(attn_mask).expand(*lead, keys)
        # masks that agree within an entry of the batch let its inner dimensions be heads of one call
        if _differs(key_mask):
            batch = lead
        # the rows of these dimensions agree, so the first stands for all
        for _ in lead[len(batch) :]:
            key_mask = key_mask.select(1, 0)
        key_mask = key_mask.reshape(batch.numel(), keys)
    heads = batch.numel(), lead[len(batch) :].numel()
    # the operator takes one dimension of batch and one of heads
    q, k, v = (
        tensor.expand(*lead, *tensor.shape[-2:]).reshape(*heads, *tensor.shape[-2:])
        for tensor in (query, key, value)
    )
    out = attention(q, k, v, scale, is_causal, key_mask)
    return out.reshape(*query.shape[:-1], value.shape[-1])


def _differs(mask: Tensor) -> bool:
    """Return whether an expanded mask [batch, .., M] has more than one row for an entry of the batch."""
    # an expanded dimension has stride 0, which shows equal rows without reading them
    inner = zip(mask.shape[1:-1], mask.stride()[1:-1], strict=True)
    return any(size == 0 or (size > 1 and stride > 0) for size, stride in inner)


def _key_mask(mask: Tensor) -> Tensor:
    """Return a mask of keys as bool [.., M], True for keys that take part.

    The mask must have one row for all queries, and be bool or consist of zeros and numbers that exclude a key:
    -inf, or the -10000 of diffusers, whose exponential is 0 in every dtype. Floating masks are read on the host.
    Raises ValueError for any other mask.
    """
    if mask.dim() > 1 and mask.shape[-2] != 1:
        raise ValueError(
            "patched attention takes masks of keys, with one row for all queries, "
            f"given shape {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        # an additive mask excludes a key by -inf or by a large number, and 0 keeps it
        kept = mask == 0
        if not bool((kept | (mask <= _EXCLUDING)).all()):
            raise ValueError(
                "patched attention takes masks of bool, or of zeros and numbers of at most "
                f"{_EXCLUDING:g}, given other numbers"
            )
        # a large number added to all keys excludes none of them
        if bool((~kept.any(-1) & (mask > -math.inf).any(-1)).any()):
            raise ValueError(
                "patched attention takes no floating mask that excludes all keys of a row by finite numbers"
            )
        mask = kept
    return mask.squeeze(-2) if mask.dim() > 1 else mask


class _Patched:
    """A method of a patched module, which runs the module's own method with the attention exchanged.

    It is an object that holds its module, so that a deep copy of the module gets a method bound to the copy.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        # a method that was already replaced on the instance stays in force
        self.before = vars(module).get(name)
        functools.update_wrapper(self, getattr(module, name), ("__name__", "__doc__"), ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.before or functools.partial(
            getattr(type(self.module), self.name), self.module
        )
        with redirected(scaled_dot_product_attention=_attend):
            return method(*args, **kwargs)


def patch_attention(module: nn.Module) -> nn.Module:
    """Let a module use `edmfast.ops.attention` instead of torch's attention whenever it is called.

    Derivatives of its attention then exist to second order, in memory linear in the number of positions, so that
    it can be trained as an energy. The module is changed in place and returned; patching it again changes nothing.

    In our models the networks inside are patched, which covers all methods of the model, compiled or not. In an
    energy of your own the methods `forward`, `energy`, `energy_and_score` and `denoise` are patched. Code that
    runs parts of the module again without the module itself, such as torch.utils.checkpoint inside it, gets
    torch's attention there.

    Args:
        module: a network, an `EnergyModel` or `Denoiser` of one, a target made of such models, or an energy of
            your own.

    Raises:
        TypeError: anything but a module.
        ValueError: at a call, where the module uses dropout in its attention, grouped queries, or a mask that
            differs between queries or does more than exclude keys.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"patch_attention takes a torch.nn.Module, given {name_of(module)}: pass the network inside it"
        )
    for part in _foreign_parts(module):
        for name in _METHODS:
            if callable(getattr(part, name, None)) and not isinstance(
                getattr(part, name), _Patched
            ):
                # a plain entry avoids __setattr__ of the module, which may treat the name specially
                part.__dict__[name] = _Patched(part, name)
    return module


def _foreign_parts(module: nn.Module) -> list[nn.Module]:
    """Return the modules to patch: the outermost ones that are not ours.

    A backbone of ours is among them only where a foreign module has been put into it, because our own modules do
    not use torch's attention.
    """
    if not is_ours(module):
        return [module]
    # a user may have put a foreign layer into one of our networks
    if ".backbones." in type(module).__module__:
        kinds = (type(part).__module__.partition(".")[0] for part in module.modules())
        return [module] if set(kinds) - {"edmfast", "torch"} else []
    return [part for child in module.children() for part in _foreign_parts(child)]
