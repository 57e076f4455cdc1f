"""The amount of work of the demonstration: in full, which takes under four minutes on two cores, or quick."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Budget:
    """The numbers of steps, samples and particles of the demonstration."""

    distill_steps: int = 1000
    """Training steps of the energy."""
    distill_batch: int = 128
    """Images in each training step."""
    value_paths: int = 2048
    """Noising paths from which the energy learns values."""
    steps: int = 32
    """Noise levels of the runs on the smooth digits."""
    particles: int = 256
    """Particles of each population on the smooth digits."""
    populations: int = 16
    """Independent populations on the smooth digits."""
    composed_populations: int = 4
    """Independent populations of each product."""
    guided_populations: int = 2
    """Independent populations of each guided class."""
    mixture_seeds: int = 8
    """Independent populations in the runs on mixtures in the plane."""
    mixture_particles: int = 4000
    """Particles of each population in the runs on mixtures in the plane."""
    exact_particles: int = 2000
    """Particles in the runs on the kernel density of the digits."""


FULL = Budget()
QUICK = Budget(
    distill_steps=150,
    value_paths=512,
    populations=3,
    composed_populations=1,
    guided_populations=1,
    mixture_seeds=3,
    mixture_particles=2000,
    exact_particles=1000,
)
