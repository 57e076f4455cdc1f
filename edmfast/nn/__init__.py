"""Layers with the names, parameters and results of torch.nn, whose derivatives to second order are operators.

Each layer is a subclass of torch's, so that state dicts, `isinstance` and every argument of the constructor stay
as they are. `replace_layers` turns the layers of an existing network into these.
"""

from edmfast.nn.attention import Attention
from edmfast.nn.norms import GroupNorm, GroupNormSiLU, LayerNorm, RMSNorm
from edmfast.nn.replace import replace_layers

__all__ = ["Attention", "GroupNorm", "GroupNormSiLU", "LayerNorm", "RMSNorm", "replace_layers"]
