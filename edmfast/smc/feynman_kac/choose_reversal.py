"""Choose the Feynman–Kac models of runs that matched reversals weigh, at all levels or at the lower ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edmfast.models.energy import EnergyModel
from edmfast.models.two_heads import TwoHeads
from edmfast.smc.feynman_kac import notes
from edmfast.smc.feynman_kac.choice import (
    Choice,
    check_exponents,
    check_no_inner_rewards,
    guide_of,
)
from edmfast.smc.feynman_kac.energy import EnergyFeynmanKac
from edmfast.smc.feynman_kac.phases import Phases
from edmfast.smc.feynman_kac.reversal import ReversalFeynmanKac
from edmfast.smc.particles import law_notes
from edmfast.smc.proposals import ReversalMatched
from edmfast.targets.algebra import terms_of
from edmfast.targets.conditioned import Conditioned
from edmfast.targets.mixture import Mixture
from edmfast.targets.renamed import Renamed
from edmfast.targets.scores import has_energy
from edmfast.targets.traces import has_exact_trace

MATCHED = (
    f"{law_notes.MATCHED} weights from scores and {{traces}}: exact for isotropic Gaussians; otherwise their "
    "error falls as tau² over a run, with the anisotropy and the higher moments of the reversals"
)
SWITCHED = "energies weigh the steps to sigma >= {switch:g}, and below it come "
_SWITCH_SHARE = 0.6
"""The level below which hybrid weights take reversals, in units of the standard deviation of the data."""
_MOST_SCORES = 8
"""The number of scores that the operators of a step take."""


def from_reversals(choice: Choice) -> ReversalFeynmanKac:
    """Return the model that weighs all steps by matched reversals.

    Raises ValueError for a proposal, for rewards inside the target, for models with exponents of their own, and
    for tables that do not fit the steps.
    """
    if choice.proposal is not None:
        raise ValueError(
            f"reversal weights have their own proposal, and {choice.proposal.name!r} is another: leave "
            "proposal=None"
        )
    check_no_inner_rewards(choice.target)
    if isinstance(choice.target, Mixture) and not has_energy(choice.target):
        raise ValueError(
            "a mixture without energies has no reversal weights: use proposal='superdiff', or energies"
        )
    exponents, models = zip(*terms_of(choice.target), strict=True)
    check_exponents(models)
    exact = choice.probes is None and all(map(has_exact_trace, models))
    table = 1 if choice.table is None else choice.table
    kernel = ReversalMatched(table if choice.probes is None else choice.probes, choice.kappa)
    steps = len(choice.levels) - 1
    weighed = range(_first_reversal(choice, models), steps)
    _check_tables(kernel, weighed, steps, exact)
    guide = guide_of(choice.rewards.tilted)
    if len(models) + (guide is not None) > _MOST_SCORES:
        raise ValueError(
            f"reversal weights take up to {_MOST_SCORES} models, or {_MOST_SCORES - 1} where the moves follow the "
            f"gradient of a reward, and this target has {len(models)}"
        )
    traces = "exact traces" if exact else "estimated traces"
    without = [kernel.probes_at(index) for index in weighed].count(0)
    if without and not exact:
        traces += f" ({without} of {steps} steps take a mean trace from a table, which biases what differs there)"
    log_z_note = notes.of_reversals(rewarded=bool(choice.rewards))
    return ReversalFeynmanKac(
        **choice.fields(kernel, MATCHED.format(traces=traces), log_z_note),
        models=models,
        exponents=exponents,
        exact=exact,
        guide=guide,
        with_energy=all(map(has_energy, models)),
    )


def hybrid(choice: Choice, upper: EnergyFeynmanKac) -> Phases:
    """Return the models of hybrid weights, of which `upper` weighs the steps above the switch.

    Raises ValueError as `from_reversals` does, and for a reward whose gradient the moves would follow.
    """
    if guide_of(choice.rewards.tilted) is not None:
        raise ValueError(
            "with hybrid weights the moves cannot follow the gradient of a reward: use gradient='none', "
            "weights='energy' or weights='reversal'"
        )
    choice = replace(choice, proposal=None, hybrid=True)
    lower = from_reversals(choice)
    switch = _switch(choice, lower.models)
    first_steps = _first_reversal(choice, lower.models)
    if first_steps == 0:
        # no step ends above the switch, so that no energy weighs
        return Phases((lower,))
    description = SWITCHED.format(switch=switch) + lower.description
    log_z_note = upper.log_z_note
    if first_steps < len(choice.levels) - 1:
        log_z_note += (
            f"; below sigma = {switch:g} it changes as that of normalised densities, up to the "
            "error of the steps"
        )
    fields: dict[str, Any] = {"description": description, "log_z_note": log_z_note}
    return Phases((replace(upper, **fields), replace(lower, **fields)), first_steps)


def is_learned(target: Any) -> bool:
    """Return whether a target is a product of powers of learned energies, without rewards or mixtures.

    Their differences are noise at low noise levels, so hybrid weights are the default for them.
    """
    models = [_unwrapped(model) for _, model in terms_of(target)]
    learned = all(isinstance(model, (EnergyModel, TwoHeads)) for model in models)
    return learned and len(models) <= _MOST_SCORES


def _switch(choice: Choice, models: tuple[Any, ...]) -> float:
    """Return the noise level below which hybrid weights take reversals."""
    if choice.switch is not None:
        return choice.switch
    return _SWITCH_SHARE * max(map(_data_std, models))


def _data_std(model: Any) -> float:
    """Return the standard deviation of the data that a model names as sigma_data, or 0.5."""
    return float(getattr(_unwrapped(model), "sigma_data", 0.5))


def _unwrapped(model: Any) -> Any:
    """Return the model inside conditions and other names of conditions."""
    while isinstance(model, (Conditioned, Renamed)):
        model = model.model
    return model


def _first_reversal(choice: Choice, models: tuple[Any, ...]) -> int:
    """Return the index of the first step that matched reversals weigh."""
    if not choice.hybrid:
        return 0
    switch = _switch(choice, models)
    return sum(level >= switch for level in choice.levels[1:])


def _check_tables(kernel: ReversalMatched, weighed: range, steps: int, exact: bool) -> None:
    """Raise ValueError for tables that do not fit a run. weighed: the steps that matched reversals weigh."""
    if not isinstance(kernel.probes, int) and len(kernel.probes) != steps:
        raise ValueError(
            f"probes must be one number, or one for each of {steps} steps, got {len(kernel.probes)}"
        )
    without = not exact and 0 in [kernel.probes_at(index) for index in weighed]
    if without and kernel.kappa is None:
        raise ValueError(
            "a step without probes takes kappa from a calibration: pass smc.calibrate's result as sigmas, or at "
            "least one probe for every step"
        )
    if without and kernel.kappa is not None and len(kernel.kappa) != steps:
        raise ValueError(
            f"the kappa table must have one entry for each of {steps} steps, got {len(kernel.kappa)}"
        )
