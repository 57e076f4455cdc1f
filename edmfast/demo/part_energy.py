"""Part (d), an energy distilled from the plain denoiser: its error in nats, and low temperature by its laws.

The energy starts from the weights of the denoiser and learns its scores and the log-densities along noising paths.
Three laws then weigh p²: matched reversals at all levels, energies at high noise and reversals below (hybrid), and
energies down to the last level, where the noise of their differences spoils the weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edmfast._internal.tables import Cell, Section
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.budget import Budget
from edmfast.demo.digits import SIGMA_DATA
from edmfast.demo.known_answer import power_answer
from edmfast.demo.laws import DIM, ENERGIES, HYBRID, REVERSAL, run_law
from edmfast.demo.part_low_temperature import exact_measures, exact_panel, panel_of
from edmfast.demo.part_model import CLASSES
from edmfast.demo.pictures import EXACT, draw_comparison, save
from edmfast.demo.smooth_denoiser import without_classes
from edmfast.demo.yardstick import HEADER, NOTES
from edmfast.diagnostics import EnergyError, energy_error
from edmfast.distill import DistillConfig, distill
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, initialise_from, save_model
from edmfast.plotting import new_figure
from edmfast.targets import Tempered

GAMMA = 2.0
LAWS = (REVERSAL, HYBRID, ENERGIES)
LEVELS = (0.06, 0.1, 0.2, 0.4, 1.0, 3.0)
"""Noise levels at which the error is measured."""
VALUE_WEIGHT = 3e-4
_DRAWS = 30_000


def train_energy(
    denoiser: Denoiser,
    mixture: MixtureOfGaussians,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
) -> EnergyModel:
    """Distil the denoiser of the whole mixture into an energy, and save it as out/energy.safetensors.

    Ctrl-C leaves a checkpoint in the folder, and the message of KeyboardInterrupt says where it is. The next run
    with the same settings continues from it.
    """
    draws = mixture.sample(_DRAWS, seed=seed).float()
    backbone = without_classes(denoiser)
    config = backbone.config
    energy = EnergyModel(
        ResidualMLP(DIM, width=config["width"], depth=config["depth"]), sigma_data=SIGMA_DATA
    )
    initialise_from(energy, denoiser, draws[:512], weights_from=backbone)
    settings = DistillConfig(
        steps=budget.distill_steps,
        batch_size=budget.distill_batch,
        seed=seed,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        ema_decay=0.995,
        p_mean=-0.6,
        p_std=1.5,
        value_weight=VALUE_WEIGHT,
        value_paths=budget.value_paths,
        checkpoint=out / "energy.checkpoint.safetensors",
    )
    _distill(denoiser, energy, draws, settings)
    save_model(energy, out / "energy.safetensors")
    return energy


def _distill(
    denoiser: Denoiser, energy: EnergyModel, draws: Tensor, settings: DistillConfig
) -> None:
    """Train the energy, from the checkpoint of an earlier run with the same settings where there is one."""
    path = settings.checkpoint
    if path is not None and Path(path).is_file():
        try:
            distill(denoiser, energy, draws, config=settings, resume_from=path)
            return
        except ValueError:
            # the checkpoint belongs to a run with other settings, and nothing was done yet
            pass
    distill(denoiser, energy, draws, config=settings, overwrite=True)


def report_energy(
    energy: EnergyModel,
    mixture: MixtureOfGaussians,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
) -> list[Section]:
    """Return tables of errors and of laws, and draw out/d_energy.png and out/d_nats.png."""
    errors = energy_error(energy, mixture, LEVELS, seed=seed)
    _draw_errors(errors, out / "d_nats.png")
    answer = power_answer(mixture, GAMMA, seed=seed)
    exact = exact_measures(answer, budget, seed)
    rows: list[list[Cell]] = [["exact draws", *exact.row(), None]]
    panels = [exact_panel(answer)]
    for law in LAWS:
        made = run_law(
            law,
            Tempered(energy, GAMMA),
            (GAMMA,),
            steps=budget.steps,
            particles=budget.particles,
            populations=budget.populations,
            seed=seed,
        )
        measures = made.measures(answer)
        rows.append([law.name, *measures.row(), made.seconds])
        panels.append(panel_of(law, answer, made, measures))
    title = "Low temperature p² from a distilled energy"
    draw_comparison(
        title,
        panels,
        answer.masses,
        CLASSES,
        out / "d_energy.png",
        noise=exact.total_variation_of_mean,
    )
    return [_nats(errors, budget), _laws(rows, budget)]


def _nats(errors: EnergyError, budget: Budget) -> Section:
    named = (
        ("on p", errors.on_p),
        ("on p²", errors.on_square),
        ("between components", errors.between),
    )
    rows: list[list[Cell]] = [[name, *values.tolist()] for name, values in named]
    title = f"(d) the distilled energy after {budget.distill_steps} steps: standard deviation of its error"
    notes = [
        "σ: the noise level; numbers are in nats, over draws of p and of p², and over the means of the components",
        "between components: this error moves mass from one component to another",
    ]
    return Section(title, ["states", *(f"σ {sigma:g}" for sigma in LEVELS)], rows, notes)


def _laws(rows: list[list[Cell]], budget: Budget) -> Section:
    title = (
        f"(d) low temperature from the distilled energy: p^{GAMMA:g}, {budget.steps} steps, "
        f"{budget.populations} populations of {budget.particles} particles"
    )
    notes = [
        *NOTES,
        "    log Z from energies has an unknown constant too, since a learned energy is not normalised",
    ]
    return Section(title, ["law", *HEADER, "seconds"], rows, notes)


def _draw_errors(errors: EnergyError, path: Path) -> None:
    """Draw the errors against the noise level, and save the picture."""
    figure = new_figure(6.5, 4)
    axis = figure.subplots()
    curves: list[tuple[str, str, Tensor]] = [
        ("on draws of p", "#56B4E9", errors.on_p),
        ("on draws of p²", "#0072B2", errors.on_square),
        ("between components", EXACT, errors.between),
    ]
    for name, colour, values in curves:
        axis.plot(errors.sigmas.tolist(), values.tolist(), "o-", lw=2.5, color=colour, label=name)
    axis.set(xscale="log")
    axis.set_xticks(LEVELS, [f"{sigma:g}" for sigma in LEVELS], fontsize=11)
    axis.minorticks_off()
    axis.set_ylim(
        0, 1.1 * float(torch.stack([values for _, _, values in curves]).nan_to_num().max())
    )
    axis.set_title("Error of the distilled energy", fontsize=15)
    axis.set_xlabel("noise level σ", fontsize=12)
    axis.set_ylabel("standard deviation, nats", fontsize=12)
    axis.legend(fontsize=12, frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    save(figure, path)
