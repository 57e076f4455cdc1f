"""Proposal kernels of sequential Monte Carlo between noise levels s > u, tau² = s² - u².

Forward M = N(x + tau² b, v_M I), backward L = N(x_u, v_L I), S the target's score and A its exponent:

| name               | b   | v_M           | v_L    |
|--------------------|-----|---------------|--------|
| euler              | S   | tau²          | tau²   |
| ancestral          | S   | tau² u²/s²    | tau²   |
| noise_matched      | S/A | kappa tau²/A, kappa = (u²+c²)/(s²+c²)                                  | tau²/A |
| curvature_matched  | S/A | kappa tau²/A, kappa = 1 + tau² tr(grad S)/(A d), in [u²/(2 s²), 1]     | tau²/A |
| feynman_kac        | (1 + eta) S/2 | eta tau²                                                     | eta tau² |

With energies the weights are exact for each. For a Gaussian the matched kernels with the right kappa are the
exact time reversal, and the weights do not vary. Without energies "feynman_kac" has weights of its own, and
"superdiff" none: see `edmfast.smc.feynman_kac.scores` and `edmfast.smc.feynman_kac.superdiff`.
Sources: Karras et al. 2022,
arXiv 2206.00364 (levels); Thornton et al. 2025, arXiv 2502.12786 (Feynman-Kac weights); second-order
Tweedie formula for kappa.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, check_level
from edmfast.targets.exponents import Exponent


@dataclass(frozen=True)
class Step:
    """From noise level s down to u; index counts steps from 0. Numbers, or float64 tensors [].

    coefficients: of the proposal, where they could be made before the run: what a step does after a network has
    emptied the caches takes several times as long.
    """

    index: int | Tensor
    s: float | Tensor
    u: float | Tensor
    coefficients: Tensor | None = None

    @property
    def tau2(self) -> float | Tensor:
        return self.s**2 - self.u**2


Number = float | Tensor


class Proposal:
    """Gives (drift, v_M, v_L) per population: the mean shift is drift * S."""

    name = ""

    def __repr__(self) -> str:
        """By its numbers: checkpoints tell proposals apart by it."""
        return f"{type(self).__name__}({vars(self)})"

    @property
    def needs_curvature(self) -> bool:
        """Whether every particle's curvature is to be probed before a step."""
        return False

    def coefficients(self, step: Step, exponent: Exponent, curvature: Tensor) -> Tensor:
        """float64 [P, 3]; curvature [P] is the population mean of tr(grad S)/(A d), where needed."""
        ones = torch.ones_like(curvature, dtype=torch.float64)
        return torch.stack([ones * number for number in self._numbers(step, exponent)], dim=1)

    def _numbers(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        raise TypeError(f"{type(self).__name__} must define its coefficients")


@dataclass(frozen=True)
class Euler(Proposal):
    """Euler-Maruyama of the reverse diffusion."""

    name = "euler"

    def _numbers(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        return step.tau2, step.tau2, step.tau2


@dataclass(frozen=True)
class Ancestral(Proposal):
    """The posterior variance of a point mass, as ancestral samplers use."""

    name = "ancestral"

    def _numbers(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        return step.tau2, step.tau2 * (step.u / step.s) ** 2, step.tau2


@dataclass(frozen=True)
class NoiseMatched(Proposal):
    """Exact reversal for Gaussian data of standard deviation data_std (c of the table)."""

    data_std: float = 0.0
    name = "noise_matched"

    def __post_init__(self) -> None:
        data_std = as_float("data_std", self.data_std, least=0)
        if data_std > 0:
            check_level("data_std", data_std)
        object.__setattr__(self, "data_std", data_std)

    def _numbers(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        c2 = self.data_std**2
        kappa = (step.u**2 + c2) / (step.s**2 + c2)
        return step.tau2 / exponent, kappa * step.tau2 / exponent, step.tau2 / exponent


@dataclass(frozen=True)
class CurvatureMatched(Proposal):
    """kappa from the curvature of the target: a table of one kappa per step, or else one Hutchinson
    probe per particle, averaged over the population (a vector-Jacobian product through the score)."""

    kappa: tuple[float, ...] | None = None
    name = "curvature_matched"

    def __post_init__(self) -> None:
        if self.kappa is not None:
            table = tuple(as_float(f"kappa[{i}]", number) for i, number in enumerate(self.kappa))
            object.__setattr__(self, "kappa", table)

    @property
    def needs_curvature(self) -> bool:
        return self.kappa is None

    def coefficients(self, step: Step, exponent: Exponent, curvature: Tensor) -> Tensor:
        if self.kappa is None:
            lowest = 0.5 * (step.u / step.s) ** 2
            kappa = 1.0 + step.tau2 * curvature.double()
            kappa = torch.maximum(kappa, torch.ones_like(kappa) * lowest).clamp(max=1.0)
        elif isinstance(step.index, int):
            kappa = torch.full_like(curvature, self.kappa[step.index], dtype=torch.float64)
        else:
            # traced, so the table becomes a constant; indexing by a tensor would read it on the host
            table = torch.tensor(self.kappa, dtype=torch.float64, device=curvature.device)
            kappa = table.index_select(0, step.index.reshape(1)).expand(len(curvature))
        v_l = torch.ones_like(kappa) * (step.tau2 / exponent)
        return torch.stack([v_l, kappa * v_l, v_l], dim=1)


@dataclass(frozen=True)
class Corrected(Proposal):
    """The reverse diffusion with eta times its noise: 1 is the usual one, 0 the probability flow.

    It does not divide the score by the exponent A, for which the Feynman-Kac corrector's weights are made.
    """

    eta: float = 1.0
    name = "feynman_kac"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta", as_float("eta", self.eta, least=0))

    def _numbers(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        variance = self.eta * step.tau2
        return (1 + self.eta) / 2 * step.tau2, variance, variance


@dataclass(frozen=True)
class SuperDiff(Proposal):
    """Superposition of denoisers by their log-densities along the path; see `edmfast.smc.feynman_kac.superdiff`.

    temperature: T of the OR rule, whose shares are softmax(T log p_i + log w_i).
    """

    temperature: float = 1.0
    name = "superdiff"

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", as_float("temperature", self.temperature))


PROPOSALS = {
    "euler": Euler,
    "ancestral": Ancestral,
    "noise_matched": NoiseMatched,
    "curvature_matched": CurvatureMatched,
    "feynman_kac": Corrected,
    "superdiff": SuperDiff,
}


def coefficients_of(kernel: Proposal, step: Step, exponent: Exponent, curvature: Tensor) -> Tensor:
    """Return the coefficients float64 [P, 3] of a kernel, which may be a caller's own; curvature [P].

    TypeError where it returns no floating tensor, ValueError where it returns one of another shape.
    """
    found: Any = kernel.coefficients(step, exponent, curvature)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        told = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(
            f"the coefficients of a proposal must be a floating tensor [P, 3]: {type(kernel).__name__} "
            f"returned {told}"
        )
    if found.shape != (len(curvature), 3):
        raise ValueError(
            f"the coefficients of a proposal must be [P, 3] = [{len(curvature)}, 3], of drift, v_M and v_L: "
            f"{type(kernel).__name__} returned {[*found.shape]}"
        )
    return found.double()


def as_proposal(proposal: str | Proposal, steps: int) -> Proposal:
    """A proposal from its name. ValueError for unknown names or a kappa table of another length."""
    if isinstance(proposal, str):
        if proposal not in PROPOSALS:
            raise ValueError(f"unknown proposal {proposal!r}; known: {', '.join(PROPOSALS)}")
        proposal = PROPOSALS[proposal]()
    if not isinstance(proposal, Proposal):
        raise TypeError(f"proposal must be a name or a Proposal, got {type(proposal).__name__}")
    if isinstance(proposal, CurvatureMatched) and proposal.kappa is not None:
        if len(proposal.kappa) != steps:
            raise ValueError(f"the kappa table has {len(proposal.kappa)} entries for {steps} steps")
        if not all(0 < kappa <= 1 for kappa in proposal.kappa):
            raise ValueError("every kappa must be in (0, 1]")
    return proposal
