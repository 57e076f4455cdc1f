"""Targets: densities composed of models, each with an energy, a score and an exponent."""

from edmfast.targets import constrained, measurements
from edmfast.targets.algebra import Guided, Product, Tempered
from edmfast.targets.conditioned import Conditioned
from edmfast.targets.constrained import Constrained
from edmfast.targets.gauges import GaugeWarning
from edmfast.targets.inverse import LinearInverse
from edmfast.targets.mixture import Mixture
from edmfast.targets.offsets import Offsets
from edmfast.targets.proposed_by import ProposedBy
from edmfast.targets.protocols import Denoiser, Target
from edmfast.targets.renamed import Renamed
from edmfast.targets.tilted import Tilted

__all__ = [
    "Conditioned",
    "Constrained",
    "Denoiser",
    "GaugeWarning",
    "Guided",
    "LinearInverse",
    "Mixture",
    "Offsets",
    "Product",
    "ProposedBy",
    "Renamed",
    "Target",
    "Tempered",
    "Tilted",
    "constrained",
    "measurements",
]
