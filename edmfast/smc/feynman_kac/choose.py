"""Choose the Feynman–Kac model and the proposal of a run, from what the target has and what the caller wants."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.smc.feynman_kac import notes
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.energy import EXACT_LAW, EnergyFeynmanKac
from edmfast.smc.feynman_kac.rewards import PathRewards, outer_rewards
from edmfast.smc.feynman_kac.scores import CORRECTED, PLAIN, ScoreFeynmanKac, is_plain
from edmfast.smc.feynman_kac.superdiff import SUPERPOSED_AND, SUPERPOSED_OR, SuperDiffFeynmanKac
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
from edmfast.targets.exponents import Exponent, exponent_of
from edmfast.targets.gauges import UNKNOWN_GAUGES, GaugeWarning, has_unknown_gauges
from edmfast.targets.mixture import Mixture
from edmfast.targets.proposed_by import ProposedBy
from edmfast.targets.scores import has_energy
from edmfast.targets.tilted import Tilted

WEIGHTS = ("auto", "energy", "score")
_ALONG_PATHS = ("max", "sum")


class MixedModelsWarning(UserWarning):
    """The proposal follows another model than the weights: the weights are exact, but vary more."""


@dataclass(frozen=True)
class _Choice:
    """The parts that every kind of Feynman–Kac model shares.

    target: what is inside the rewards. proposal: the kernel the caller wants, None for the default. kappa: the
    table of a calibration, or None.
    """

    target: Any
    exponent: Exponent
    rewards: PathRewards
    proposal: Proposal | None
    kappa: tuple[float, ...] | None
    batch_size: int | None

    def fields(self, proposal: Proposal, description: str, log_z_note: str) -> dict[str, Any]:
        """Return the fields that every kind of Feynman–Kac model has."""
        return {
            "target": self.target,
            "exponent": self.exponent,
            "proposal": proposal,
            "batch_size": self.batch_size,
            "rewards": self.rewards,
            "description": description,
            "log_z_note": log_z_note,
        }


def choose_feynman_kac(
    target: Any,
    proposal: str | Proposal | None,
    weights: str,
    kappa: tuple[float, ...] | None,
    *,
    populations: int,
    steps: int,
    device: torch.device,
    batch_size: int | None,
) -> FeynmanKac:
    """Return the Feynman–Kac model of a run.

    kappa: the table of a calibration, for the curvature-matched proposal. Other arguments as in `smc.sample`.

    Raises TypeError for a target that is neither energy nor denoiser; ValueError for combinations that do not
    exist.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
    kernel = as_proposal(proposal, steps) if proposal is not None else None
    by_energy = weights == "energy" or (weights == "auto" and has_energy(target))
    # SuperDiff mixes scores and has no weights, even where there are energies.
    if isinstance(kernel, SuperDiff):
        by_energy = False
    if not by_energy and not callable(target) and not has_energy(target):
        raise TypeError(
            f"{type(target).__name__} has no energy_and_score and is no denoiser: sequential Monte Carlo "
            "needs one of them"
        )
    if by_energy and not has_energy(target):
        raise TypeError(
            f"{type(target).__name__} has no energy: distil its denoisers with edmfast.distill, or use "
            "weights='score'"
        )
    proposed = _has_own_proposal(target)
    if proposed and not by_energy:
        raise ValueError("targets.ProposedBy goes with weights from energies, not from scores")
    # A tilt by differences is a part of the energy where there is one, and is paid along the path
    # elsewhere.
    along_paths = _ALONG_PATHS if by_energy else (*_ALONG_PATHS, "difference")
    weighed = target.target if isinstance(target, ProposedBy) else target
    inner, tilts = outer_rewards(weighed, along_paths)
    # the rewards around the energy belong to the target, whatever model the proposal follows
    if isinstance(target, ProposedBy):
        inner = ProposedBy(inner, target.proposal_model)
    choice = _Choice(
        inner,
        population_exponents(inner, populations, device),
        PathRewards(tuple(tilts), batch_size),
        kernel,
        kappa,
        batch_size,
    )
    if by_energy:
        # The table of a calibration replaces the probes, unless the caller wants another kernel.
        if kappa is not None and proposal in (None, "curvature_matched"):
            choice = replace(choice, proposal=as_proposal(CurvatureMatched(kappa), steps))
        return _from_energies(choice, proposed)
    return _from_scores(choice, device)


def _from_energies(choice: _Choice, proposed: bool) -> FeynmanKac:
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


def _from_scores(choice: _Choice, device: torch.device) -> FeynmanKac:
    _check_no_inner_rewards(choice.target)
    rewarded, kernel = bool(choice.rewards), choice.proposal
    unweighted = notes.of_scores(weighed=False, rewarded=rewarded)
    if isinstance(choice.target, Mixture):
        _check_exponents(choice.target.models)
        kernel = kernel or SuperDiff()
        if not isinstance(kernel, SuperDiff):
            raise ValueError(
                "a mixture without energies has no weights: proposal must be 'superdiff'"
            )
        shares = torch.as_tensor(choice.target.weights).double().log().to(device)
        return SuperDiffFeynmanKac(
            **choice.fields(kernel, SUPERPOSED_OR, unweighted),
            models=tuple(choice.target.models),
            log_shares=shares,
        )
    # The corrector's weights need the score of every single model, so nested sums are multiplied
    # out.
    exponents, models = zip(*terms_of(choice.target), strict=True)
    _check_exponents(models)
    if isinstance(kernel, SuperDiff):
        if any(isinstance(a, Tensor) or a != 1 for a in exponents):
            raise ValueError(
                "'superdiff' knows no exponents: it takes a product of exponents 1, not a temperature, guidance "
                "or negation"
            )
        # the paths are those of one diffusion, whatever the number of models
        choice = replace(choice, exponent=1.0)
        return SuperDiffFeynmanKac(
            **choice.fields(kernel, SUPERPOSED_AND, unweighted), models=models
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
        guide=_guide(choice.rewards.tilted, plain, kernel),
    )


def _has_own_proposal(target: Any) -> bool:
    """Return whether proposals follow another model than the target somewhere in it."""
    parts = target.modules() if isinstance(target, nn.Module) else [target]
    return any(isinstance(part, ProposedBy) for part in parts)


def _check_no_inner_rewards(target: Any) -> None:
    parts = target.modules() if isinstance(target, nn.Module) else []
    if any(isinstance(part, Tilted) for part in parts):
        raise ValueError(
            "scores alone cannot weigh a reward inside another target: make the tilt the outermost target, or "
            "use energies"
        )


def _check_exponents(models: Sequence[Any]) -> None:
    exponents = [exponent_of(model) for model in models]
    if any(isinstance(a, Tensor) or a != 1 for a in exponents):
        raise ValueError(
            "weights and paths from scores are for models whose own exponent is 1: temper the product"
        )


def _guide(tilts: tuple[Any, ...], plain: bool, kernel: Proposal) -> Any:
    """Return the one tilt whose reward gradient the moves follow, or None."""
    guiding = [tilt for tilt in tilts if tilt.gradient != "none"]
    if not guiding:
        return None
    # The weight that undoes the pull of the gradient divides by the variance of the move.
    if not plain or len(tilts) > 1 or (isinstance(kernel, FeynmanKacProposal) and kernel.eta == 0):
        raise ValueError(
            "without energies the moves can follow the gradient of one reward on one model, with noise: use "
            "gradient='none' here, or energies"
        )
    return guiding[0]


def _plain_proposal(kappa: tuple[float, ...] | None) -> Proposal:
    return Ancestral() if kappa is None else as_proposal(CurvatureMatched(kappa), len(kappa))
