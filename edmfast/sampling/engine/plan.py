"""The plan of a run: the model calls and the linear combinations of every step, with all their coefficients.

A register is a named tensor like the states. "x" holds the states at the start of a step and, when the step has
ended, those at its end. A step does its work in order:

    Call(sigma, state="x", out="D")   D = denoiser(x; sigma), one NFE
    Combine("x", expression)          x = the expression, one pass over the states, with fresh noise where it asks
                                      for some

After the last piece of work `keep` renames registers for the next step, all at once: (("D1", "D"), ("D2", "D1"))
makes the present D the next step's D1. "x" is always kept, and every other register is dropped.

The callback of a sampler is called after the first `Call` of each step, as k-diffusion does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from edmfast.sampling.engine.expression import Expression


@dataclass(frozen=True)
class Call:
    """One evaluation of the denoiser: the register `out` gets D(state; sigma).

    sigma: the noise level, in units of x. state: the register of the states that are denoised.
    kept: the result is read after a later call. The engine finds this out.
    `plan_of` checks the entries and raises TypeError or ValueError with the step and the solver.
    """

    sigma: float
    state: str = "x"
    out: str = "D"
    kept: bool = False


@dataclass(frozen=True)
class Combine:
    """One linear combination: the register `out` gets value + noise * xi, with xi standard normal.

    value: a sum of registers, at most 8. noise: the standard deviation of the fresh noise, in units of x.
    interval: the noise levels (from, to) that the fresh noise spans. A Brownian path gives its increment over
        them, scaled to unit variance. Needed where noise is not 0.
    always: draw the noise even where its coefficient is 0, for a source that counts its calls.
    `plan_of` checks the entries and raises TypeError or ValueError with the step and the solver.
    """

    out: str
    value: Expression
    noise: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    always: bool = False

    @property
    def draws(self) -> bool:
        """True where the combination asks the source of noise for a draw."""
        return self.noise != 0 or self.always


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    sigma: the noise level at its start, in units of x.
    work: its calls and combinations, in order.
    keep: the registers that the next step reads, as pairs (new name, old name); see the head of this module.
    sigma_hat: the level after the churn, which the callback is told; sigma without churn.
    `plan_of` checks the entries and raises TypeError or ValueError with the step and the solver.
    """

    sigma: float
    work: tuple[Call | Combine, ...]
    keep: tuple[tuple[str, str], ...] = ()
    sigma_hat: float = -1.0

    def __post_init__(self) -> None:
        if self.sigma_hat < 0:
            object.__setattr__(self, "sigma_hat", self.sigma)


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    slope_first: the sampler computes its slopes before the callback, as Euler, Heun, DPM-2 and LMS of k-diffusion
        do. A callback that changes x in place then moves the start of the step, and a change of the denoised
        states has no effect.
    """

    steps: tuple[Step, ...]
    slope_first: bool = False
    prepared: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """The plan in the forms that runs need, by device. It is kept with the plan."""


class Solver:
    """The base class of solvers, which are frozen dataclasses whose fields are their settings.

    A subclass yields the steps of a run over levels (sigma_0, ..., sigma_T) in units of x, of which the last may
    be 0. It checks its fields in `__post_init__`. Equal solvers share their plans, so every field is hashable. The
    states x_0 + sigma eps are those of Karras et al. 2022, arXiv 2206.00364.
    """

    slope_first = False
    brownian = False
    """The default noise is that of a Brownian path over the noise levels, and otherwise independent draws."""
    threshold: Callable[[Tensor], Tensor] | None = None
    """A function that the machine applies to the denoised states of every call."""

    def steps(self, levels: tuple[float, ...]) -> Iterable[Step]:
        """Yield the T steps of a run over the T + 1 levels.

        Raises ValueError where the solver has no steps over such levels.
        """
        raise NotImplementedError
