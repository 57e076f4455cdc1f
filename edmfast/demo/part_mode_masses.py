"""Part (e), mode masses with a known truth: p² and a product of two mixtures in the plane.

The exact mass of a mode is the integral over all points nearest to its centre, on a fine grid. The unweighted
runs use the same proposal, steps and seeds, but no weights. Score scaling takes ancestral steps with the score
multiplied by the exponent; it does not apply to a product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edmfast import smc
from edmfast.analytic.gaussian_mixture import GaussianMixture
from edmfast.demo.budget import Budget
from edmfast.demo.pictures import save
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.demo.table import Cell, Section
from edmfast.diagnostics import mode_masses
from edmfast.plotting import new_figure
from edmfast.sampling import get_sigmas_karras
from edmfast.targets import Product, Target, Tempered

# the runs end at a positive level, where the exact density is known
_LEVELS = get_sigmas_karras(41, 0.01, 10.0)[:-1]
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
    scaled_model: tuple[Target, float] | None
    """The model and the exponent for score scaling; None where it does not apply."""


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
            (wide, 2.0),
        ),
        Case(
            "product p·q",
            Product([first, second]),
            first.means,
            lambda x: first.log_prob(x, end) + second.log_prob(x, end),
            None,
        ),
    ]


def exact_masses(case: Case) -> Tensor:
    """Return the masses of the modes, float64 [K], as sums over a grid of 801² points."""
    line = torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, _GRID, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    density = case.log_density(points)
    # a common factor of the weights cancels, so the largest density is made 1 to avoid overflow
    return mode_masses(points, case.centres, (density - density.max()).exp())


def smc_masses(case: Case, budget: Budget, *, seed: int, weighted: bool = True) -> Tensor:
    """Return the mode masses in independent populations, float64 [populations, K]."""
    result = smc.sample(
        case.target,
        (2,),
        _LEVELS,
        particles=budget.mixture_particles,
        populations=budget.mixture_seeds,
        ess_threshold=0.5 if weighted else 0.0,
        seed=seed,
        # ignored weights may be bad
        options=smc.RunOptions(on_degenerate="warn" if weighted else "ignore"),
    )
    # without weights all particles count alike
    weights: Sequence[Tensor | None] = [*result.weights] if weighted else [None] * len(result.x)
    return torch.stack(
        [mode_masses(x, case.centres, w) for x, w in zip(result.x, weights, strict=True)]
    )


def _score_scaled_masses(case: Case, budget: Budget, seed: int) -> Tensor | None:
    """Return the mode masses by score scaling, float64 [populations, K]; None where it does not apply."""
    if case.scaled_model is None:
        return None
    model, gamma = case.scaled_model
    x = score_scaled_samples(
        model,
        gamma,
        torch.empty(budget.mixture_seeds, budget.mixture_particles, 2, dtype=torch.float64),
        _LEVELS,
        seed=seed,
    )
    return torch.stack([mode_masses(population, case.centres) for population in x])


def report_mixtures(budget: Budget, out: Path, *, seed: int = 0) -> list[Section]:
    """Return a table of mode masses beside the exact ones, and draw out/e_mixtures.png."""
    figure = new_figure(10, 3.6)
    axes = figure.subplots(1, 2)
    rows: list[list[Cell]] = []
    for axis, case in zip(axes, cases(), strict=True):
        exact = exact_masses(case)
        by_method: dict[str, Tensor | None] = {
            "SMC": smc_masses(case, budget, seed=seed),
            "unweighted": smc_masses(case, budget, seed=seed, weighted=False),
            "score scaling": _score_scaled_masses(case, budget, seed),
        }
        place = torch.arange(len(exact))
        axis.bar((place - 0.3).tolist(), exact.tolist(), 0.2, label="exact", color="black")
        rows.append([f"{case.name}: exact", *_masses(exact), "", ""])
        for shift, (name, masses) in zip((-0.1, 0.1, 0.3), by_method.items(), strict=True):
            if masses is None:
                continue
            mean, error = masses.mean(0), masses.std(0) / len(masses) ** 0.5
            spread = masses.std(0).tolist()
            at = (place + shift).tolist()
            axis.bar(at, mean.tolist(), 0.2, yerr=spread, label=name, capsize=2)
            worst = int((mean - exact).abs().argmax())
            gap = f"{float(mean[worst] - exact[worst]):+.3f}"
            row: list[Cell] = [f"{case.name}: {name}", *_masses(mean), gap, float(error[worst])]
            rows.append(row)
        axis.set(title=case.name, xlabel="mode", ylabel="mass", xticks=place.tolist())
        axis.set_xticklabels([str(mode) for mode in range(1, 1 + len(exact))])
        axis.set_ylim(0, 1.3 * float(exact.max()))
        axis.legend(fontsize=8, loc="upper left", ncols=2)
    save(figure, out / "e_mixtures.png")
    header = ["target: method", "mode 1", "mode 2", "mode 3", "largest error", "± standard error"]
    title = f"(e) mode masses in the plane, 40 steps, {budget.mixture_particles} particles"
    return [Section(title, header, rows, [f"mean of {budget.mixture_seeds} populations"])]


def _masses(masses: Tensor) -> list[str]:
    return [f"{float(mass):.3f}" for mass in masses] + ["-"] * (3 - len(masses))
