"""The pilot run of matched reversals: signal and noise of every step's log-weight, and the mean curvature.

At every level two probes give each particle two estimates w_1, w_2 of the log-weight of the step that follows,
with independent noise. Over the particles, their covariance estimates the variance that exact traces would have
(the signal), and the mean of (w_1 - w_2)²/2 the variance that one probe adds (the noise). With w_0, the log-weight
by the mean trace of all particles, the covariance of w_1 - w_0 and w_2 - w_0 is what a step without a probe loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast.ops import reversal, rng_state
from edmfast.smc.arguments import place
from edmfast.smc.feynman_kac.choose import choose_feynman_kac
from edmfast.smc.feynman_kac.reversal import ReversalFeynmanKac
from edmfast.smc.feynman_kac.signs import random_signs
from edmfast.smc.feynman_kac.terms import evaluate_terms
from edmfast.smc.options import Reversal, RunOptions
from edmfast.smc.pilot.record import Array, Pilot, smoothed
from edmfast.smc.populations.local import Populations
from edmfast.smc.sample import sample
from edmfast.smc.verdict.warn import warn_about_flags
from edmfast.targets.protocols import Model

_PROBES = 2


def run_pilot(
    target: Model,
    shape: Sequence[int],
    fine: Array,
    particles: int,
    populations: int,
    seed: int,
) -> Pilot:
    """Return the record of a run that reversals weigh. fine: its levels. Other arguments as in `calibrate`."""
    recorder = _Recorder(target, fine.tolist(), populations, seed)
    run = sample(
        target,
        shape,
        fine.tolist(),
        weights="reversal",
        particles=particles,
        populations=populations,
        seed=seed,
        callback=recorder.record,
        # the pilot looks for levels at which the weights go bad, so a bad verdict on it is no fault
        options=RunOptions(on_degenerate="ignore"),
    )
    warn_about_flags(run.degenerate, "warn", stacklevel=4)
    signal, noise, lost, curvature = np.array(recorder.rows).T
    if recorder.fk.rewards:
        # a reward adds to the weights of the run, in which the noise of one probe is too
        whole = run.log_weight_sd[:-1].square().mean(1).cpu().numpy()
        signal = signal + np.maximum(whole - signal - noise, 0.0)
    # variances per squared step in log sigma change slowly from step to step
    width = np.log(fine[:-1] / fine[1:]) ** 2
    signal, noise, lost = (
        smoothed(np.maximum(part, 0.0) / width) * width for part in (signal, noise, lost)
    )
    return Pilot(
        fine,
        np.sqrt(signal + noise),
        np.append(curvature, curvature[-1]),
        probe_sd=None if recorder.fk.exact else np.sqrt(noise),
        lost_sd=np.sqrt(lost),
    )


class _Recorder:
    """Records (signal, noise, lost variance, mean curvature) of every step of a run."""

    def __init__(self, target: Model, levels: list[float], populations: int, seed: int) -> None:
        device, _ = place(target, None, None)
        phases = choose_feynman_kac(
            target,
            None,
            Reversal(),
            None,
            populations=populations,
            levels=tuple(levels),
            device=device,
            batch_size=None,
        )
        assert isinstance(phases.first, ReversalFeynmanKac)
        self.fk, self.levels, self.seed = phases.first, levels, seed
        self.populations = Populations(0, "systematic")
        self.rows: list[tuple[float, ...]] = []

    def record(self, info: dict[str, Any]) -> None:
        """Record a level from what `smc.sample` passes to callbacks. Raises ValueError where it is not finite."""
        index, x = int(info["i"]), info["x"]
        if index + 1 == len(self.levels):
            return
        self._check_finite(info["score"], info["sigma"])
        s, u = self.levels[index : index + 2]
        scores, traces = self._traces(x, s, index)
        exponents = torch.stack(
            [
                torch.ones(len(x), dtype=torch.float64, device=x.device) * a
                for a in self.fk.exponents
            ],
            1,
        )
        levels = torch.tensor([s, u], dtype=torch.float64, device=x.device)

        def log_weight(of_models: Tensor) -> Tensor:
            return reversal(scores, exponents, levels, traces=of_models.contiguous())[1]

        weights = torch.softmax(info["log_weights"], dim=1)
        # the mean trace of the models, which one kappa for all of them stands for
        size = exponents.abs()[..., None].transpose(0, 1)
        shared = (size * traces.mean(-1)).sum(0) / size.sum(0)
        mean = (weights * shared).sum(1).mean()
        if not bool(mean.isfinite()):
            raise ValueError(
                f"the curvature of the target's score is {float(mean)} at sigma = {s:g}: the score must be "
                "differentiable and its derivative finite there"
            )
        first, second = (log_weight(traces[..., k]) for k in (0, -1))
        level = log_weight(mean.expand(traces.shape[:3]))
        row = (
            _covariance(first, second),
            (first - second).square().mean() / 2,
            _covariance(first - level, second - level),
            mean * s**2 / x[0, 0].numel(),
        )
        self.rows.append(tuple(map(float, row)))

    def _traces(self, x: Tensor, sigma: float, index: int) -> tuple[list[Tensor], Tensor]:
        """Return the scores of the models, and as many traces for each as there are probes, [M, P, N, K]."""
        fk, signs = self.fk, None
        if not fk.exact:
            # Another seed makes these probes independent of those that moved the particles.
            rng = rng_state((self.seed + 1) % 2**64, index, x.device)
            signs = random_signs(x, _PROBES, rng, self.populations, coloured=False)
        terms = evaluate_terms(
            fk.models, x, sigma, probes=signs, exact=fk.exact, batch_size=fk.batch_size
        )
        if terms.traces is not None:
            return list(terms.scores), terms.traces[..., None]
        assert signs is not None
        vectors = signs.double().flatten(3)
        traces = [(product.double().flatten(3) * vectors).sum(3) for product in terms.products]
        return list(terms.scores), torch.stack(traces)

    def _check_finite(self, scores: Tensor, sigma: float) -> None:
        faulty = ~scores[: len(self.fk.models)].isfinite().flatten(3).all(3).all(0)
        if bool(faulty.any()):
            raise ValueError(
                f"the score of the target is not finite at sigma = {sigma:g}, for {int(faulty.sum())} of "
                f"{faulty.numel()} particles of the pilot run"
            )


def _covariance(first: Tensor, second: Tensor) -> Tensor:
    """Return the covariance over particles of [P, N], averaged over populations.

    It has no weights, as the spread that a run records has none.
    """
    return ((first - first.mean(1, keepdim=True)) * second).mean()
