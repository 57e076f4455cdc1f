"""Part (f), proposals compared on an exact energy: a kernel density of all 1,797 digits.

Every digit is a Gaussian of standard deviation 0.15 in 64 dimensions, and the target is the square of their
mixture. The table counts the digits that still have a particle at the end, and sums the variance of the
log-weights over the run. It compares Euler-Maruyama with curvature matching (second-order Tweedie formula, the
isotropic part of the reversal), at the levels of Karras et al. and at those that `smc.calibrate` proposes.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from edmfast import smc
from edmfast._internal.tables import Cell, Section
from edmfast.analytic.gaussian_mixture import GaussianMixture
from edmfast.demo.budget import Budget
from edmfast.demo.digits import all_digits
from edmfast.demo.pictures import save
from edmfast.plotting import new_figure
from edmfast.sampling import get_sigmas_karras
from edmfast.targets import Tempered

WIDTH, GAMMA, STEPS = 0.15, 2.0, 32
_COLOURS = {
    "euler": "#D55E00",
    "ancestral": "#E69F00",
    "curvature_matched": "#0072B2",
    "curvature_matched, calibrated": "#009E73",
}
"""Colours of Okabe and Ito, which colour-blind readers can tell apart."""


def kernel_density() -> GaussianMixture:
    """Return the mixture of equal Gaussians of standard deviation 0.15 around the digits [1797, 64]."""
    digits = all_digits().images.flatten(1).double()
    return GaussianMixture(digits, [WIDTH] * len(digits))


def distinct_digits(x: Tensor, density: GaussianMixture) -> int:
    """Return how many digits are the nearest one of some particle in x [N, 64]."""
    nearest = torch.cdist(x.double(), density.means).argmin(1)
    return len(set(nearest.tolist()))


def total_variance(result: smc.Particles) -> float:
    """Return the variance of log G in nats², summed over the steps of the first population."""
    return float(result.log_weight_sd[:, 0].square().sum())


def report_proposals(budget: Budget, out: Path, *, seed: int = 0) -> list[Section]:
    """Return a table with a row for each proposal and schedule, and draw out/f_proposals.png."""
    density = kernel_density()
    target = Tempered(density, GAMMA)
    karras = get_sigmas_karras(STEPS + 1, 0.05, 20.0)[:-1]
    # the pilot has another seed, so that the run is independent of it
    calibration = smc.calibrate(
        target, (64,), karras, particles=budget.exact_particles // 4, seed=seed + 1
    )
    runs: dict[str, tuple[str, Tensor | smc.Calibration]] = {
        "euler": ("euler", karras),
        "ancestral": ("ancestral", karras),
        "curvature_matched": ("curvature_matched", karras),
        "curvature_matched, calibrated": ("curvature_matched", calibration),
    }
    figure = new_figure(8, 4.6)
    axis = figure.subplots()
    rows: list[list[Cell]] = []
    for name, (proposal, sigmas) in runs.items():
        started = time.perf_counter()
        result = smc.sample(
            target,
            (64,),
            sigmas,
            particles=budget.exact_particles,
            proposal=proposal,
            seed=seed,
            # the table is meant to show bad proposals too
            options=smc.RunOptions(dtype=torch.float32, on_degenerate="ignore"),
        )
        seconds = time.perf_counter() - started
        digits = distinct_digits(result.x[0], density)
        rows.append(
            [
                name,
                digits,
                total_variance(result),
                float(result.log_weight_sd[1:, 0].median()),
                int(result.resampled.sum()),
                float(result.ess.min()),
                int(result.unique_ancestors[0]),
                budget.exact_particles * result.nfe / seconds,
            ]
        )
        levels, sd = result.sigmas[1:].tolist(), result.log_weight_sd[1:, 0].tolist()
        label = f"{name.replace('_', ' ')}: {digits} left"
        axis.loglog(levels, sd, "o-", markersize=3, lw=2, color=_COLOURS[name], label=label)
    axis.set_title("Noise of the weights in a run on p²: low is good", fontsize=15)
    axis.set_xlabel("noise level σ", fontsize=12)
    axis.set_ylabel("standard deviation of the\nlog-weight of a step, nats", fontsize=12)
    axis.legend(
        fontsize=12, frameon=False, title="proposal: digits left of 1,797", title_fontsize=12
    )
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    save(figure, out / "f_proposals.png")
    header = [
        "proposal",
        "digits",
        "total var log G",
        "median sd",
        "resampled",
        "lowest ESS",
        "ancestors",
        "NFE/s",
    ]
    title = (
        f"(f) exact energies: kernel density of the digits, p^{GAMMA:g}, {STEPS} steps, "
        f"{budget.exact_particles} particles"
    )
    notes = [
        "calibrated: at the levels that smc.calibrate proposes, from a pilot run",
        "digits: how many of the 1,797 digits are nearest to some particle at the end; more is better",
        "total var log G: variance of the log-weights, summed over the steps, in nats²; less is better",
        "median sd: median over the steps of the standard deviation of the log-weights of a step, in nats",
        "resampled: steps after which the population was resampled; lowest ESS: the least effective sample size",
        "ancestors: starting particles that have descendants at the end",
        "NFE/s: evaluations of the energy for one particle, in each second of the run",
    ]
    return [Section(title, header, rows, notes)]
