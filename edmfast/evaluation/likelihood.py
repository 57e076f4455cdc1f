"""Log-densities of held-out states by three independent ways, side by side.

| way      | log p(x; sigma_min)                                                                        |
|----------|--------------------------------------------------------------------------------------------|
| ode      | by the probability-flow ODE up to a Gaussian level, see `edmfast.sampling.log_likelihood`  |
| energies | c - E(x, sigma_min): exact differences of energies. The constant c is the mean of log p + E |
|          | over reference states, whose log p comes from the ODE                                      |
| paths    | by sums of log-ratios along paths of growing noise, see `edmfast.log_density`              |

Energies need a model that has one. For the exact energy of a density all three agree. For a learned model they
differ, because the ODE and the paths use the score alone, and the energies use its values. So their differences
measure the consistency of the model, while the mean of each measures its fit.
Sources: Song et al. 2021, arXiv 2011.13456; He et al. 2025, arXiv 2506.05668.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast._internal.seeds import signed
from edmfast.density import log_density
from edmfast.models.calling.foreign import call_denoiser, call_jacobian_trace, energy_of
from edmfast.sampling import log_likelihood
from edmfast.sampling.schedules.sigmas import karras_levels

ODE, ENERGIES, PATHS = "ode", "energies", "paths"
_RHO = 7.0


@dataclass(frozen=True)
class Likelihood:
    """The log-densities of n states by one way, in nats.

    Attributes:
        values: the log-densities, float64 [n], on the CPU.
        constant_error: the standard error of a constant that all values share, 0 where there is none.
        calls: the evaluations of the model that all states took together.
    """

    values: Tensor
    constant_error: float
    calls: int

    @property
    def mean(self) -> float:
        """The mean over the states."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, as an estimate for all states of the distribution."""
        spread = float(self.values.std()) / math.sqrt(len(self.values))
        return math.hypot(spread, self.constant_error)

    def minus(self, truth: Tensor) -> tuple[float, float]:
        """Return the mean difference from other log-densities [n] of the same states, and its standard error."""
        difference = self.values - truth.detach().double().cpu()
        spread = float(difference.std()) / math.sqrt(len(difference))
        return float(difference.mean()), math.hypot(spread, self.constant_error)


def likelihoods(
    model: Any,
    x: Tensor,
    references: Tensor | None = None,
    *,
    sigma_min: float,
    sigma_max: float,
    levels: int = 64,
    paths: int = 4,
    probes: int = 1,
    tolerance: float = 1e-4,
    batch_size: int | None = None,
    seed: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    reference_condition: Mapping[str, Tensor] | None = None,
    finished: Callable[[str], Any] = lambda way: None,
) -> dict[str, Likelihood]:
    """Estimate log p(x; sigma_min) of states by the ODE, by energies and by path ratios.

    Sources: Song et al. 2021, arXiv 2011.13456 (ODE); He et al. 2025, arXiv 2506.05668 (path ratios).

    Args:
        model: a denoiser or an energy.
        x: the states [n, *shape], data with noise of the level sigma_min, n >= 2.
        references: other such states [R, *shape], R >= 2, for the constant of the energies. Without them the
            energies are left out.
        sigma_min: the noise level of the states, in units of x.
        sigma_max: the level where the density is nearly Gaussian, at least ten times the standard deviation of
            the data.
        levels: the number of noise levels of the paths.
        paths: the number of paths for each state.
        probes: the number of random signs for each trace along the paths.
        tolerance: the absolute and relative tolerance of a step of the ODE.
        batch_size: the largest number of states that the model receives at once; by default all of them.
        seed: the seed of all random numbers, of which those of a state do not depend on the batches.
        condition: keyword conditions [n] for the model, one for each state.
        reference_condition: those of the references, [R]. Energies have a constant for each class_label, so every
            label of the states must be among those of two references.
        finished: a function that is called with the name of every way that is done.

    Returns:
        A `Likelihood` by the names "ode", "energies" (where the model has one) and "paths".

    Raises:
        TypeError: a number of the wrong type.
        ValueError: states of another shape, numbers out of range, or labels without two references.
    """
    low = as_float("sigma_min", sigma_min, positive=True)
    high = as_float("sigma_max", sigma_max, positive=True)
    levels, seed = as_int("levels", levels, least=2), as_seed(seed)
    tolerance = as_float("tolerance", tolerance, positive=True)
    if x.dim() < 2 or len(x) < 2:
        raise ValueError(f"x must be [n, *shape] with n >= 2, got {[*x.shape]}")
    given: dict[str, Any] = dict(condition or {})
    known: dict[str, Any] = dict(reference_condition or {})

    size = len(x) if batch_size is None else as_int("batch_size", batch_size, least=1)

    def by_ode(states: Tensor, seed: int, own: dict[str, Any]) -> tuple[Tensor, int]:
        parts, calls = [], 0
        for first in range(0, len(states), size):
            rows = slice(first, min(first + size, len(states)))
            seeds = torch.tensor([signed((seed + k) % 2**64) for k in range(first, rows.stop)])
            part = {name: value[rows] for name, value in own.items()}
            values, info = log_likelihood(
                _Denoising(model), states[rows], low, high, part, tolerance, tolerance, seed=seeds
            )
            parts.append(values.double().cpu())
            calls += info["fevals"] * len(values)
        return torch.cat(parts), calls

    values, calls = by_ode(x, seed, given)
    found = {ODE: Likelihood(values, 0.0, calls)}
    finished(ODE)
    if references is not None and has_energy(model):
        # the signs of the references are independent of those of the states
        known_values, calls = by_ode(references, seed + len(x), known)
        constants = known_values + _energies(model, references, low, known, size)
        groups = given.get("class_label"), known.get("class_label")
        constant, error = _constants(constants, *groups, len(x))
        energies = _energies(model, x, low, given, size)
        calls += len(references) + len(x)
        found[ENERGIES] = Likelihood(constant - energies, error, calls)
        finished(ENERGIES)
    sigmas = karras_levels(levels, low, high, _RHO)
    estimate = log_density(
        model, x, sigmas, paths=paths, probes=probes, seed=seed, batch_size=batch_size, **given
    )
    found[PATHS] = Likelihood(estimate.mean.cpu(), 0.0, estimate.evaluations * len(x))
    finished(PATHS)
    return found


def has_energy(model: Any) -> bool:
    """Return whether a model has an energy of a density, with the exponent 1."""
    exponent = getattr(model, "exponent", 1.0)
    plain = not isinstance(exponent, Tensor) and exponent == 1
    return plain and callable(getattr(model, "energy_and_score", None))


class _Denoising:
    """A model without its exact log-density, which `log_likelihood` would return in place of the ODE's."""

    def __init__(self, model: Any) -> None:
        self.model = model
        if callable(getattr(model, "jacobian_trace", None)):
            self.jacobian_trace = self._trace

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return call_denoiser(self.model, x, sigma, **condition)

    def _trace(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return call_jacobian_trace(self.model, x, sigma, **condition)


@torch.no_grad()
def _energies(
    model: Any, x: Tensor, sigma: float, condition: dict[str, Tensor], size: int
) -> Tensor:
    parts = []
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        given = {name: value[rows] for name, value in condition.items()}
        parts.append(energy_of(model, x[rows], sigma, **given).double().cpu())
    return torch.cat(parts)


def _constants(
    constants: Tensor, labels: Tensor | None, known: Tensor | None, count: int
) -> tuple[Tensor, float]:
    """Return the constant of every state, float64 [count], and the standard error of its mean."""
    if labels is None or known is None:
        labels, known = torch.zeros(count), torch.zeros(len(constants))
    labels, known = labels.cpu(), known.cpu()
    means, variance = torch.zeros(count, dtype=torch.float64), 0.0
    for label in labels.unique():
        of_states, own = labels == label, constants[known == label]
        if len(own) < 2:
            raise ValueError(
                f"the constant of the energies needs two references or more for each label, and the label "
                f"{label.item():g} has {len(own)}"
            )
        means[of_states] = own.mean()
        share = float(of_states.double().mean())
        variance += share**2 * float(own.var()) / len(own)
    return means, math.sqrt(variance)
