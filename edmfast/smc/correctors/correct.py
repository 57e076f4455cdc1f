"""Apply correctors one after the other at one noise level, and adapt their step sizes.

After each transition log h += gain max(-1, (a - a*) / (1 - a*)) for each population, with a the mean probability
of acceptance and a* the wanted one (Robbins and Monro 1951; Andrieu and Thoms 2008). The division makes steps
grow equally fast for every a*. The step of a transition thus comes from the acceptance of earlier transitions,
so given its step each transition leaves the target invariant. Through the step a population depends on its own
past, as it does through adaptive resampling: a bias of order 1/N, and none with `adapt=False`. Nothing is read
on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast.ops._shared.sums import population_mean
from edmfast.smc.correctors.kinds import Corrector
from edmfast.smc.correctors.transition import MOST_DRAWS, Chains, Evaluate, Noise, transition
from edmfast.targets.scores import has_energy, missing_energy, score_is_exact

_GAIN = 0.3
# Where every move is accepted the step grows at each transition, and must not overflow.
_LARGEST_LOG_STEP = math.log(1e6)


def start_log_steps(correctors: Sequence[Corrector], like: Tensor) -> Tensor:
    """Return the log of the first step size of each corrector, float64 [C, P] on the device of like [P, ...]."""
    steps = torch.empty(len(correctors), len(like), dtype=torch.float64, device=like.device)
    for row, corrector in zip(steps, correctors, strict=True):
        row.fill_(math.log(corrector.step_size))
    return steps


def as_correctors(
    correctors: Corrector | Sequence[Corrector], name: str = "correctors", others: str = ""
) -> tuple[Corrector, ...]:
    """Return one or several correctors as a tuple. Raises TypeError for anything else.

    name: the name of the argument in error messages. others: what else it accepts, such as " or smc.Correction".
    """
    if isinstance(correctors, Corrector):
        return (correctors,)
    # a string is a sequence too, of letters that the caller did not mean
    is_several = isinstance(correctors, Iterable) and not isinstance(correctors, str)
    several: tuple[Any, ...] = tuple(correctors) if is_several else (correctors,)
    for corrector in several:
        if isinstance(corrector, type) and issubclass(corrector, Corrector):
            raise TypeError(
                f"{name} must be an instance, got the class {corrector.__name__}: write "
                f"smc.{corrector.__name__}()"
            )
        if not isinstance(corrector, Corrector):
            holder = f"a {type(correctors).__name__} that holds " if is_several else ""
            raise TypeError(
                f"{name} must be ULA, MALA, HMC or Underdamped, a sequence of them{others}, got "
                f"{holder}{corrector!r}"
            )
    return several


def check_correctors(correctors: Sequence[Corrector], target: Any, times: int = 1) -> None:
    """Check that correctors can move chains of a target, applied `times` times at one level.

    Raises TypeError for a target without energies. Raises ValueError for an unadjusted kind where the target says
    that its score is not the gradient of its energy (`score_is_exact`), and for more than 4096 evaluations of a
    chain at one level.
    """
    for corrector in correctors:
        if not corrector.adjusted and not score_is_exact(target):
            raise ValueError(
                f"an unadjusted {type(corrector).__name__} samples what the score says, and that of "
                f"{type(target).__name__} is not the gradient of its energy: use an adjusted kind, "
                "which is exact for any score"
            )
    if correctors and not has_energy(target):
        raise missing_energy(target)
    if times * sum(corrector.nfe for corrector in correctors) > MOST_DRAWS:
        raise ValueError(f"at most {MOST_DRAWS} evaluations by correctors at one level")


def correct(
    correctors: Sequence[Corrector],
    evaluate: Evaluate,
    x: Tensor,
    energy: Tensor,
    score: Tensor,
    *,
    sigma: float | Tensor,
    exponent: float | Tensor,
    log_steps: Tensor,
    rng: Tensor,
    first_population: int = 0,
    first_draw: int = 0,
    gain: float = _GAIN,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (x, energy, score, log_steps, acceptance) after `steps` transitions of each corrector in turn.

    x, score: [P, N, *shape], and energy [P, N], of the target at sigma, a float or []. evaluate: returns energy
    and score of other states. exponent: A, a float or float64 [P]. log_steps: float64 [C, P], log step sizes in
    units of sigma/sqrt(A). rng: int64 [2] = (seed, level), level < 2^20; use each level once, or with another
    first_draw, which is the number of earlier evaluations of a chain. The acceptance, float64 [C, P], is the
    mean probability of being moved. The function can be traced; it has no derivative.
    """
    chains = Chains(x, energy, score)
    draw, log_lengths, acceptance = first_draw, [], []
    for corrector, start in zip(correctors, log_steps, strict=True):
        log_step, total = start, torch.zeros_like(start)
        for _ in range(corrector.steps):
            relative = log_step.exp()
            chains, probability = transition(
                corrector,
                evaluate,
                chains,
                # In these units one step size suits all noise levels, so it is carried from level
                # to level.
                relative * (sigma / exponent**0.5),
                # The units of friction and step length cancel.
                relative * corrector.friction,
                Noise(rng, draw, first_population),
            )
            # With friction each leapfrog step draws its own momenta.
            draw += corrector.leapfrog_steps
            mean = population_mean(probability)
            total = total + mean
            # unadjusted kinds have no acceptance to learn from
            if corrector.adapt and corrector.adjusted:
                # The division makes steps grow equally fast for every wanted acceptance.
                excess = (mean - corrector.acceptance) / (1 - corrector.acceptance)
                # A transition without any accepted move must not shrink the step faster than all
                # accepted ones grow it.
                log_step = log_step + gain * excess.clamp(min=-1.0)
                log_step = log_step.clamp(-_LARGEST_LOG_STEP, _LARGEST_LOG_STEP)
        log_lengths.append(log_step)
        acceptance.append(total / corrector.steps)
    return (*chains, torch.stack(log_lengths), torch.stack(acceptance))
