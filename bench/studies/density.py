"""Measure estimates of log-densities against exact ones, on a smooth model of handwritten digits.

    python -m bench.studies.density            # prints the table of docs/choosing.md; takes about three minutes
    python -m bench.studies.density --write    # writes it into the page
    python -m bench.studies.density --denoiser PATH    # by a denoiser that `edmfast.demo.smooth_denoiser` trained

The model is `edmfast.demo.smooth_digits`, a mixture of 20 Gaussians with full covariances, whose log-density,
denoiser and trace are known. All estimates take the same number of evaluations of the denoiser: the
solvers of the probability-flow ODE make fewer steps instead. Each entry is the mean of the error over states drawn
from the model at the lowest level, and its standard deviation.

The rivals are written here in plain torch. Sources: Skreta et al. 2024, arXiv 2412.17762 (Ito's formula); He et
al. 2025, arXiv 2506.05668 (reversals); Song et al. 2021, arXiv 2011.13456, and Grathwohl et al. 2019, arXiv
1810.01367 (the ODE, with the exact divergence and with Hutchinson's). The solvers have fixed steps, so they may
take new probes at every evaluation, which is less noise than the same probes along a trajectory.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import edmfast
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.digits import NUM_CLASSES
from edmfast.demo.smooth_digits import SIGMA_MAX, SIGMA_MIN, load_smooth_digits
from edmfast.models import load_model
from edmfast.sampling import get_sigmas_karras
from edmfast.targets.path_ratios import log_density_of_gaussian, log_ratio_from_above
from edmfast.targets.traces import score_and_trace

_DOCUMENT = Path(__file__).parents[2] / "docs" / "choosing.md"
_BEGIN, _END = "<!-- study: python -m bench.studies.density --write -->", "<!-- end -->"
LOW, HIGH, DIM = SIGMA_MIN, SIGMA_MAX, 64
LEVELS = (16, 32, 64)
Field = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""A function (x [B, D], sigma) -> (score [B, D], trace of its Jacobian [B])."""


@dataclass(frozen=True)
class Problem:
    """A model, states [B, D] of its lowest level, and their exact log-densities [B].

    learned: a denoiser that was trained on the model and that the estimates see in its place, or None.
    """

    model: MixtureOfGaussians
    states: Tensor
    exact: Tensor
    learned: Any = None


def problem(states: int = 400, seed: int = 0) -> Problem:
    """Return the smooth model of the digits, and states drawn from it."""
    model = load_smooth_digits()
    x = model.sample(states, LOW, seed=seed)
    return Problem(model, x, model.log_prob(x, LOW))


def levels(count: int) -> list[float]:
    """Return noise levels from the highest to the lowest, without 0."""
    return get_sigmas_karras(count, LOW, HIGH)[:-1].double().tolist()


def field_of(model: Any, probes: int, seed: int) -> Field:
    """Return the score and the trace of a model, exact for 0 probes, with new probes at every call."""
    generator = torch.Generator().manual_seed(seed)

    def field(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        if probes == 0:
            return score_and_trace(model, x, sigma)
        normals = torch.randn(len(x), probes, DIM, generator=generator, dtype=x.dtype)
        return score_and_trace(model, x, sigma, normals.sign())

    return field


def brownian(field: Field, x: Tensor, sigmas: list[float], seed: int) -> tuple[Tensor, Tensor]:
    """Return (Ito's estimate, that of the reversals) along one path of independent increments of noise."""
    generator = torch.Generator().manual_seed(seed)
    ito = torch.zeros(len(x), dtype=torch.float64)
    reversals = ito.clone()
    rising = sigmas[::-1]
    for u, s in itertools.pairwise(rising):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        above = x + math.sqrt(s**2 - u**2) * noise
        score, trace = field(above, s)
        move = x - above
        along, square = (move * score).sum(1), score.square().sum(1)
        ito = ito + along - (s**2 - u**2) / 2 * square
        upper, lower = (torch.tensor(level, dtype=torch.float64) for level in (s, u))
        reversals = reversals + log_ratio_from_above(
            DIM, upper, lower, trace, along, square, move.square().sum(1)
        )
        x = above
    start = log_density_of_gaussian(DIM, upper, trace, score.square().sum(1))
    return start + ito, start + reversals


def along_ode(field: Field, x: Tensor, sigmas: list[float], order: int) -> Tensor:
    """Return the log-density by the probability-flow ODE, [B], by Heun (order 2) or Runge and Kutta (order 4)."""

    def slope(state: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        score, trace = field(state, sigma)
        return -sigma * score, -sigma * trace

    rising = sigmas[::-1]
    gained = torch.zeros(len(x), dtype=torch.float64)
    for a, b in itertools.pairwise(rising):
        h = b - a
        v1, t1 = slope(x, a)
        if order == 2:
            v2, t2 = slope(x + h * v1, b)
            x, gained = x + h / 2 * (v1 + v2), gained + h / 2 * (t1 + t2)
            continue
        v2, t2 = slope(x + h / 2 * v1, a + h / 2)
        v3, t3 = slope(x + h / 2 * v2, a + h / 2)
        v4, t4 = slope(x + h * v3, b)
        x = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        gained = gained + h / 6 * (t1 + 2 * t2 + 2 * t3 + t4)
    score, trace = field(x, rising[-1])
    highest = torch.tensor(rising[-1], dtype=torch.float64)
    return log_density_of_gaussian(DIM, highest, trace, score.square().sum(1)) + gained


def shown(problem: Problem, probes: int) -> Any:
    """Return the model that the estimates see: with exact traces for 0 probes, and otherwise without."""
    if problem.learned is not None:
        return problem.learned
    return problem.model if probes == 0 else problem.model.denoise


def of_path(problem: Problem, count: int, probes: int) -> Tensor:
    """Return the errors [B] of `edmfast.log_density` along one path of `count` levels."""
    x, most = problem.states, max(1, probes)
    result = edmfast.log_density(shown(problem, probes), x, levels(count), paths=1, probes=most)
    return result.mean - problem.exact


def estimates(problem: Problem, count: int, probes: int) -> dict[str, Tensor]:
    """Return the errors [B] of all estimates at `count` levels. probes: 0 for exact traces."""
    model, x = shown(problem, probes), problem.states
    ito, reversals = brownian(field_of(model, probes, 1), x, levels(count), 2)
    ode = {
        order: along_ode(field_of(model, probes, 3), x, levels(count // order + 1), order)
        for order in (2, 4)
    }
    rivals = {
        "reversals alone": reversals,
        "Itô's formula": ito,
        "ODE, Heun": ode[2],
        "ODE, Runge–Kutta": ode[4],
    }
    errors = {name: value - problem.exact for name, value in rivals.items()}
    return {"`edmfast.log_density`": of_path(problem, count, probes), **errors}


def table(problem: Problem) -> list[str]:
    """Return the lines of the table. A learned denoiser has no rows with exact traces."""
    heads = " | ".join(f"{count} evaluations" for count in LEVELS)
    lines = [f"| Estimate | Trace | {heads} |", "|---" * (2 + len(LEVELS)) + "|"]
    for probes in (0, 1, 2) if problem.learned is None else (1, 2):
        columns = [estimates(problem, count, probes) for count in LEVELS]
        trace = "exact" if probes == 0 else f"{probes} probe{'s' if probes > 1 else ''}"
        for name in columns[0]:
            cells = [f"{column[name].mean():+.2f} ± {column[name].std():.2f}" for column in columns]
            lines.append(f"| {name} | {trace} | {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.studies.density", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table into {_DOCUMENT}")
    parser.add_argument("--states", type=int, default=400, help="how many states")
    parser.add_argument("--denoiser", metavar="PATH", help="a denoiser of the smooth digits")
    options = parser.parse_args(arguments)
    if options.write and options.denoiser:
        parser.error("--write is for the table of the exact model")
    case = problem(options.states)
    if options.denoiser:
        denoiser = load_model(options.denoiser).double()
        case = replace(case, learned=edmfast.Conditioned(denoiser, class_label=NUM_CLASSES))
    lines = table(case)
    print("\n".join(lines))
    if options.write:
        before, _, rest = _DOCUMENT.read_text().partition(_BEGIN)
        after = rest.partition(_END)[2]
        body = "\n".join([_BEGIN, "", *lines, "", _END])
        _DOCUMENT.write_text(before + body + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
