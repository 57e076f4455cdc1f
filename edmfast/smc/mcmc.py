"""Run Markov chains at one noise level, without sequential Monte Carlo."""

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
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.ops import rng_state
from edmfast.ops._shared.counters import check_populations
from edmfast.smc.arguments import as_batch_size, check_on_degenerate
from edmfast.smc.correctors import (
    Corrector,
    as_correctors,
    check_correctors,
    correct,
    start_log_steps,
)
from edmfast.smc.correctors.transition import LEVEL_BITS
from edmfast.smc.feynman_kac.evaluate import evaluate
from edmfast.smc.populations.exponents import population_exponents
from edmfast.smc.verdict.warn import DegenerateWeightsWarning
from edmfast.targets.gauges import UNKNOWN_GAUGES, GaugeWarning, has_unknown_gauges
from edmfast.targets.protocols import Target

# The conditions of Robbins and Monro hold for decays in (1/2, 1].
_WARMUP_DECAY = 0.6


@dataclass(repr=False)
class ChainResult:
    """The result of `mcmc`: P populations of N chains after T transitions, of which K states were kept."""

    states: Tensor
    """The kept states, [K, P, N, *shape]."""
    energies: Tensor
    """Energies of the target at the kept states, [K, P, N]."""
    acceptance: Tensor
    """Mean probability that a chain moves, float64 [T, P]."""
    log_step_sizes: Tensor
    """Logarithms of the step sizes, float64 [T, P], in units of sigma/sqrt(A)."""
    nfe: int
    """Evaluations of energy and score for one chain, the one at the start included."""
    transitions: int
    """T, with the transitions of the calls that this one continued."""
    seed: int
    """Seed of the chains, 64-bit."""

    def __repr__(self) -> str:
        kept, populations, chains, *shape = self.states.shape
        accepted = float(self.acceptance[-1].mean())
        return (
            f"ChainResult({kept} states of {populations} x {chains} chains of shape {tuple(shape)}, "
            f"{self.transitions} transitions, acceptance at the end {accepted:.2f}, nfe {self.nfe})"
        )

    @property
    def step_sizes(self) -> Tensor:
        """Step sizes, float64 [T, P], in units of sigma/sqrt(A)."""
        return self.log_step_sizes.exp()


def mcmc(
    target: Target,
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
    """Run Markov chains that leave the target at noise level sigma invariant.

    Args:
        target: an energy, as in `smc.sample`.
        x: the first states, [P, N, *shape] in float32 or float64. The N chains of a population share their step
            size, and their random numbers do not depend on P.
        sigma: the noise level, in the units of x.
        corrector: `ULA`, `MALA`, `HMC` or `Underdamped`; its field `steps` is not used.
        transitions: T, the number of transitions.
        warmup: number of transitions at the beginning that adapt the step size, the k-th with gain k^-0.6
            (Andrieu and Thoms 2008). Later transitions do not, so they form a Markov chain whose law tends to
            the target.
        thin: every `thin`-th state after the warm-up is kept.
        seed: 64-bit.
        first_population: index of the first population, to split a run over calls.
        after: the result of an earlier call to continue, with its seed, step sizes and count of transitions.
            Without a warm-up, and with x as its last state, the chains are those of one longer call. The last
            state is states[-1] where thin divides transitions - warmup.
        batch_size: the largest number of rows in one call of the target.
        callback: a function that gets {"i", "x", "energy", "score"} after every transition. The tensors are
            copies.
        on_degenerate: the reaction to a NaN energy, or to a score that is not finite at a finite energy, both
            of which keep chains where they are: "warn" with a `DegenerateWeightsWarning`, "raise" a
            RuntimeError, or "ignore". An infinite energy is a wall that no chain enters, and no fault.

    Raises ValueError or TypeError for bad arguments, and for an unadjusted corrector where the target says that
    its score is not the gradient of its energy.
    """
    refuse_run("smc.mcmc", target, x)
    seed, batch_size = as_seed(seed), as_batch_size(batch_size)
    transitions, warmup = as_int("transitions", transitions), as_int("warmup", warmup)
    thin, sigma = as_int("thin", thin), as_float("sigma", sigma, positive=True)
    check_on_degenerate(on_degenerate)
    first = 0 if after is None else after.transitions
    _check_arguments(x, first, transitions, warmup, thin)
    check_level("sigma", sigma, x.dtype)
    first_population = check_populations(first_population, len(x))
    (corrector,) = as_correctors(corrector)
    check_correctors([corrector], target)
    if has_unknown_gauges(target):
        warnings.warn(UNKNOWN_GAUGES, GaugeWarning, stacklevel=2)
    # the step size is in units of sigma/sqrt(A)
    exponent = population_exponents(target, len(x), x.device)
    # One transition at a time lets the gain decay, and states be kept, between any two.
    single_step = dataclasses.replace(cast(Any, corrector), steps=1)
    log_steps = start_log_steps([single_step], x)
    if after is not None:
        if after.seed != seed or after.log_step_sizes.shape[1] != len(x):
            raise ValueError(
                f"after must be a result with seed {seed} and {len(x)} populations, got one with seed "
                f"{after.seed} and {after.log_step_sizes.shape[1]} populations"
            )
        log_steps = after.log_step_sizes[-1:]
    # one state of the noise for each transition, made at once, so that a transition needs no fills
    rng = rng_state(seed, 0, x.device).repeat(transitions, 1)
    rng[:, 1] = torch.arange(first, first + transitions, device=x.device)
    options: dict[str, Any] = {
        "probe": False,
        "first_population": first_population,
        "batch_size": batch_size,
    }

    with without_inference_mode():
        # faults are counted on the device, so that chains need not wait for the host
        # Torch refuses to change a tensor of inference mode outside of it.
        faults = torch.zeros((), dtype=torch.int64, device=x.device)

    def evaluated(x: Tensor) -> tuple[Tensor, Tensor]:
        # Without a probe this state of the noise is not used.
        evaluation = evaluate(target, x, sigma, rng=rng[0], **options)
        energy, score = evaluation.energy, evaluation.score
        bad_score = ~score.flatten(2).isfinite().all(2) & energy.isfinite()
        faults.add_((bad_score | energy.isnan()).sum())
        return energy, score

    states, energies, acceptance, log_step_sizes = [], [], [], []
    with without_inference_mode(), torch.no_grad():
        x = as_ordinary(x)
        energy, score = evaluated(x)
        for t in range(transitions):
            log_step_sizes.append(log_steps[0])
            x, energy, score, log_steps, accepted = correct(
                [single_step],
                evaluated,
                x,
                energy,
                score,
                sigma=sigma,
                exponent=exponent,
                log_steps=log_steps,
                rng=rng[t],
                first_population=first_population,
                # Only with a fixed step is what follows a Markov chain whose law tends to the
                # target.
                gain=(t + 1) ** -_WARMUP_DECAY if t < warmup else 0.0,
            )
            acceptance.append(accepted[0])
            if t >= warmup and (t - warmup + 1) % thin == 0:
                states.append(x)
                energies.append(energy)
            if callback is not None:
                callback({"i": t, "x": x.clone(), "energy": energy.clone(), "score": score.clone()})
    evaluations = (1 + transitions * corrector.leapfrog_steps) * x.shape[0] * x.shape[1]
    # This is the first read of the device, after all transitions.
    _report_faults(int(faults), evaluations, on_degenerate)
    return ChainResult(
        torch.stack(states),
        torch.stack(energies),
        torch.stack(acceptance),
        torch.stack(log_step_sizes),
        1 + transitions * corrector.leapfrog_steps,
        first + transitions,
        seed,
    )


def _report_faults(faults: int, evaluations: int, on_degenerate: str) -> None:
    """Warn about evaluations that were not finite. Raises RuntimeError instead with on_degenerate="raise"."""
    if faults == 0 or on_degenerate == "ignore":
        return
    message = (
        f"the energy or the score was NaN, or the score infinite, in {faults} of {evaluations} evaluations: the "
        "chains did not move there"
    )
    if on_degenerate == "raise":
        raise RuntimeError(message)
    warnings.warn(message, DegenerateWeightsWarning, stacklevel=3)


def _check_arguments(x: Tensor, first: int, transitions: int, warmup: int, thin: int) -> None:
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of float32 or float64, got {kind}")
    if x.dim() < 3 or x.numel() == 0:
        raise ValueError(
            f"x must have the shape [P, N, *shape] and must not be empty, got {tuple(x.shape)}"
        )
    if thin < 1 or warmup < 0 or transitions < warmup + thin:
        raise ValueError(
            "transitions must be at least warmup + thin, warmup at least 0 and thin at least 1, "
            f"got transitions={transitions}, warmup={warmup}, thin={thin}"
        )
    # The counter of the noise has so many bits for transitions.
    if first + transitions > 1 << LEVEL_BITS:
        raise ValueError(
            f"a chain can have at most {1 << LEVEL_BITS} transitions in all, got {first + transitions}"
        )
