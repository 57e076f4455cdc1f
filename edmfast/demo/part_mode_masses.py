"""Part (e), mode masses with a known truth: p² and a product of two mixtures in the plane.

The exact mass of a mode is the integral over all points nearest to its centre, on a fine grid. Energies weigh
exactly. Matched reversals weigh the same models as plain denoisers, whose energies are hidden. Scaled scores are
ancestral steps with the score of the target, without weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from edmfast import smc
from edmfast._internal.tables import Cell, Section
from edmfast.analytic.gaussian_mixture import GaussianMixture
from edmfast.demo.budget import Budget
from edmfast.demo.laws import ENERGIES, REVERSAL, SCALED, Law, PlainDenoiser
from edmfast.demo.pictures import EXACT, save
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.diagnostics import mode_masses
from edmfast.plotting import new_figure
from edmfast.sampling import get_sigmas_karras
from edmfast.targets import Product, Target, Tempered
from edmfast.targets.protocols import Model

# the runs end at a positive level, where the exact density is known
_LEVELS = get_sigmas_karras(41, 0.01, 10.0)[:-1]
LAWS = (ENERGIES, REVERSAL, SCALED)
_HALF_WIDTH, _GRID = 5.0, 801


@dataclasses.dataclass(frozen=True)
class Case:
    """A target in the plane whose mode masses are known."""

    name: str
    target: Target
    centres: Tensor
    """Centres of the modes, [K, 2]."""
    log_density: Callable[[Tensor], Tensor]
    """The log-density, not normalised, at the last noise level."""
    of_denoisers: Model
    """The same target made of plain denoisers."""


def cases() -> list[Case]:
    """Return p² of a wide and a narrow mode, and a product of two mixtures of three modes."""
    end = float(_LEVELS[-1])
    wide = GaussianMixture([[-1.5, 0.0], [1.5, 0.0]], [0.6, 0.25], [0.6, 0.4])
    corners = [[-1.5, -1.0], [1.5, -1.0], [0.0, 1.5]]
    first = GaussianMixture(corners, [0.5, 0.5, 0.5], [0.5, 0.3, 0.2])
    second = GaussianMixture(corners, [0.8, 0.4, 0.4], [0.3, 0.4, 0.3])
    return [
        Case(
            "p² (γ = 2)",
            Tempered(wide, 2.0),
            wide.means,
            lambda x: 2 * wide.log_prob(x, end),
            Tempered(PlainDenoiser(wide), 2.0),
        ),
        Case(
            "product p·q",
            Product([first, second]),
            first.means,
            lambda x: first.log_prob(x, end) + second.log_prob(x, end),
            Product([PlainDenoiser(first), PlainDenoiser(second)]),
        ),
    ]


def exact_masses(case: Case) -> Tensor:
    """Return the masses of the modes, float64 [K], as sums over a grid of 801² points."""
    line = torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, _GRID, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    density = case.log_density(points)
    # a common factor of the weights cancels, so the largest density is made 1 to avoid overflow
    return mode_masses(points, case.centres, (density - density.max()).exp())


def smc_masses(case: Case, law: Law, budget: Budget, *, seed: int) -> Tensor:
    """Return the mode masses in independent populations by a law, float64 [populations, K]."""
    shape = (budget.mixture_seeds, budget.mixture_particles)
    if law.weights is None:
        like = torch.empty(*shape, 2, dtype=torch.float64)
        x = score_scaled_samples(case.of_denoisers, 1.0, like, _LEVELS, seed=seed)
        return torch.stack([mode_masses(population, case.centres) for population in x])
    result = smc.sample(
        case.target if law.weights == "energy" else case.of_denoisers,
        (2,),
        _LEVELS,
        particles=shape[1],
        populations=shape[0],
        weights=law.weights,
        seed=seed,
        options=smc.RunOptions(dtype=torch.float64),
    )
    pairs = zip(result.x, result.weights, strict=True)
    return torch.stack([mode_masses(x, case.centres, weights) for x, weights in pairs])


def report_mixtures(budget: Budget, out: Path, *, seed: int = 0) -> list[Section]:
    """Return a table of mode masses beside the exact ones, and draw out/e_mixtures.png."""
    figure = new_figure(10, 4.4)
    figure.suptitle(
        "Masses of modes in the plane: right where a bar ends at its black line", fontsize=17
    )
    axes = figure.subplots(1, 2)
    rows: list[list[Cell]] = []
    width = 0.8 / len(LAWS)
    for axis, case in zip(axes, cases(), strict=True):
        exact = exact_masses(case)
        place = torch.arange(len(exact))
        rows.append([f"{case.name}: exact", *_masses(exact), "", ""])
        for index, law in enumerate(LAWS):
            masses = smc_masses(case, law, budget, seed=seed)
            mean, error = masses.mean(0), masses.std(0) / len(masses) ** 0.5
            at = (place + (index - (len(LAWS) - 1) / 2) * width).tolist()
            spread = masses.std(0).tolist()
            axis.bar(
                at, mean.tolist(), width, yerr=spread, color=law.colour, label=law.name, capsize=3
            )
            worst = int((mean - exact).abs().argmax())
            gap = f"{float(mean[worst] - exact[worst]):+.3f}"
            row: list[Cell] = [f"{case.name}: {law.name}", *_masses(mean), gap, float(error[worst])]
            rows.append(row)
        left, right = (place - 0.45).tolist(), (place + 0.45).tolist()
        axis.hlines(exact.tolist(), left, right, color=EXACT, lw=2.5, label="exact mass")
        axis.set_title(case.name, fontsize=14)
        axis.set_xticks(place.tolist(), [f"mode {i + 1}" for i in place.tolist()], fontsize=12)
        axis.tick_params(axis="x", length=0)
        axis.set_ylim(0, 1.15 * float(exact.max()))
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("mass ± standard deviation", fontsize=12)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=12, loc="outside lower center", ncols=4, frameon=False)
    save(figure, out / "e_mixtures.png")
    header = ["target: law", "mode 1", "mode 2", "mode 3", "largest error", "± standard error"]
    title = f"(e) mode masses in the plane, 40 steps, {budget.mixture_particles} particles"
    notes = [
        f"mode 1, mode 2, mode 3: masses, mean over {budget.mixture_seeds} populations; -: p² has two modes",
        "largest error: mean less exact mass, for the mode where they differ most",
        "± standard error: of this mean, from the spread of the populations",
    ]
    return [Section(title, header, rows, notes)]


def _masses(masses: Tensor) -> list[str]:
    return [f"{float(mass):.3f}" for mass in masses] + ["-"] * (3 - len(masses))
