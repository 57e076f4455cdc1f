"""Replacement of torch's layers in an existing network by layers with operators for their derivatives."""

from __future__ import annotations

import copy
import itertools

from torch import nn

from edmfast._internal.dispatch import as_written
from edmfast.nn.attention import Attention
from edmfast.nn.norms import GroupNorm, GroupNormSiLU, LayerNorm, RMSNorm

_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.MultiheadAttention: Attention,
    nn.LayerNorm: LayerNorm,
    nn.RMSNorm: RMSNorm,
    nn.GroupNorm: GroupNorm,
}


def replace_layers(module: nn.Module) -> nn.Module:
    """Turn the layers of torch inside a module into those of `edmfast.nn`, in place, and return the module.

    LayerNorm, RMSNorm, GroupNorm and MultiheadAttention change, and so does a GroupNorm before a SiLU in an
    nn.Sequential, which becomes one GroupNormSiLU and an nn.Identity; call such a chain as a whole. Parameters
    stay the same objects, so that optimizers, hooks and state dicts remain valid. Subclasses of torch's layers,
    and layers whose forward has been replaced, are left as they are. Calling it again changes nothing.

    Attention that a network writes by torch's scaled_dot_product_attention is no layer;
    `edmfast.models.patch_attention` covers it.

    Args:
        module: a network, or one layer.

    Raises:
        TypeError: anything but a module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"replace_layers takes a torch.nn.Module, given {type(module).__name__}")
    for part in list(module.modules()):
        ours = _LAYERS.get(type(part))
        if ours is not None and "forward" not in vars(part):
            # our layers are subclasses without attributes of their own, so that all of the state stays valid
            part.__class__ = ours
        if type(part) is nn.Sequential:
            _fuse(part)
    return module


def _fuse(chain: nn.Sequential) -> None:
    """Let every group norm of a chain include the SiLU after it."""
    names, parts = list(chain._modules), list(chain)
    for at, (norm, activation) in enumerate(itertools.pairwise(parts)):
        plain = type(norm) in (nn.GroupNorm, GroupNorm) and type(activation) is nn.SiLU
        # a hook between the two would see another value
        if plain and as_written(norm) and as_written(activation):
            # the copy shares all state, and the norm stays as it is where the network also uses it elsewhere
            chain._modules[names[at]] = fused = copy.copy(norm)
            fused.__class__ = GroupNormSiLU
            chain._modules[names[at + 1]] = nn.Identity()
