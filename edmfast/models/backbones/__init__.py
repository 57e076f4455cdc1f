"""Backbones, the networks inside models: backbone(y [B, *shape], c_noise [B], **condition) -> like y.

ResidualMLP for vectors, PairwiseMLP for systems of particles, UNet and DiT for images, SongUNet and DhariwalUNet
for images with the weights of EDM. `BACKBONES` names the classes from which a saved model can be rebuilt. Each
instance carries the arguments of its constructor as `config`, a dictionary that JSON can hold.
`edmfast.models.register_backbone` adds a class of your own.
"""

from torch import nn

from edmfast.models.backbones.dit import DiT
from edmfast.models.backbones.edm import DhariwalUNet, RescaledNetwork, SongUNet
from edmfast.models.backbones.edm2 import EDM2UNet
from edmfast.models.backbones.pairwise_mlp import PairwiseMLP
from edmfast.models.backbones.residual_mlp import ResidualMLP
from edmfast.models.backbones.unet import UNet

BACKBONES: dict[str, type[nn.Module]] = {
    "DhariwalUNet": DhariwalUNet,
    "DiT": DiT,
    "EDM2UNet": EDM2UNet,
    "PairwiseMLP": PairwiseMLP,
    "RescaledNetwork": RescaledNetwork,
    "ResidualMLP": ResidualMLP,
    "SongUNet": SongUNet,
    "UNet": UNet,
}
"""The classes of backbones from which a saved model can be rebuilt, by name; see `register_backbone`."""

__all__ = [
    "BACKBONES",
    "DhariwalUNet",
    "DiT",
    "EDM2UNet",
    "PairwiseMLP",
    "RescaledNetwork",
    "ResidualMLP",
    "SongUNet",
    "UNet",
]
