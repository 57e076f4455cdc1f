"""Measure how often the verdict of a run agrees with the truth, on targets whose log Z and masses are known.

    python -m bench.studies.verdict            # prints the table of docs/verdict.md; takes about three minutes
    python -m bench.studies.verdict --write    # writes it into the page

A run is wrong where log Z is off by more than three standard errors and 0.25 nats, or the mass of the half space
x[0] > 0 by more than three standard errors and 0.1. A run is vague where it is not wrong and its own standard
errors exceed 0.5 nats or 0.1. All other runs are right. The truths are closed formulas, or sums over a grid in the
plane.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edmfast import smc
from edmfast.analytic import GaussianMixture, ManyWell, gmm40
from edmfast.sampling import get_sigmas_karras
from edmfast.targets import Guided, Product, Tempered

_DOCUMENT = Path(__file__).parents[2] / "docs" / "verdict.md"
_BEGIN, _END = "<!-- study: python -m bench.studies.verdict --write -->", "<!-- end -->"
_LOW = 0.05
Truth = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """One row of the table: a target, how it is sampled, and how often."""

    name: str
    target: Any
    dim: int
    truth: Truth
    sigma_max: float
    steps: int
    particles: int
    populations: int = 8
    proposal: str = "curvature_matched"
    runs: int = 8

    @property
    def description(self) -> str:
        """The levels, the particles and the proposal in words."""
        proposal = "" if self.proposal == "curvature_matched" else f", {self.proposal}"
        return (
            f"σ_max {self.sigma_max:g}, {self.steps} levels, {self.particles} particles{proposal}"
        )


class Rough(nn.Module):
    """A density whose energy has ripples at small noise levels that its score lacks, as a learned one may."""

    exponent = 1.0

    def __init__(self, model: Any, height: float) -> None:
        super().__init__()
        self.model, self.height = model, height

    def energy_and_score(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        energy, score = self.model.energy_and_score(x, sigma)
        return energy + self.height / (sigma + 0.1) * torch.sin(20 * x).sum(1), score


def right_half(x: Tensor) -> Tensor:
    """Return 1 where x[0] > 0."""
    return (x[..., 0] > 0).double()


def on_a_grid(target: Any, half_width: float, points: int = 1201) -> Truth:
    """Return (log of the integral of exp(-U), mass of the right half) at the last level, in the plane."""
    line = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    energy = torch.cat([target.energy_and_score(part, _LOW)[0] for part in grid.split(1 << 15)])
    log_z = torch.logsumexp(-energy, 0) + 2 * (line[1] - line[0]).log()
    return float(log_z), float((torch.softmax(-energy, 0) * right_half(grid)).sum())


def of_square(mixture: GaussianMixture) -> Truth:
    """Return the same for a squared mixture in any dimension, which is a mixture of the products of its
    components."""
    v, w, means = mixture.stds.square() + _LOW**2, mixture.weights, mixture.means
    i, j = torch.cartesian_prod(torch.arange(len(v)), torch.arange(len(v))).unbind(1)
    both = v[i] + v[j]
    gap = (means[i] - means[j]).square().sum(1)
    log_mass = torch.log(w[i] * w[j]) - gap / (2 * both)
    log_mass = log_mass - 0.5 * means.shape[1] * torch.log(2 * math.pi * both)
    centre = (v[j] * means[i, 0] + v[i] * means[j, 0]) / both
    right = torch.special.ndtr(centre / (v[i] * v[j] / both).sqrt())
    return float(torch.logsumexp(log_mass, 0)), float((torch.softmax(log_mass, 0) * right).sum())


def settings() -> Iterator[Setting]:
    """Return all rows."""
    two = GaussianMixture([[-3.0, 0.0], [3.0, 0.0]], [0.9, 0.3])
    cold = Tempered(two, 2.0)
    truth = on_a_grid(cold, 8.0)
    for sigma_max in (0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 40.0):
        yield Setting("two modes, γ = 2", cold, 2, truth, sigma_max, 20, 1000)
    for particles, steps in ((16, 20), (64, 5), (64, 20), (250, 5), (250, 40), (2000, 40)):
        yield Setting("two modes, γ = 2", cold, 2, truth, 10.0, steps, particles)
    corners = [[-1.5, -1.0], [1.5, -1.0], [0.0, 1.5]]
    first = GaussianMixture(corners, [0.5, 0.5, 0.5], [0.5, 0.3, 0.2])
    product = Product([first, GaussianMixture(corners, [0.8, 0.4, 0.4], [0.3, 0.4, 0.3])])
    truth = on_a_grid(product, 6.0)
    for sigma_max, steps in ((0.3, 20), (3.0, 5), (20.0, 5), (20.0, 40)):
        yield Setting("product of two mixtures", product, 2, truth, sigma_max, steps, 500)
    base = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [1.2, 1.2])
    for weight in (1.5, 3.0, 6.0, 10.0):
        guided = Guided(base, GaussianMixture([[1.5, 0.0]], [0.5]), weight)
        truth = on_a_grid(guided, 8.0)
        for steps in (10, 40):
            yield Setting(f"guidance {weight:g}", guided, 2, truth, 10.0, steps, 500)
    for height in (0.05, 0.2, 0.5, 1.0):
        rough = Rough(two, height)
        yield Setting(f"rough energy {height:g}", rough, 2, on_a_grid(rough, 8.0), 10.0, 40, 500)
    forty = gmm40()
    spread = (forty.stds.square() + _LOW**2).sqrt()
    mass = float((forty.weights * torch.special.ndtr(forty.means[:, 0] / spread)).sum())
    for sigma_max, steps, particles in ((5.0, 40, 1000), (50.0, 10, 1000), (50.0, 40, 100)):
        yield Setting("GMM-40", forty, 2, (0.0, mass), sigma_max, steps, particles)
    cold40 = Tempered(forty, 2.0)
    for sigma_max in (5.0, 50.0):
        yield Setting("GMM-40, γ = 2", cold40, 2, of_square(forty), sigma_max, 40, 1000, runs=4)
    for dim in (8, 32, 64):
        means = torch.zeros(2, dim)
        means[:, 0] = torch.tensor([-3.0, 3.0])
        mixture = GaussianMixture(means, [0.6, 0.5])
        common = (
            f"γ = 2 in {dim} dimensions",
            Tempered(mixture, 2.0),
            dim,
            of_square(mixture),
            20.0,
        )
        yield Setting(*common, 8, 200)
        yield Setting(*common, 40, 200)
        yield Setting(*common, 20, 200, proposal="ancestral")
    wells = ManyWell(32)
    truth = (wells.log_z, 1 - wells.left_mass(_LOW))
    for sigma_max, steps, particles in (
        (20.0, 8, 100),
        (20.0, 32, 100),
        (20.0, 32, 500),
        (1.0, 32, 200),
    ):
        yield Setting("ManyWell-32", wells, 32, truth, sigma_max, steps, particles, 4, runs=4)


def outcomes(
    setting: Setting, run: Callable[..., smc.Particles] = smc.sample
) -> list[tuple[str, str]]:
    """Return (right, vague or wrong; level of the verdict) of every run of a setting."""
    exponent = float(setting.target.exponent)
    start = 0.5 * setting.dim * math.log(2 * math.pi * setting.sigma_max**2 / exponent)
    outcome_list = []
    for seed in range(setting.runs):
        result = run(
            setting.target,
            (setting.dim,),
            get_sigmas_karras(setting.steps, _LOW, setting.sigma_max)[:-1],
            particles=setting.particles,
            populations=setting.populations,
            proposal=setting.proposal,
            seed=seed,
            options=smc.RunOptions(dtype=torch.float64, on_degenerate="ignore"),
        )
        log_z, mass = result.log_z_estimate(), result.expectation_estimate(right_half)
        gaps = (
            abs(float(log_z.value) - setting.truth[0] + start),
            abs(float(mass.value) - setting.truth[1]),
        )
        errors = (float(log_z.standard_error), float(mass.standard_error))
        pairs = list(zip(gaps, errors, (0.25, 0.1), strict=True))
        wrong = any(gap > max(3 * error, least) for gap, error, least in pairs)
        vague = not (errors[0] < 0.5 and errors[1] < 0.1)
        outcome_list.append(
            ("wrong" if wrong else "vague" if vague else "right", result.verdict.level)
        )
    return outcome_list


def table(rows: list[tuple[Setting, list[tuple[str, str]]]]) -> str:
    """Return a Markdown table: for each setting and in all, how the verdict called right, vague and wrong runs."""
    lines = [
        "| target | setting | right: ok / warned | vague: ok / warned | wrong: ok / warned |",
        "|---|---|---|---|---|",
    ]
    total: list[tuple[str, str]] = []
    for setting, outcome_list in rows:
        lines.append(f"| {setting.name} | {setting.description} | {_cells(outcome_list)} |")
        total += outcome_list
    lines.append(f"| all | {len(total)} runs | {_cells(total)} |")
    return "\n".join(lines)


def _cells(outcome_list: list[tuple[str, str]]) -> str:
    cells = []
    for kind in ("right", "vague", "wrong"):
        levels = [level for what, level in outcome_list if what == kind]
        ok = levels.count("ok")
        cells.append(f"{ok} / {len(levels) - ok}" if levels else "")
    return " | ".join(cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table. With --write, also write it into its page."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.verdict")
    parser.add_argument("--write", action="store_true", help="write the table into its page")
    options = parser.parse_args(arguments)
    rows = []
    for setting in settings():
        rows.append((setting, outcomes(setting)))
        print(
            f"{setting.name}, {setting.description}: {_cells(rows[-1][1])}",
            file=sys.stderr,
            flush=True,
        )
    text = table(rows)
    print(text)
    if options.write:
        document = _DOCUMENT.read_text()
        before, rest = document.split(_BEGIN)
        after = rest.split(_END, 1)[1]
        _DOCUMENT.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}")


if __name__ == "__main__":
    main()
