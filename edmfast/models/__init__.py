"""First floor: energies, denoisers, exact targets, and the algebra that combines them."""

from edmfast.models import analytic, constraints, measurements
from edmfast.models.algebra import Guided, Product, Tempered
from edmfast.models.backbones import BACKBONES, DiT, PairwiseMLP, ResidualMLP, UNet
from edmfast.models.conditioned import Conditioned
from edmfast.models.constraints import Constrained
from edmfast.models.energy import Denoiser, EnergyModel, expand_sigma
from edmfast.models.initialise import initialise_from
from edmfast.models.inverse import LinearInverse
from edmfast.models.io import load_model, save_model
from edmfast.models.mixture import Mixture
from edmfast.models.offsets import Offsets
from edmfast.models.patch import patch_attention
from edmfast.models.register import register_backbone
from edmfast.models.renamed import Renamed
from edmfast.models.tilted import Tilted

__all__ = [
    "BACKBONES",
    "Conditioned",
    "Constrained",
    "Denoiser",
    "DiT",
    "EnergyModel",
    "Guided",
    "LinearInverse",
    "Mixture",
    "Offsets",
    "PairwiseMLP",
    "Product",
    "Renamed",
    "ResidualMLP",
    "Tempered",
    "Tilted",
    "UNet",
    "analytic",
    "constraints",
    "expand_sigma",
    "initialise_from",
    "load_model",
    "measurements",
    "patch_attention",
    "register_backbone",
    "save_model",
]
