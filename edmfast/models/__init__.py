"""Models: energies and denoisers, the networks in them, and how they are saved and patched."""

from edmfast.models.backbones import BACKBONES, DiT, PairwiseMLP, ResidualMLP, UNet
from edmfast.models.energy import Denoiser, EnergyModel, expand_sigma
from edmfast.models.initialise import initialise_from
from edmfast.models.patching.attention import patch_attention
from edmfast.models.saving.register import register_backbone
from edmfast.models.saving.save_load import load_model, save_model

__all__ = [
    "BACKBONES",
    "Denoiser",
    "DiT",
    "EnergyModel",
    "PairwiseMLP",
    "ResidualMLP",
    "UNet",
    "expand_sigma",
    "initialise_from",
    "load_model",
    "patch_attention",
    "register_backbone",
    "save_model",
]
