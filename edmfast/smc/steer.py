"""Steer a sampler by rewards without their gradients: many prompts with a few candidates each, in one call.

Every prompt is a population of candidates of a plain sampler. The methods differ in the candidates that continue:

| method      | during the run                                                          | at the end            |
|-------------|-------------------------------------------------------------------------|-----------------------|
| "fk"        | systematic resampling by FK-steering potentials, where the ESS is low   | a draw by the weights |
| "svdd"      | all continue from one, drawn at every level with p ∝ exp(r(x̂_0)/alpha)  | a draw by the weights |
| "best_of_n" | no resampling                                                           | the highest reward    |

With more candidates, "fk" tends to the law of the sampler times exp(strength r). "svdd" (soft value of the
posterior mean) and "best_of_n" follow no such law. Sources: Singhal et al. 2025, arXiv 2501.06848 (FK
steering); Li et al. 2024, arXiv 2408.08252 (SVDD).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.noise_levels import as_noise_levels
from edmfast._internal.numbers import as_int, as_seed, as_shape
from edmfast._internal.rows import for_rows
from edmfast.models.calling.foreign import call_reward
from edmfast.smc.arguments import place
from edmfast.smc.feynman_kac.evaluate import in_groups
from edmfast.smc.options import RunOptions, as_options
from edmfast.smc.particles.particles import Particles
from edmfast.smc.populations.select import SELECT
from edmfast.smc.sample import sample
from edmfast.smc.verdict.warn import warn_about_run
from edmfast.targets.protocols import Model
from edmfast.targets.tilted import Tilted

METHODS = ("fk", "svdd", "best_of_n")


@dataclass(repr=False)
class Steered:
    """The result of `steer`: one sample for each of P prompts."""

    samples: Tensor
    """The chosen samples, [P, *shape]."""
    rewards: Tensor
    """Their rewards, float64 [P]."""
    candidates: Particles
    """The run with all N candidates of every prompt."""
    candidate_rewards: Tensor
    """The rewards of all candidates, float64 [P, N]."""

    def __repr__(self) -> str:
        prompts, *shape = self.samples.shape
        return (
            f"Steered({prompts} samples of shape {tuple(shape)} from {self.candidates.x.shape[1]} candidates "
            f"each, mean reward {float(self.rewards.mean()):.4g}, of all candidates "
            f"{float(self.candidate_rewards.mean()):.4g})"
        )


def steer(
    model: Model,
    reward: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    prompts: int = 1,
    candidates: int = 4,
    method: str = "fk",
    strength: float | Tensor = 1.0,
    potential: str = "difference",
    seed: int = 0,
    options: RunOptions = RunOptions(),
    **sampling: Any,
) -> Steered:
    """Return one sample for every prompt, steered towards high rewards.

    Args:
        model: a denoiser or an energy; `edmfast.Conditioned` binds it to one condition for each prompt.
        reward: a function of clean states [B, *shape] that returns [B]. A module with `for_rows` may hold one
            condition for each prompt.
        shape: of one sample.
        sigmas: T + 1 noise levels as in `smc.sample`. A missing last 0 is added, since rewards are those of
            clean states.
        prompts: P, the number of prompts.
        candidates: N, the number of candidates of each prompt. Every prompt takes N (T + 1) evaluations of the
            model.
        method: the way in which candidates are chosen;
            "fk"         systematic resampling by the potential where the ESS is low, and a draw by the weights at
                         the end; with more candidates it tends to the law of the sampler times exp(strength r)
            "svdd"       at every level all candidates continue from one, drawn with p ∝ exp(strength r(x̂_0)), and
                         a draw by the weights at the end
            "best_of_n"  no resampling, and the candidate of the highest reward at the end
        strength: lambda in nats per unit of reward, a number or [P]; the 1/alpha of SVDD. "best_of_n" does not
            use it.
        potential: the logarithm L_t that "fk" has collected up to level t, with r_s the reward of the denoised
            state at level s;
            "difference"  L_t = strength r_t
            "max"         L_t = sum over s <= t of strength max(r_0, ..., r_s)
            "sum"         L_t = sum over s <= t of strength (r_0 + ... + r_s)
            At the last level T each has L_T = strength r_T. "max" and "sum" pay the reward at every level and
            correct for it at the end, so their weights degenerate over many levels: give them a smaller strength.
        seed: 64-bit.
        options: `smc.RunOptions`; its batch_size is the largest number of rows in one call of model and reward.
        sampling: further arguments of `smc.sample`, such as proposal, sigma_range or compile.

    Raises as `smc.sample` and `edmfast.Tilted` do, and ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    for name, instead in (("particles", "candidates"), ("populations", "prompts")):
        if name in sampling:
            raise TypeError(f"steer has no argument {name!r}: pass {instead}=")
    prompts = as_int("prompts", prompts, least=1)
    candidates = as_int("candidates", candidates, least=1)
    seed, options = as_seed(seed), as_options(options)
    levels = as_noise_levels(sigmas)
    levels = levels if levels[-1] == 0 else [*levels, 0.0]
    if method == "best_of_n":  # the other methods call the reward at once, this one only at the end
        _try_reward(reward, shape, prompts, *place(model, options.device, options.dtype))
    target: Model = model
    if method != "best_of_n":
        kind = potential if method == "fk" else "difference"
        # Without a ramp the reward steers from the first level on.
        target = Tilted(model, reward, strength, ramp=None, potential=kind)
        if method == "svdd":
            # SVDD chooses at every level, however equal the weights are.
            sampling = {"ess_threshold": 1.0, **sampling, "resampling": SELECT}
    run = sample(
        target,
        shape,
        levels,
        particles=candidates,
        populations=prompts,
        seed=seed,
        options=dataclasses.replace(options, on_degenerate="ignore"),
        # Weights by scores keep a single model a plain sampler, so that only rewards weigh.
        **{"weights": "score", **sampling},
    )
    # each prompt has its own answer, so their log Z need not agree
    warn_about_run(run, options.on_degenerate, stacklevel=3, pooled=False)

    def call(part: Any, rows: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (call_reward(part, rows),)

    (rewards,) = in_groups(call, [reward], [run.x], options.batch_size)
    rewards = rewards.double()
    # argmax takes NaN for the highest reward
    best = rewards.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax(1)
    index = best if method == "best_of_n" else run.draw_index()
    # every prompt takes one of its candidates
    row = torch.arange(prompts, device=index.device)
    return Steered(run.x[row, index], rewards[row, index], run, rewards)


def _try_reward(
    reward: Any, shape: Sequence[int], prompts: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Call the reward of the first prompt once, so that a bad reward raises before the run."""
    x = torch.zeros((1, *as_shape("shape", shape)), device=device, dtype=dtype)
    with torch.no_grad():
        call_reward(for_rows(reward, 0, 1, prompts), x)
