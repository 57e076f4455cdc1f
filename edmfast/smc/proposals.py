"""Proposal kernels of sequential Monte Carlo between noise levels s > u, with tau² = s² - u².

The forward kernel is M = N(x + tau² b, v_M I) and the backward kernel L = N(x_u, v_L I). S is the score of the
target and A its exponent:

| name              | b           | v_M                                                                | v_L      |
|-------------------|-------------|--------------------------------------------------------------------|----------|
| euler             | S           | tau²                                                               | tau²     |
| ancestral         | S           | tau² u²/s²                                                         | tau²     |
| noise_matched     | S/A         | kappa tau²/A, kappa = (u²+c²)/(s²+c²)                              | tau²/A   |
| curvature_matched | S/A         | kappa tau²/A, kappa = 1 + tau² tr(grad S)/(A d), in [u²/(2 s²), 1] | tau²/A   |
| feynman_kac       | (1+eta) S/2 | eta tau²                                                           | eta tau² |

With energies the weights are exact for every kernel. For a Gaussian target the matched kernels with the right
kappa are the exact time reversal, so the weights do not vary. Without energies, "feynman_kac" has the weights
of the Feynman–Kac corrector (see `edmfast.smc.feynman_kac.scores`) and "superdiff" has none (see
`edmfast.smc.feynman_kac.superdiff`).

To add a proposal, subclass `Proposal`. Define `plain_coefficients`, or `coefficients` if it needs the curvature,
and give it a name in `PROPOSALS`. A caller's own subclass may be passed as `proposal=` without a name.

Sources: Thornton et al. 2025, arXiv 2502.12786 (Feynman–Kac weights); Karras et al. 2022, arXiv 2206.00364 (noise
levels); Skreta et al. 2025, arXiv 2503.02819 (Feynman–Kac corrector); kappa follows from the second-order Tweedie
formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int
from edmfast.targets.exponents import Exponent


@dataclass(frozen=True)
class Step:
    """A step from noise level s down to noise level u: numbers, or tensors [] in a traced step."""

    index: int | Tensor
    """The number of the step, counted from 0."""
    s: float | Tensor
    """The noise level before the step."""
    u: float | Tensor
    """The noise level after the step."""
    coefficients: Tensor | None = None
    """The coefficients of the proposal, float64 [P, 3], where they could be computed before the run. Computing
    them during the run takes several times as long, because the network has emptied the caches."""
    levels: Tensor | None = None
    """The levels (s, u) as float64 [2] on the device of the run, where they were prepared before it."""
    kappa: Tensor | None = None
    """The kappa of the proposal's table, float64 [] on the device of the run, where it was prepared before it."""

    @property
    def tau2(self) -> float | Tensor:
        """The variance that the step removes, s² - u²."""
        return self.s**2 - self.u**2


Number = float | Tensor


class Proposal:
    """A proposal kernel: it gives drift, v_M and v_L for each population, and moves x by drift * S on average."""

    name = ""
    """The name in `PROPOSALS`, empty for a caller's own kernel."""

    def __repr__(self) -> str:
        """Return a text with all numbers of the kernel, by which checkpoints tell proposals apart."""
        return f"{type(self).__name__}({vars(self)})"

    @property
    def needs_curvature(self) -> bool:
        """True where the curvature of every particle must be probed before a step."""
        return False

    def coefficients(self, step: Step, exponent: Exponent, curvature: Tensor) -> Tensor:
        """Return drift, v_M and v_L of every population, float64 [P, 3].

        exponent: A, a number or [P]. curvature: [P], the mean of tr(grad S)/(A d) over each population where
        `needs_curvature` is True, and unspecified numbers otherwise.
        """
        ones = torch.ones_like(curvature, dtype=torch.float64)
        return torch.stack(
            [ones * number for number in self.plain_coefficients(step, exponent)], dim=1
        )

    def plain_coefficients(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        """Return drift, v_M and v_L, each a number for all populations, or a tensor [P].

        A kernel that needs no curvature defines this method, and inherits `coefficients`. exponent: A, a number
        or [P]. Raises TypeError where a subclass defines neither.
        """
        raise TypeError(
            f"{type(self).__name__} must define the method plain_coefficients, or coefficients if it needs the "
            "curvature"
        )


@dataclass(frozen=True)
class Euler(Proposal):
    """The Euler-Maruyama step of the reverse diffusion."""

    name = "euler"

    def plain_coefficients(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        return step.tau2, step.tau2, step.tau2


@dataclass(frozen=True)
class Ancestral(Proposal):
    """The step of ancestral samplers, whose variance is the posterior variance for a point mass."""

    name = "ancestral"

    def plain_coefficients(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        return step.tau2, step.tau2 * (step.u / step.s) ** 2, step.tau2


@dataclass(frozen=True)
class NoiseMatched(Proposal):
    """The exact reversal for Gaussian data.

    Raises TypeError or ValueError for a data_std that is no finite number of at least 0.
    """

    data_std: float = 0.0
    """The standard deviation c of the data, in the units of x."""
    name = "noise_matched"

    def __post_init__(self) -> None:
        data_std = as_float("data_std", self.data_std, least=0)
        if data_std > 0:
            check_level("data_std", data_std)
        object.__setattr__(self, "data_std", data_std)

    def plain_coefficients(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        c2 = self.data_std**2
        kappa = (step.u**2 + c2) / (step.s**2 + c2)
        return step.tau2 / exponent, kappa * step.tau2 / exponent, step.tau2 / exponent


@dataclass(frozen=True)
class CurvatureMatched(Proposal):
    """The step whose variance follows the curvature of the target.

    Without a table, kappa comes from one Hutchinson probe of each particle, averaged over the population. A
    probe is a vector-Jacobian product through the score.
    """

    kappa: tuple[float, ...] | None = None
    """One kappa in (0, 1] for each step, such as the table of a `Calibration`."""
    name = "curvature_matched"

    def __post_init__(self) -> None:
        if self.kappa is not None:
            table = tuple(as_float(f"kappa[{i}]", number) for i, number in enumerate(self.kappa))
            # Plain floats have one repr, by which a checkpoint knows the proposal.
            object.__setattr__(self, "kappa", table)

    @property
    def needs_curvature(self) -> bool:
        return self.kappa is None

    def coefficients(self, step: Step, exponent: Exponent, curvature: Tensor) -> Tensor:
        # products and powers of Python's numbers may differ in the last bit, and the operator
        # curvature_matched multiplies
        tau2 = step.s * step.s - step.u * step.u
        if self.kappa is None:
            # noisy probes must not make the variance too small or negative
            ratio = step.u / step.s
            lowest = 0.5 * (ratio * ratio)
            kappa = 1.0 + tau2 * curvature.double()
            kappa = torch.maximum(kappa, torch.ones_like(kappa) * lowest).clamp(max=1.0)
        else:
            kappa = kappa_of(self.kappa, step, curvature.device).expand(len(curvature))
        # kappa has one entry for each population. torch would multiply a number by the reciprocals of a
        # tensor, but it divides a tensor.
        v_l = torch.ones_like(kappa) * tau2 / exponent
        return torch.stack([v_l, kappa * v_l, v_l], dim=1)


@dataclass(frozen=True)
class FeynmanKacProposal(Proposal):
    """The step of the Feynman–Kac corrector: the reverse diffusion with eta times its noise.

    It does not divide the score by the exponent A, because the corrector's weights account for A. Source:
    Skreta et al. 2025, arXiv 2503.02819.
    """

    eta: float = 1.0
    """The amount of noise, at least 0: 1 is the usual reverse diffusion, 0 the probability flow."""
    name = "feynman_kac"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta", as_float("eta", self.eta, least=0))

    def plain_coefficients(self, step: Step, exponent: Exponent) -> tuple[Number, Number, Number]:
        variance = self.eta * step.tau2
        return (1 + self.eta) / 2 * step.tau2, variance, variance


@dataclass(frozen=True)
class SuperDiff(Proposal):
    """A superposition of denoisers by their log-densities along the path, without weights.

    See `edmfast.smc.feynman_kac.superdiff`.
    """

    temperature: float = 1.0
    """T of the OR rule, by which model i has the share softmax(T log p_i + log w_i)."""
    density: str = "ito"
    """The estimate of log p_i along a path: "ito" for Itô's formula, or "path" for log-ratios with curvature.
    These have errors many times smaller, and cost one vector-Jacobian product per probe."""
    probes: int = 1
    """The number of Hutchinson probes of every particle for the density "path". Models with a
    `jacobian_trace` need none."""
    name = "superdiff"

    def __post_init__(self) -> None:
        if self.density not in ("ito", "path"):
            raise ValueError(f"density must be 'ito' or 'path', given {self.density!r}")
        object.__setattr__(self, "probes", as_int("probes", self.probes, least=1))
        object.__setattr__(self, "temperature", as_float("temperature", self.temperature))


@dataclass(frozen=True)
class ReversalMatched(Proposal):
    """The product of the matched reversals of all models, with coefficients for every particle.

    It belongs to the weights "reversal" and is chosen with them. See `edmfast.smc.feynman_kac.reversal`.
    """

    probes: int | tuple[int, ...] = 1
    """The number of Hutchinson probes of each particle, for all steps or for each of them. Steps with 0 probes
    take kappa from the table."""
    kappa: tuple[float, ...] | None = None
    """One kappa for each step, such as the table of a `Calibration`."""
    name = "reversal"

    @property
    def needs_curvature(self) -> bool:
        return True

    def probes_at(self, index: int) -> int:
        """Return the number of probes of a step."""
        return self.probes if isinstance(self.probes, int) else self.probes[index]

    def kappa_at(self, step: Step, device: torch.device) -> Tensor:
        """Return the kappa of the table for a step, float64 []."""
        assert self.kappa is not None
        return kappa_of(self.kappa, step, device)


PROPOSALS = {
    "euler": Euler,
    "ancestral": Ancestral,
    "noise_matched": NoiseMatched,
    "curvature_matched": CurvatureMatched,
    "feynman_kac": FeynmanKacProposal,
    "superdiff": SuperDiff,
}
"""The proposals by their names."""


def kappa_of(table: tuple[float, ...], step: Step, device: torch.device) -> Tensor:
    """Return the kappa of a step as float64 [], prepared or taken from the table of all steps."""
    if step.kappa is not None:
        return step.kappa
    assert isinstance(step.index, int), "a traced step needs its kappa prepared"
    # a fill on the device does not wait for it
    return torch.full((), table[step.index], dtype=torch.float64, device=device)


def coefficients_of(kernel: Proposal, step: Step, exponent: Exponent, curvature: Tensor) -> Tensor:
    """Return the coefficients of a kernel, which may be a caller's own, as float64 [P, 3].

    curvature: [P]. Raises TypeError where the kernel returns no floating-point tensor, and ValueError where it
    returns one of another shape.
    """
    coefficients: Any = kernel.coefficients(step, exponent, curvature)
    if not isinstance(coefficients, Tensor) or not coefficients.is_floating_point():
        is_tensor = isinstance(coefficients, Tensor)
        returned = coefficients.dtype if is_tensor else type(coefficients).__name__
        raise TypeError(
            "the coefficients of a proposal must be a floating-point tensor [P, 3], but "
            f"{type(kernel).__name__} returned {returned}"
        )
    if coefficients.shape != (len(curvature), 3):
        raise ValueError(
            "the coefficients of a proposal (drift, v_M and v_L) must have the shape [P, 3] = "
            f"[{len(curvature)}, 3], but {type(kernel).__name__} returned {[*coefficients.shape]}"
        )
    # A caller's own kernel may return float32, and the operator takes float64.
    return coefficients.double()


def as_proposal(proposal: str | Proposal, steps: int) -> Proposal:
    """Return a proposal, made from its name where a name is given.

    steps: of the run. Raises ValueError for an unknown name or a kappa table that does not fit the steps, and
    TypeError for anything else.
    """
    if isinstance(proposal, str):
        if proposal not in PROPOSALS:
            raise ValueError(f"unknown proposal {proposal!r}; known: {', '.join(PROPOSALS)}")
        proposal = PROPOSALS[proposal]()
    if not isinstance(proposal, Proposal):
        raise TypeError(f"proposal must be a name or a Proposal, got {type(proposal).__name__}")
    if isinstance(proposal, CurvatureMatched) and proposal.kappa is not None:
        if len(proposal.kappa) != steps:
            raise ValueError(
                f"the kappa table must have one entry for each of {steps} steps, got {len(proposal.kappa)}"
            )
        outside = [kappa for kappa in proposal.kappa if not 0 < kappa <= 1]
        if outside:
            raise ValueError(f"every kappa must be in (0, 1], got {outside[0]}")
    return proposal
