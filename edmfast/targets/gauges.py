"""Gauges: the unknown constants of energies, and what they mean for log Z and for mixtures.

A learned energy is known up to a constant for each noise level and condition, its gauge. The gauge cancels in the
samples of one target, but log Z and the masses of a mixture's members depend on it. A model with the attribute
`normalised = True` has energies for which exp(-E(x, sigma)) integrates to 1 at every noise level, as the densities
of `edmfast.analytic` have. Then no constant is unknown.
"""

from __future__ import annotations

from edmfast.targets.proposed_by import ProposedBy, weighed_parts
from edmfast.targets.protocols import Model

OF_NORMALISED = (
    "relative to the start, of normalised energies: comparable between targets of one sigma_max and one "
    "exponent"
)
OF_GAUGE = (
    "relative to the start, in the gauge of the energies, which is open for each model, condition and noise "
    "level: comparable between populations of one target only"
)
UNKNOWN_GAUGES = (
    "the masses of a mixture's members depend on the gauges of their energies, which are not known to agree: "
    "measure them with smc.calibrate_offsets, or say that they agree with Mixture(..., gauges='equal')"
)


class GaugeWarning(UserWarning):
    """Warning that a mixture has energies whose gauges are not known to agree, so its masses are arbitrary."""


def is_normalised(model: Model) -> bool:
    """Return whether a model declares its energy normalised at every noise level."""
    return bool(getattr(model, "normalised", False))


def has_unknown_gauges(target: Model) -> bool:
    """Return whether a target holds a mixture whose masses depend on gauges that are not known to agree."""
    return any(getattr(part, "gauges_known", True) is False for part in weighed_parts(target))


def meaning_of_log_z(target: Model) -> str:
    """Return a sentence that says what the log Z of a target may be compared with."""
    return OF_NORMALISED if all(map(is_normalised, leaves(target))) else OF_GAUGE


def leaves(target: Model) -> list[Model]:
    """Return the models that a target is made of, at the bottom of all nested targets."""
    # A target that is normalised as a whole has no open constant, whatever it is made of.
    if is_normalised(target):
        return [target]
    # Proposals follow the other model's score, but its energy enters no weight and no log Z.
    if isinstance(target, ProposedBy):
        return leaves(target.target)
    members = getattr(target, "models", None)
    if members is None and hasattr(target, "model"):
        members = (target.model,)
    # The attributes of a foreign model may have these names but another meaning.
    if members is None or not type(target).__module__.startswith("edmfast."):
        return [target]
    return [leaf for model in members for leaf in leaves(model)]
