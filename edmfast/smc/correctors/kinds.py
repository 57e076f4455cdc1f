"""The kinds of corrector: Markov kernels that leave the target of one noise level invariant.

All are one family, Langevin trajectories: momenta v ~ N(0, I), then `leapfrog_steps` steps of length h

    v += (h/2) S(x),   x += h v,   v += (h/2) S(x),

with v <- c v + sqrt(1 - c²) N(0, I), c = exp(-friction h), between them, and for the adjusted kinds one
Metropolis decision for each chain. Adjusted, they are exact whatever field S is, the score of the energy or
not; unadjusted they are not exact at all, and need S = -grad U.

| kind          | leapfrog steps | friction | adjusted    | the same as                                   |
|---------------|----------------|----------|-------------|-----------------------------------------------|
| `ULA`         | 1              | -        | no          | x + (h²/2) S + h z                            |
| `MALA`        | 1              | -        | yes         | ULA with the ratio of both proposal densities |
| `HMC`         | L              | 0        | yes         | Hamiltonian Monte Carlo                       |
| `Underdamped` | L              | > 0      | yes (or no) | kinetic Langevin, OBABO                       |

On N(0, I) both unadjusted kinds settle at variance 1/(1 - h²/4).
Sources: Roberts and Tweedie 1996 (ULA, MALA); Duane et al. 1987 and Neal 2011 (HMC); Bussi and Parrinello
2007 (OBABO); Riou-Durand and Vogrinc 2022, arXiv 2202.13230 (its adjustment over a whole trajectory).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edmfast._internal.numbers import as_float, as_int, check_level


class Corrector:
    """What all kinds have. Step lengths are in units of sigma/sqrt(A): on the energy of a diffusion model with
    positive exponents no direction is narrower than that, so the leapfrog is stable below 2.

    steps: transitions each time it is applied. step_size: length of the leapfrog step; where `adapt`, only the
    first one of a run. acceptance: mean probability of acceptance that adaptation steers to.
    """

    steps: int
    step_size: float
    leapfrog_steps: int
    friction: float
    adjusted: bool
    acceptance: float
    adapt: bool

    def __post_init__(self) -> None:
        found = {
            "steps": as_int("steps", self.steps, least=1),
            "leapfrog_steps": as_int("leapfrog_steps", self.leapfrog_steps, least=1),
            "step_size": as_float("step_size", self.step_size, positive=True),
            "friction": as_float("friction", self.friction, least=0),
            "acceptance": as_float("acceptance", self.acceptance, positive=True),
        }
        check_level("step_size", found["step_size"], torch.float32)
        if not found["acceptance"] < 1:
            raise ValueError(f"acceptance must be between 0 and 1, got {self.acceptance}")
        # frozen, and checkpoints tell correctors apart by how their numbers are written
        for name in vars(self).keys() & found.keys():
            object.__setattr__(self, name, found[name])

    @property
    def nfe(self) -> int:
        """Evaluations of energy and score for one particle, each time it is applied."""
        return self.steps * self.leapfrog_steps


@dataclass(frozen=True)
class ULA(Corrector):
    """Unadjusted Langevin: biased by its step size, which is never adapted."""

    steps: int = 1
    step_size: float = 0.2
    leapfrog_steps = 1
    friction = 0.0
    adjusted = False
    acceptance = 0.5
    adapt = False


@dataclass(frozen=True)
class MALA(Corrector):
    """Metropolis-adjusted Langevin: one evaluation a transition. The acceptance 0.574 is optimal in many
    dimensions (Roberts and Rosenthal 1998)."""

    steps: int = 1
    step_size: float = 0.5
    acceptance: float = 0.574
    adapt: bool = True
    leapfrog_steps = 1
    friction = 0.0
    adjusted = True


@dataclass(frozen=True)
class HMC(Corrector):
    """Hamiltonian Monte Carlo: `leapfrog_steps` evaluations a transition. 0.651 is the optimal acceptance in
    many dimensions (Beskos et al. 2013), 0.8 the safer choice (Betancourt, Byrne and Girolami 2014).

    A trajectory of half a period carries a Gaussian to its mirror image and mixes nothing: on targets near a
    Gaussian, as all are at high noise, `Underdamped` is the safer kind.
    """

    steps: int = 1
    leapfrog_steps: int = 5
    step_size: float = 0.5
    acceptance: float = 0.8
    adapt: bool = True
    friction = 0.0
    adjusted = True


@dataclass(frozen=True)
class Underdamped(Corrector):
    """Kinetic Langevin: as HMC, but the momenta are renewed in part between the leapfrog steps.

    friction: in units of sqrt(A)/sigma. adjusted: False takes every move, which is biased by the step size
    (then not adapted). Momenta start anew with each transition.
    """

    steps: int = 1
    leapfrog_steps: int = 5
    step_size: float = 0.5
    friction: float = 1.0
    acceptance: float = 0.8
    adapt: bool = True
    adjusted: bool = True
