"""How much work the demonstration does: in full (under four minutes on two cores), or quick."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Budget:
    """Counts of steps, samples and particles."""

    distill_steps: int = 2500
    distill_batch: int = 128
    samples: int = 1000
    """Per sampler and model, for the Fréchet distances."""
    heun_steps: tuple[int, ...] = (3, 5, 9, 16)
    """A run of T steps costs 2T - 1 evaluations."""
    control_steps: int = 48
    """Noise levels of the controlled runs on learned energies."""
    control_particles: int = 256
    """Per class."""
    mixture_seeds: int = 8
    mixture_particles: int = 4000
    exact_particles: int = 2000


FULL = Budget()
QUICK = Budget(
    distill_steps=400,
    samples=500,
    heun_steps=(3, 9),
    control_steps=32,
    control_particles=48,
    mixture_seeds=3,
    mixture_particles=2000,
    exact_particles=1000,
)
