"""Markov chains at one noise level, without sequential Monte Carlo."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.inference_mode import as_ordinary, without_inference_mode
from edmfast._internal.numbers import as_float, as_int, as_seed, check_level
from edmfast.ops import rng_state
from edmfast.ops._shared.counters import check_populations
from edmfast.smc.arguments import as_batch_size
from edmfast.smc.correctors import Corrector, check_correctors, correct, start_log_steps
from edmfast.smc.correctors.transition import LEVEL_BITS
from edmfast.smc.feynman_kac.evaluate import evaluate
from edmfast.smc.populations.exponents import population_exponents
from edmfast.smc.verdict.warn import ON_DEGENERATE, DegenerateWeightsWarning
from edmfast.targets.gauges import UNKNOWN_GAUGES, GaugeWarning, has_unknown_gauges

_WARMUP_DECAY = 0.6


@dataclass(repr=False)
class ChainResult:
    """T transitions of P populations of N chains, of which K states were kept.

    states [K, P, N, *shape]; energies [K, P, N], of the target; acceptance float64 [T, P]: mean probability of
    being moved; log_step_sizes float64 [T, P], of steps in units of sigma/sqrt(A); nfe: evaluations of energy
    and score for one chain, the first one included; transitions: T and those of the calls before.
    """

    states: Tensor
    energies: Tensor
    acceptance: Tensor
    log_step_sizes: Tensor
    nfe: int
    transitions: int
    seed: int

    def __repr__(self) -> str:
        kept, populations, chains, *shape = self.states.shape
        accepted = float(self.acceptance[-1].mean())
        return (
            f"ChainResult({kept} states of {populations} x {chains} chains of shape {tuple(shape)}, "
            f"{self.transitions} transitions, acceptance at the end {accepted:.2f}, nfe {self.nfe})"
        )

    @property
    def step_sizes(self) -> Tensor:
        """float64 [T, P], in units of sigma/sqrt(A)."""
        return self.log_step_sizes.exp()


def mcmc(
    target: Any,
    x: Tensor,
    sigma: float,
    corrector: Corrector,
    *,
    transitions: int,
    warmup: int = 0,
    thin: int = 1,
    seed: int = 0,
    first_population: int = 0,
    after: ChainResult | None = None,
    batch_size: int | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    on_degenerate: str = "warn",
) -> ChainResult:
    """Chains that leave the target at noise level sigma invariant, from the states x [P, N, *shape].

    target, batch_size, first_population, seed: as in `smc.sample`; chains share their step size with their
        population, and have the same numbers for every P.
    corrector: `ULA`, `MALA`, `HMC` or `Underdamped`; its `steps` is not looked at.
    transitions: T. The first `warmup` of them adapt the step size, with gain k^-0.6 at the k-th (Andrieu and
        Thoms 2008), and none after, so what follows is a Markov chain with the target as its law. Every
        `thin`-th state after the warm-up is kept.
    after: the result of a call to go on from, with its seed, step sizes and count of transitions; without a
        warm-up, and x its last state (states[-1] where thin divides transitions - warmup), the chains are
        those of one longer call.
    on_degenerate: what to do where an energy was NaN, or the score NaN or infinite at a finite energy, so that
        chains stay where they are: "warn" with a `DegenerateWeightsWarning`, "raise" RuntimeError, or "ignore".
        An infinite energy is a wall that chains do not enter, and no fault.
    callback: gets {"i", "x", "energy", "score"} after every transition, all of them copies.

    Raises ValueError or TypeError for bad arguments, or an unadjusted corrector where the target says that
    its score is not the gradient of its energy.
    """
    refuse_run("smc.mcmc", target, x)
    seed, batch_size = as_seed(seed), as_batch_size(batch_size)
    transitions, warmup = as_int("transitions", transitions), as_int("warmup", warmup)
    thin, sigma = as_int("thin", thin), as_float("sigma", sigma, positive=True)
    if on_degenerate not in ON_DEGENERATE:
        raise ValueError(
            f"on_degenerate must be one of {', '.join(ON_DEGENERATE)}, got {on_degenerate!r}"
        )
    first = 0 if after is None else after.transitions
    _check(x, first, transitions, warmup, thin)
    check_level("sigma", sigma, x.dtype)
    first_population = check_populations(first_population, len(x))
    (corrector,) = check_correctors(corrector, target)
    if has_unknown_gauges(target):
        warnings.warn(UNKNOWN_GAUGES, GaugeWarning, stacklevel=2)
    exponent = population_exponents(target, len(x), x.device)
    once = dataclasses.replace(cast(Any, corrector), steps=1)
    log_steps = start_log_steps([once], x)
    if after is not None:
        if after.seed != seed or after.log_step_sizes.shape[1] != len(x):
            raise ValueError(
                f"after has seed {after.seed} and {after.log_step_sizes.shape[1]} populations, "
                f"not {seed} and {len(x)}"
            )
        log_steps = after.log_step_sizes[-1:]
    rng = rng_state(seed, 0, x.device).repeat(transitions, 1)
    rng[:, 1] = torch.arange(first, first + transitions, device=x.device)
    options: dict[str, Any] = {
        "probe": False,
        "first_population": first_population,
        "batch_size": batch_size,
    }

    with without_inference_mode():
        faults = torch.zeros((), dtype=torch.int64, device=x.device)

    def evaluated(x: Tensor) -> tuple[Tensor, Tensor]:
        found = evaluate(target, x, sigma, rng=rng[0], **options)
        wrong = ~found.score.flatten(2).isfinite().all(2) & found.energy.isfinite()
        faults.add_((wrong | found.energy.isnan()).sum())
        return found.energy, found.score

    states, energies, acceptance, lengths = [], [], [], []
    with without_inference_mode(), torch.no_grad():
        x = as_ordinary(x)
        energy, score = evaluated(x)
        for t in range(transitions):
            lengths.append(log_steps[0])
            x, energy, score, log_steps, accepted = correct(
                [once],
                evaluated,
                x,
                energy,
                score,
                sigma=sigma,
                exponent=exponent,
                log_steps=log_steps,
                rng=rng[t],
                first_population=first_population,
                gain=(t + 1) ** -_WARMUP_DECAY if t < warmup else 0.0,
            )
            acceptance.append(accepted[0])
            if t >= warmup and (t - warmup + 1) % thin == 0:
                states.append(x)
                energies.append(energy)
            if callback is not None:
                callback({"i": t, "x": x.clone(), "energy": energy.clone(), "score": score.clone()})
    evaluations = (1 + transitions * corrector.leapfrog_steps) * x.shape[0] * x.shape[1]
    _tell_faults(int(faults), evaluations, on_degenerate)
    return ChainResult(
        torch.stack(states),
        torch.stack(energies),
        torch.stack(acceptance),
        torch.stack(lengths),
        1 + transitions * corrector.leapfrog_steps,
        first + transitions,
        seed,
    )


def _tell_faults(faults: int, evaluations: int, on_degenerate: str) -> None:
    if faults == 0 or on_degenerate == "ignore":
        return
    told = (
        f"the energy or the score was NaN, or the score infinite, in {faults} of {evaluations} evaluations: "
        "chains stay where they are instead of moving there"
    )
    if on_degenerate == "raise":
        raise RuntimeError(told)
    warnings.warn(told, DegenerateWeightsWarning, stacklevel=3)


def _check(x: Tensor, first: int, transitions: int, warmup: int, thin: int) -> None:
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        told = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of float32 or float64, got {told}")
    if x.dim() < 3 or x.numel() == 0:
        raise ValueError(f"x must be [P, N, *shape], not empty, got {tuple(x.shape)}")
    if thin < 1 or warmup < 0 or transitions < warmup + thin:
        raise ValueError(
            "transitions must be at least warmup + thin, warmup >= 0 and thin >= 1, "
            f"got transitions={transitions}, warmup={warmup}, thin={thin}"
        )
    if first + transitions > 1 << LEVEL_BITS:
        raise ValueError(f"at most {1 << LEVEL_BITS} transitions, got {first + transitions}")
