"""Backbones: backbone(y, c_noise, **condition) -> like y.

`BACKBONES` names the classes a saved model can be rebuilt from; each instance carries its
constructor's arguments as `.config`, a JSON-able dictionary. Add a class of your own by
`edmfast.models.register_backbone`.
"""

from torch import nn

from edmfast.models.backbones.dit import DiT
from edmfast.models.backbones.pairwise_mlp import PairwiseMLP
from edmfast.models.backbones.residual_mlp import ResidualMLP
from edmfast.models.backbones.unet import UNet

BACKBONES: dict[str, type[nn.Module]] = {
    "DiT": DiT,
    "PairwiseMLP": PairwiseMLP,
    "ResidualMLP": ResidualMLP,
    "UNet": UNet,
}

__all__ = ["BACKBONES", "DiT", "PairwiseMLP", "ResidualMLP", "UNet"]
