"""Steering by rewards without gradients: many prompts, a few candidates each, one call.

Every prompt is a population of candidates of a plain sampler; the methods differ in who lives on.

| method      | on the way                                                     | at the end            |
|-------------|----------------------------------------------------------------|-----------------------|
| "fk"        | systematic resampling by FK-steering potentials, where the ESS falls | a draw by weight |
| "svdd"      | at every level all go on from one, drawn ∝ exp(r(x̂_0)/alpha)   | a draw by weight      |
| "best_of_n" | nobody dies                                                    | the highest reward    |

"fk" tends to the law of the sampler times exp(strength r) as the candidates grow; "svdd" (soft value, by the
posterior mean) and "best_of_n" follow no such law. Sources: Singhal et al. 2025, arXiv 2501.06848 (FK steering);
Li et al. 2024, arXiv 2408.08252 (SVDD).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_int, as_seed, as_shape
from edmfast._internal.rows import for_rows
from edmfast.models.calling.foreign import call_reward
from edmfast.smc.arguments import as_batch_size, check_sigmas, place
from edmfast.smc.feynman_kac.evaluate import in_groups
from edmfast.smc.particles.particles import Particles
from edmfast.smc.populations.select import SELECT
from edmfast.smc.sample import sample
from edmfast.smc.verdict.warn import ON_DEGENERATE, warn_about_run
from edmfast.targets.tilted import Tilted

METHODS = ("fk", "svdd", "best_of_n")


@dataclass(repr=False)
class Steered:
    """samples [P, *shape], one per prompt; rewards float64 [P], of them; candidates: the whole run, whose x [P, N,
    *shape] have candidate_rewards float64 [P, N]."""

    samples: Tensor
    rewards: Tensor
    candidates: Particles
    candidate_rewards: Tensor

    def __repr__(self) -> str:
        prompts, *shape = self.samples.shape
        return (
            f"Steered({prompts} samples of shape {tuple(shape)} of {self.candidates.x.shape[1]} candidates each, "
            f"mean reward {float(self.rewards.mean()):.4g} of {float(self.candidate_rewards.mean()):.4g})"
        )


def steer(
    model: Any,
    reward: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    prompts: int = 1,
    candidates: int = 4,
    method: str = "fk",
    strength: float | Tensor = 1.0,
    potential: str = "difference",
    batch_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Steered:
    """One sample for every prompt, steered towards high rewards.

    Args:
        model: a denoiser or an energy; bound to one condition per prompt by `edmfast.Conditioned`.
        reward: [B, *shape] -> [B], of clean states; a module with `for_rows` may hold a condition per prompt.
        sigmas: as in `smc.sample`; a last 0 is added where it is missing, since rewards are of clean states.
        prompts, candidates: P and N; N (T + 1) evaluations of the model per prompt.
        strength: lambda in nats per unit of reward, a number or [P]: 1/alpha of SVDD. Not used by "best_of_n".
        potential: of "fk", see `edmfast.smc.feynman_kac.rewards`: "max" and "sum" pay at every level and are taken
            back at the end, so that their weights degenerate over many levels: give them a smaller strength.
        batch_size: most rows per call of model and reward.
        options: others of `smc.sample`, such as proposal, sigma_range, device, dtype or compile.

    Raises as `smc.sample` and `edmfast.Tilted` do, ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    prompts = as_int("prompts", prompts, least=1)
    candidates = as_int("candidates", candidates, least=1)
    batch_size, seed = as_batch_size(batch_size), as_seed(seed)
    levels = check_sigmas(sigmas)
    levels = levels if levels[-1] == 0 else [*levels, 0.0]
    if method == "best_of_n":  # the others meet the reward at once, this one only at the end
        _try_reward(
            reward, shape, prompts, *place(model, options.get("device"), options.get("dtype"))
        )
    target: Any = model
    if method != "best_of_n":
        kind = potential if method == "fk" else "difference"
        target = Tilted(model, reward, strength, ramp=None, potential=kind)
        if method == "svdd":
            options = {"ess_threshold": 1.0, **options, "resampling": SELECT}
    on_degenerate = options.pop("on_degenerate", "warn")
    if on_degenerate not in ON_DEGENERATE:
        raise ValueError(
            f"on_degenerate must be one of {', '.join(ON_DEGENERATE)}, got {on_degenerate!r}"
        )
    found = sample(
        target,
        shape,
        levels,
        particles=candidates,
        populations=prompts,
        weights=options.pop("weights", "score"),
        batch_size=batch_size,
        seed=seed,
        on_degenerate="ignore",
        **options,
    )
    # prompts are answers of their own, whose log Z need not agree
    warn_about_run(found, on_degenerate, stacklevel=3, pooled=False)

    def call(part: Any, rows: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (call_reward(part, rows),)

    (rewards,) = in_groups(call, [reward], [found.x], batch_size)
    rewards = rewards.double()
    # NaN would be the highest
    best = rewards.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax(1)
    index = best if method == "best_of_n" else found.draw_index()
    row = torch.arange(prompts, device=index.device)
    return Steered(found.x[row, index], rewards[row, index], found, rewards)


def _try_reward(
    reward: Any, shape: Sequence[int], prompts: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Call the reward of the first prompt once, so that what it returns is refused before the run."""
    x = torch.zeros((1, *as_shape("shape", shape)), device=device, dtype=dtype)
    with torch.no_grad():
        call_reward(for_rows(reward, 0, 1, prompts), x)
