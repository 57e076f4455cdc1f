"""Models: energies and denoisers around a backbone, and how they are saved, patched and called.

energy, denoiser     the two models; potentials, preconditioning and scale_table hold their formulas
backbones/           the networks inside them
potential_denoiser   the denoiser of an energy of PFGM++; student_t holds its noise
asymmetry            the measure of how far a field is from a gradient
protocols            what any model, ours or not, must offer to be used: `Denoiser` and `Target`
calling/             calls to models of any origin, with checks of what they return
compiling/           the methods of an energy as compiled graphs
saving/              models in safetensors files
patching/            attention and dropout of foreign networks made fit for training an energy
recomputing/         blocks that recompute their activations, for energies that need too much memory in training
two_heads            a denoiser and an energy from one network
initialise           an energy started from a denoiser's weights; students makes such energies
together             several perceptron energies evaluated by one operator
"""

from edmfast.models.backbones import (
    BACKBONES,
    DhariwalUNet,
    DiT,
    EDM2UNet,
    PairwiseMLP,
    RescaledNetwork,
    ResidualMLP,
    SongUNet,
    UNet,
)
from edmfast.models.denoiser import Denoiser
from edmfast.models.energy import EnergyModel
from edmfast.models.initialise import initialise_from
from edmfast.models.patching.attention import patch_attention
from edmfast.models.potential_denoiser import PotentialDenoiser
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.recomputing.blocks import checkpoint_blocks
from edmfast.models.saving.register import register_backbone
from edmfast.models.saving.save_load import load_model, save_model
from edmfast.models.students import student_from
from edmfast.models.two_heads import TwoHeads

__all__ = [
    "BACKBONES",
    "Denoiser",
    "DhariwalUNet",
    "DiT",
    "EDM2UNet",
    "EnergyModel",
    "PairwiseMLP",
    "PotentialDenoiser",
    "RescaledNetwork",
    "ResidualMLP",
    "SongUNet",
    "TwoHeads",
    "UNet",
    "checkpoint_blocks",
    "expand_sigma",
    "initialise_from",
    "load_model",
    "patch_attention",
    "register_backbone",
    "save_model",
    "student_from",
]
