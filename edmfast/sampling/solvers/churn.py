"""Karras et al.'s churn: before a step the noise is raised, by fresh noise of the variance that is missing.

A step from sigma in [s_tmin, s_tmax] begins at sigma_hat = (1 + gamma) sigma with
gamma = min(s_churn / T, sqrt(2) - 1), after noise of variance s_noise² (sigma_hat² - sigma²) was added.
Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edmfast._internal.numbers import as_float
from edmfast.sampling.engine import Combine, register
from edmfast.sampling.solvers.shared.fields import hold
from edmfast.sampling.steps import churn_factor


@dataclass(frozen=True)
class Churn:
    """The settings of the churn. The default does nothing.

    s_churn: its strength. s_tmin, s_tmax: the noise levels between which there is churn, in units of x.
    s_noise: a factor on the fresh noise.
    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2.
    Raises TypeError for a setting that is no number, and ValueError for one that is negative.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_tmin", "s_tmax"):
            value = as_float(name, getattr(self, name), least=0, finite=False)
            hold(self, **{name: value})
        hold(self, s_noise=as_float("s_noise", self.s_noise, least=0))

    def at(self, levels: tuple[float, ...], i: int) -> tuple[float, tuple[Combine, ...]]:
        """Return (sigma_hat, the work that raises the states of step i to it)."""
        sigma = levels[i]
        gamma = churn_factor(sigma, len(levels) - 1, self.s_churn, self.s_tmin, self.s_tmax)
        if not gamma:
            return sigma, ()
        raised = sigma * (1 + gamma)
        fresh = self.s_noise * math.sqrt(raised**2 - sigma**2)
        return raised, (Combine("x", register("x"), fresh, (sigma, levels[i + 1]), always=True),)


NO_CHURN = Churn()


def check_churn(value: object) -> None:
    """Raise TypeError unless value is a `Churn`, which is the field `churn` of a solver."""
    if not isinstance(value, Churn):
        raise TypeError(f"churn must be a Churn, such as Churn(s_churn=40), got {value!r}")
