"""Targets: densities composed of models, each with an energy, a score and an exponent.

| name            | what it is                                                                                  |
|-----------------|---------------------------------------------------------------------------------------------|
| `Tempered`      | a power of a model, at a low or a high temperature                                          |
| `Product`       | a product of models, each to a power of its own                                             |
| `Guided`        | one model guided by another, as in classifier-free guidance                                 |
| `Mixture`       | a mixture of models, whose states any of them may accept                                    |
| `Tilted`        | a model times exp(strength · reward)                                                        |
| `Constrained`   | a model inside a region, softly or strictly                                                 |
| `LinearInverse` | the posterior of a model given a linear measurement with noise                              |
| `Conditioned`   | a model with its conditions filled in, such as a class label                                |
| `Renamed`       | a model that gets its conditions under other names                                          |
| `ProposedBy`    | a target whose moves follow the score of another model                                      |
| `Offsets`       | a table of the offsets that compensate for the gauges of a mixture's members                |
| `Target`        | the protocol of a model with `energy_and_score` and an exponent                             |
| `Denoiser`      | the protocol of a function (x, sigma) -> x0                                                 |
| `GaugeWarning`  | the warning that the gauges of a mixture's energies are not known to agree                  |
| `constrained`   | functions that make regions: `box` and `half_space`                                         |
| `measurements`  | functions that make measurements: `inpainting`, `super_resolution`, `deblurring`            |
"""

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
