"""The kinds of corrector: Markov kernels that leave the target of one noise level invariant.

All of them are Langevin trajectories: momenta v ~ N(0, I), then `leapfrog_steps` steps of length h

    v += (h/2) S(x),   x += h v,   v += (h/2) S(x),

with v <- c v + sqrt(1 - c²) N(0, I), c = exp(-friction h), between them, and for the adjusted kinds one
Metropolis decision for each chain. The adjusted kinds are exact whatever field S is, the score of the energy or
not. The unadjusted kinds are biased by their step size, and need S = -grad U.

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

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int


class Corrector:
    """The fields that all kinds of corrector have.

    Step lengths are in units of sigma/sqrt(A): on the energy of a diffusion model with positive exponents no
    direction is narrower than that, so the leapfrog is stable below 2.

    steps: transitions each time the corrector is applied.
    step_size: length of the leapfrog step; with `adapt`, that of the first transition of a run.
    leapfrog_steps: the number of them in a transition. friction: in units of sqrt(A)/sigma.
    adjusted: True for kinds with a Metropolis decision. acceptance: the mean probability of acceptance that
    adaptation aims at. adapt: adapt the step size during a run.

    Raises TypeError or ValueError for numbers out of range.
    """

    steps: int
    step_size: float
    leapfrog_steps: int
    friction: float
    adjusted: bool
    acceptance: float
    adapt: bool

    def __post_init__(self) -> None:
        numbers = {
            "steps": as_int("steps", self.steps, least=1),
            "leapfrog_steps": as_int("leapfrog_steps", self.leapfrog_steps, least=1),
            "step_size": as_float("step_size", self.step_size, positive=True),
            "friction": as_float("friction", self.friction, least=0),
            "acceptance": as_float("acceptance", self.acceptance, positive=True),
        }
        check_level("step_size", numbers["step_size"], torch.float32)
        if not numbers["acceptance"] < 1:
            raise ValueError(f"acceptance must be between 0 and 1, got {self.acceptance}")
        # the class is frozen, and checkpoints tell correctors apart by how their numbers are written
        for name in vars(self).keys() & numbers.keys():
            object.__setattr__(self, name, numbers[name])

    @property
    def nfe(self) -> int:
        """The evaluations of energy and score for one particle, each time the corrector is applied."""
        return self.steps * self.leapfrog_steps


@dataclass(frozen=True)
class ULA(Corrector):
    """Unadjusted Langevin, which is biased by its step size and never adapts it."""

    steps: int = 1
    step_size: float = 0.2
    # Names without an annotation are no fields, so a caller cannot set them.
    leapfrog_steps = 1
    friction = 0.0
    adjusted = False
    # Nothing reads this number, because ULA neither decides nor adapts.
    acceptance = 0.5
    adapt = False


@dataclass(frozen=True)
class MALA(Corrector):
    """Metropolis-adjusted Langevin, with one evaluation a transition.

    The acceptance 0.574 is optimal in many dimensions (Roberts and Rosenthal 1998).
    """

    steps: int = 1
    step_size: float = 0.5
    acceptance: float = 0.574
    adapt: bool = True
    leapfrog_steps = 1
    friction = 0.0
    adjusted = True


@dataclass(frozen=True)
class HMC(Corrector):
    """Hamiltonian Monte Carlo, with `leapfrog_steps` evaluations a transition.

    The acceptance 0.651 is optimal in many dimensions (Beskos et al. 2013), and 0.8 is the safer choice
    (Betancourt, Byrne and Girolami 2014). A trajectory of half a period carries a Gaussian to its mirror image
    and mixes nothing: on targets near a Gaussian, as all are at high noise, `Underdamped` is the safer kind.
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
    """Kinetic Langevin, which renews a part of the momenta between the leapfrog steps of HMC.

    friction: in units of sqrt(A)/sigma. adjusted: False accepts every move, which is biased by the step size; that
    is then not adapted. Momenta start anew with each transition.
    """

    steps: int = 1
    leapfrog_steps: int = 5
    step_size: float = 0.5
    friction: float = 1.0
    acceptance: float = 0.8
    adapt: bool = True
    adjusted: bool = True
