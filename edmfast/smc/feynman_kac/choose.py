"""Choose the Feynman–Kac model and the proposal of a run, from what the target has and what the caller wants."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.smc.feynman_kac import notes
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.choice import (
    Choice,
    check_exponents,
    check_no_inner_rewards,
    guide_of,
)
from edmfast.smc.feynman_kac.choose_reversal import from_reversals, hybrid, is_learned
from edmfast.smc.feynman_kac.energy import EXACT_LAW, EnergyFeynmanKac
from edmfast.smc.feynman_kac.phases import Phases
from edmfast.smc.feynman_kac.rewards import PathRewards, outer_rewards
from edmfast.smc.feynman_kac.scores import CORRECTED, PLAIN, ScoreFeynmanKac, is_plain
from edmfast.smc.feynman_kac.superdiff import SUPERPOSED_AND, SUPERPOSED_OR, SuperDiffFeynmanKac
from edmfast.smc.options import Hybrid, Reversal
from edmfast.smc.populations.exponents import population_exponents
from edmfast.smc.proposals import (
    Ancestral,
    CurvatureMatched,
    FeynmanKacProposal,
    Proposal,
    SuperDiff,
    as_proposal,
)
from edmfast.targets.algebra import terms_of
from edmfast.targets.gauges import UNKNOWN_GAUGES, GaugeWarning, has_unknown_gauges
from edmfast.targets.mixture import Mixture
from edmfast.targets.proposed_by import ProposedBy
from edmfast.targets.scores import has_energy, missing_energy
from edmfast.targets.traces import has_exact_trace

_ALONG_PATHS = ("max", "sum")


class MixedModelsWarning(UserWarning):
    """The proposal follows another model than the weights: the weights are exact, but vary more."""


def choose_feynman_kac(
    target: Any,
    proposal: str | Proposal | None,
    weights: str | Reversal,
    kappa: tuple[float, ...] | None,
    *,
    populations: int,
    levels: tuple[float, ...],
    device: torch.device,
    batch_size: int | None,
    switch: float | None = None,
    table: tuple[int, ...] | None = None,
) -> Phases:
    """Return the Feynman–Kac models of a run.

    kappa: the table of a calibration. levels: the positive noise levels. switch: the noise level that a
    calibration proposes for hybrid weights, or None. table: the numbers of probes that it proposes, or None. Other
    arguments as in `smc.sample`.

    Raises TypeError for a target that is neither energy nor denoiser; ValueError for combinations that do not
    exist.
    """
    kind = kind_of_weights(target, weights, proposal)
    if isinstance(weights, Hybrid) and weights.above is not None:
        switch = weights.above
    steps = len(levels) - 1
    kernel = as_proposal(proposal, steps) if proposal is not None else None
    if kind in ("energy", "hybrid") and not has_energy(target):
        raise missing_energy(target)
    if not callable(target) and not has_energy(target):
        raise TypeError(
            f"{type(target).__name__} has no energy_and_score and is no denoiser: sequential Monte Carlo "
            "needs one of them"
        )
    proposed = _has_own_proposal(target)
    if proposed and kind != "energy":
        raise ValueError("targets.ProposedBy goes with weights from energies alone")
    # A tilt by differences is a part of the energy where energies alone weigh, and is paid along the
    # path elsewhere.
    along_paths = _ALONG_PATHS if kind == "energy" else (*_ALONG_PATHS, "difference")
    weighed = target.target if isinstance(target, ProposedBy) else target
    inner, tilts = outer_rewards(weighed, along_paths)
    # the rewards around the energy belong to the target, whatever model the proposal follows
    if isinstance(target, ProposedBy):
        inner = ProposedBy(inner, target.proposal_model)
    choice = Choice(
        inner,
        population_exponents(inner, populations, device),
        PathRewards(tuple(tilts), batch_size),
        kernel,
        kappa,
        batch_size,
        weights.counts if isinstance(weights, Reversal) else None,
        levels,
        switch,
        table,
    )
    if kind == "reversal":
        return Phases((from_reversals(choice),))
    if kind == "score":
        return Phases((_from_scores(choice, device),))
    # The table of a calibration replaces the probes, unless the caller wants another kernel.
    if kappa is not None and proposal in (None, "curvature_matched"):
        choice = replace(choice, proposal=as_proposal(CurvatureMatched(kappa), steps))
    by_energy = _from_energies(choice, proposed)
    return Phases((by_energy,)) if kind == "energy" else hybrid(choice, by_energy)


def kind_of_weights(target: Any, weights: str | Reversal, proposal: str | Proposal | None) -> str:
    """Return "energy", "hybrid", "reversal" or "score", the kind of weights that a run has."""
    if isinstance(weights, Reversal):
        return "hybrid" if isinstance(weights, Hybrid) else "reversal"
    # SuperDiff mixes scores and has no weights, even where there are energies.
    if isinstance(proposal, SuperDiff) or proposal == SuperDiff.name:
        return "score"
    if weights != "auto":
        return weights
    if has_energy(target):
        return "hybrid" if proposal is None and is_learned(target) else "energy"
    if proposal is not None:
        return "score"
    inner, _ = outer_rewards(target, (*_ALONG_PATHS, "difference"))
    if isinstance(inner, Mixture) or is_plain([a for a, _ in terms_of(inner)]):
        return "score"
    return "reversal"


def _from_energies(choice: Choice, proposed: bool) -> EnergyFeynmanKac:
    description, log_z_note = EXACT_LAW, notes.of_energies(choice.target)
    if has_unknown_gauges(choice.target):
        warnings.warn(UNKNOWN_GAUGES, GaugeWarning, stacklevel=4)
        description += f"; but {UNKNOWN_GAUGES}"
    if proposed:
        warnings.warn(
            "the proposal follows another model than the weights: their mismatch adds variance",
            MixedModelsWarning,
            stacklevel=4,
        )
    kernel = choice.proposal or CurvatureMatched()
    if isinstance(kernel, FeynmanKacProposal) and kernel.eta == 0:
        raise ValueError("without noise (eta = 0) a move has no density, which exact weights need")
    return EnergyFeynmanKac(**choice.fields(kernel, description, log_z_note))


def _from_scores(choice: Choice, device: torch.device) -> FeynmanKac:
    check_no_inner_rewards(choice.target)
    rewarded, kernel = bool(choice.rewards), choice.proposal
    unweighted = notes.of_scores(weighed=False, rewarded=rewarded)
    if isinstance(choice.target, Mixture):
        check_exponents(choice.target.models)
        kernel = kernel or SuperDiff()
        if not isinstance(kernel, SuperDiff):
            raise ValueError(
                "a mixture without energies has no weights: proposal must be 'superdiff'"
            )
        shares = torch.as_tensor(choice.target.weights).double().log().to(device)
        return SuperDiffFeynmanKac(
            **choice.fields(kernel, SUPERPOSED_OR, unweighted),
            models=tuple(choice.target.models),
            exact=all(map(has_exact_trace, choice.target.models)),
            log_shares=shares,
        )
    # The corrector's weights need the score of every single model, so nested sums are multiplied
    # out.
    exponents, models = zip(*terms_of(choice.target), strict=True)
    check_exponents(models)
    if isinstance(kernel, SuperDiff):
        if any(isinstance(a, Tensor) or a != 1 for a in exponents):
            raise ValueError(
                "'superdiff' knows no exponents: it takes a product of exponents 1, not a temperature, guidance "
                "or negation"
            )
        # the paths are those of one diffusion, whatever the number of models
        choice = replace(choice, exponent=1.0)
        return SuperDiffFeynmanKac(
            **choice.fields(kernel, SUPERPOSED_AND, unweighted),
            models=models,
            exact=all(map(has_exact_trace, models)),
        )
    plain = is_plain(exponents)
    kernel = kernel or (_plain_proposal(choice.kappa) if plain else FeynmanKacProposal())
    if not plain and not isinstance(kernel, FeynmanKacProposal):
        raise ValueError(
            f"{kernel.name!r} has no weights from scores for a product or a temperature: proposal must be "
            "'feynman_kac' or 'superdiff'"
        )
    if kernel.needs_curvature:
        raise ValueError(
            "curvature matching probes an energy's score: without energies use 'ancestral' or a kappa table"
        )
    description = PLAIN if plain else CORRECTED
    log_z_note = notes.of_scores(weighed=not plain, rewarded=rewarded)
    return ScoreFeynmanKac(
        **choice.fields(kernel, description, log_z_note),
        models=models,
        exponents=exponents,
        guide=_guide(choice, plain, kernel),
    )


def _has_own_proposal(target: Any) -> bool:
    """Return whether proposals follow another model than the target somewhere in it."""
    parts = target.modules() if isinstance(target, nn.Module) else [target]
    return any(isinstance(part, ProposedBy) for part in parts)


def _plain_proposal(kappa: tuple[float, ...] | None) -> Proposal:
    return Ancestral() if kappa is None else as_proposal(CurvatureMatched(kappa), len(kappa))


def _guide(choice: Choice, plain: bool, kernel: Proposal) -> Any:
    """Return the tilt whose reward gradient the moves follow, or None."""
    guide = guide_of(choice.rewards.tilted)
    # The weight that undoes the pull of the gradient divides by the variance of the move.
    still = isinstance(kernel, FeynmanKacProposal) and kernel.eta == 0
    if guide is not None and (not plain or still):
        raise ValueError(
            "with weights from scores the moves can follow the gradient of a reward on one model only, with "
            "noise: use gradient='none' here, weights='reversal', or energies"
        )
    return guide
