"""Which law a run follows, and by which proposal: from what the target has and what was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.smc.correctors import Corrector
from edmfast.smc.distributed.shared_population import SharedPopulations
from edmfast.smc.feynman_kac import notes
from edmfast.smc.feynman_kac.energy import EXACT, EnergyLaw, Mixed
from edmfast.smc.feynman_kac.exponent import exponent_of
from edmfast.smc.feynman_kac.rewards import PathRewards, outer_rewards
from edmfast.smc.feynman_kac.scores import CORRECTED, PLAIN, ScoreLaw, is_plain
from edmfast.smc.feynman_kac.superdiff import SUPERPOSED_AND, SUPERPOSED_OR, SuperDiffLaw
from edmfast.smc.particles.law_notes import ONE_PARTICLE
from edmfast.smc.proposals import (
    Ancestral,
    Corrected,
    CurvatureMatched,
    Proposal,
    SuperDiff,
    as_proposal,
)
from edmfast.smc.select import SELECT
from edmfast.smc.step import Law
from edmfast.targets.algebra import terms_of
from edmfast.targets.exponents import exponent_of as model_exponent
from edmfast.targets.gauges import UNKNOWN_GAUGES, GaugeWarning, has_unknown_gauges
from edmfast.targets.mixture import Mixture
from edmfast.targets.scores import has_energy
from edmfast.targets.tilted import Tilted

WEIGHTS = ("auto", "energy", "score")
_ALONG_PATHS = ("max", "sum")


class MixedModelsWarning(UserWarning):
    """The proposal follows another model than the weights: exact still, but of more variance."""


def make_law(
    target: Any,
    proposal: str | Proposal | None,
    weights: str,
    proposal_model: Any,
    kappa: tuple[float, ...] | None,
    *,
    populations: int,
    steps: int,
    device: torch.device,
    resampling: str,
    first_population: int,
    batch_size: int | None,
    shared: SharedPopulations | None = None,
) -> Law:
    """kappa: the table of a calibration, for the curvature-matched kernel. shared: how ranks hold the particles of
    each population together, where they do. Other arguments as in `smc.sample`.

    Raises TypeError for a target that is neither energy nor denoiser; ValueError for what does not go together.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
    asked = as_proposal(proposal, steps) if proposal is not None else None
    by_energy = weights == "energy" or (weights == "auto" and has_energy(target))
    if isinstance(asked, SuperDiff):
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
    wanted = _ALONG_PATHS if by_energy else (*_ALONG_PATHS, "difference")
    target, tilted = outer_rewards(target, wanted)
    common: dict[str, Any] = {
        "resampling": resampling,
        "first_population": first_population,
        "batch_size": batch_size,
        "shared": shared,
        "rewards": PathRewards(tuple(tilted), batch_size),
        "exponent": exponent_of(target, populations, device),
    }
    if by_energy:
        told = EXACT
        common["log_z_note"] = notes.of_energies(target)
        if has_unknown_gauges(target):
            warnings.warn(UNKNOWN_GAUGES, GaugeWarning, stacklevel=3)
            told += f"; but {UNKNOWN_GAUGES}"
        if proposal_model is not None:
            warnings.warn(
                "the proposal follows another model than the weights: their mismatch adds variance",
                MixedModelsWarning,
                stacklevel=3,
            )
            target = Mixed(target, proposal_model)
        kernel = asked or CurvatureMatched()
        if kappa is not None and proposal in (None, "curvature_matched"):
            kernel = as_proposal(CurvatureMatched(kappa), steps)
        if isinstance(kernel, Corrected) and kernel.eta == 0:
            raise ValueError(
                "without noise (eta = 0) a move has no density, which exact weights need"
            )
        return EnergyLaw(target, kernel=kernel, told=told, **common)
    if proposal_model is not None:
        raise ValueError("proposal_model goes with weights from energies, not from scores")
    return _without_energies(target, asked, kappa, common, device)


def caveats(
    resampling: str, weights_end: float, last: float, correctors: Sequence[Corrector]
) -> str:
    """What the options of a run take away from what is known of its law."""
    told = ""
    if weights_end > last:
        told += (
            f"; but weights stop at sigma = {weights_end:g}, and below it the unweighted moves lead on, without "
            "what the target, its rewards or walls would weigh there"
        )
    if resampling == SELECT:
        told += f"; but {ONE_PARTICLE}: only averages over populations by Z keep that law"
    if any(not corrector.adjusted for corrector in correctors):
        told += "; but unadjusted correctors are off by their step size"
    return told


def _without_energies(
    target: Any,
    asked: Proposal | None,
    kappa: tuple[float, ...] | None,
    common: dict[str, Any],
    device: torch.device,
) -> Law:
    _check_rewards(target)
    rewarded = bool(common["rewards"])
    common["log_z_note"] = notes.of_scores(weighed=False, rewarded=rewarded)
    if isinstance(target, Mixture):
        _check_exponents(target.models)
        kernel = asked or SuperDiff()
        if not isinstance(kernel, SuperDiff):
            raise ValueError(
                "a mixture without energies has no weights: proposal must be 'superdiff'"
            )
        shares = torch.as_tensor(target.weights).double().log().to(device)
        return SuperDiffLaw(
            target,
            kernel=kernel,
            told=SUPERPOSED_OR,
            models=tuple(target.models),
            log_shares=shares,
            **common,
        )
    exponents, models = zip(*terms_of(target), strict=True)
    _check_exponents(models)
    if isinstance(asked, SuperDiff):
        if any(isinstance(a, Tensor) or a != 1 for a in exponents):
            raise ValueError(
                "'superdiff' knows no exponents: it takes a product of exponents 1, not a temperature, guidance "
                "or negation"
            )
        common["exponent"] = 1.0  # a path of one diffusion, whatever the number of models
        return SuperDiffLaw(target, kernel=asked, told=SUPERPOSED_AND, models=models, **common)
    plain = is_plain(exponents)
    kernel = asked or (_plain(kappa) if plain else Corrected())
    if not plain and not isinstance(kernel, Corrected):
        raise ValueError(
            f"{kernel.name!r} has no weights from scores for a product or a temperature: proposal must be "
            "'feynman_kac' or 'superdiff'"
        )
    if kernel.needs_curvature:
        raise ValueError(
            "curvature matching probes an energy's score: without energies use 'ancestral' or a kappa table"
        )
    told = PLAIN if plain else CORRECTED
    common["log_z_note"] = notes.of_scores(weighed=not plain, rewarded=rewarded)
    return ScoreLaw(
        target,
        kernel=kernel,
        told=told,
        models=models,
        exponents=exponents,
        guide=_guide(common["rewards"].tilted, plain, kernel),
        **common,
    )


def _check_rewards(target: Any) -> None:
    parts = target.modules() if isinstance(target, nn.Module) else []
    if any(isinstance(part, Tilted) for part in parts):
        raise ValueError(
            "scores alone cannot weigh a reward inside another target: make the tilt the outermost target, or "
            "use energies"
        )


def _check_exponents(models: Sequence[Any]) -> None:
    found = [model_exponent(model) for model in models]
    if any(isinstance(a, Tensor) or a != 1 for a in found):
        raise ValueError(
            "weights and paths from scores are for models whose own exponent is 1: temper the product"
        )


def _guide(tilted: tuple[Any, ...], plain: bool, kernel: Proposal) -> Any:
    """The one tilt whose gradient the moves follow, if any."""
    guiding = [tilt for tilt in tilted if tilt.gradient != "none"]
    if not guiding:
        return None
    if not plain or len(tilted) > 1 or (isinstance(kernel, Corrected) and kernel.eta == 0):
        raise ValueError(
            "without energies the moves can follow the gradient of one reward on one model, with noise: use "
            "gradient='none' here, or energies"
        )
    return guiding[0]


def _plain(kappa: tuple[float, ...] | None) -> Proposal:
    return Ancestral() if kappa is None else as_proposal(CurvatureMatched(kappa), len(kappa))
