"""Test control from a plain denoiser in the demonstration: its answers, its laws and its pictures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from edmfast import smc
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo import pictures
from edmfast.demo.budget import Budget
from edmfast.demo.guided_answer import guided_answer, guided_draws
from edmfast.demo.laws import CORRECTOR, DIM, REVERSAL, SCALED, PlainDenoiser, run_law
from edmfast.demo.part_composition import PAIRS, guided, products, report_composition
from edmfast.demo.part_low_temperature import report_low_temperature
from edmfast.demo.part_model import report_model
from edmfast.demo.pictures import drawn_images
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.targets import Conditioned, Guided
from edmfast.targets.scores import has_energy
from edmfast.targets.traces import has_exact_trace


@pytest.fixture(scope="module")
def mixture() -> MixtureOfGaussians:
    return load_smooth_digits()


def test_a_plain_denoiser_hides_energy_and_trace(mixture: MixtureOfGaussians) -> None:
    plain, x = PlainDenoiser(mixture), torch.randn(3, DIM)
    labels = torch.tensor([0, 4, 10])
    assert not has_energy(plain)
    assert not has_exact_trace(plain)
    assert torch.equal(plain(x, 1.0, labels), mixture.denoise(x, 1.0, labels))


def test_guided_answer_agrees_with_a_grid() -> None:
    line = MixtureOfGaussians(
        [[-1.0], [0.5], [1.5]], [[[0.5]], [[0.2]], [[0.6]]], [0.3, 0.3, 0.4], [0, 0, 1]
    )
    answer = guided_answer(line, 0, 3.0, 0.1, draws=200_000)
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    density = answer.log_target(x).exp()
    cell = 16 / 4000
    assert answer.log_z == pytest.approx(math.log(float(density.sum()) * cell), abs=0.01)
    shares = line.conditional(0).responsibilities(x, 0.1)
    exact = (density[:, None] * shares).sum(0) / density.sum()
    assert (answer.masses - exact).abs().max() < 5 * answer.masses_error.max() < 0.02
    mean = float((density * answer.log_target(x)).sum() / density.sum())
    assert answer.log_density == pytest.approx(mean, abs=0.01)
    assert float(answer.log_target(answer.draws).mean()) == pytest.approx(mean, abs=0.01)
    others = guided_draws(answer, 20_000, seed=7)
    assert others.shape == (20_000, 1)
    assert (answer.judge.responsibilities(others).mean(0) - exact).abs().max() < 0.02
    assert float(answer.log_target(others).mean()) == pytest.approx(mean, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("w", "most"), [(2.0, 0.09), (4.0, 0.12)])
def test_guidance_keeps_its_particles(mixture: MixtureOfGaussians, w: float, most: float) -> None:
    """No particle takes all weight, and masses are right. Unbounded gains give .09 and .23, and an ESS of 1."""
    labels = torch.arange(10)
    base = Conditioned(mixture, class_label=torch.tensor([10]))
    classes = Conditioned(mixture, class_label=labels.repeat_interleave(2))
    levels = torch.linspace(20 ** (1 / 7), 0.05 ** (1 / 7), 33, dtype=torch.float64) ** 7
    run = smc.sample(
        Guided(base, classes, w),
        (DIM,),
        levels,
        particles=256,
        populations=20,
        weights="reversal",
        ess_threshold=0.4,
    )
    assert float(run.ess.min()) > 10
    off = []
    for label, x, weights in zip(labels, run.x.split(2), run.weights.split(2), strict=True):
        answer = guided_answer(mixture, int(label), w, draws=4000, seed=int(label))
        shares = answer.judge.responsibilities(x.flatten(0, 1)).reshape(*weights.shape, -1)
        masses = (weights[..., None] * shares).sum(1).mean(0)
        off.append(0.5 * float((masses - answer.masses).abs().sum()))
    assert sum(off) / len(off) < most


def test_guidance_of_strength_one_is_the_class(mixture: MixtureOfGaussians) -> None:
    answer = guided_answer(mixture, 3, 1.0, draws=4000)
    assert answer.log_z == pytest.approx(0, abs=1e-9)
    assert (answer.masses - mixture.conditional(3).weights).abs().max() < 0.05
    with pytest.raises(ValueError, match=r"must be at least 1, given 0\.5"):
        guided_answer(mixture, 3, 0.5)


def test_exact_draws_of_guidance_show_the_noise_of_the_measures(
    mixture: MixtureOfGaussians,
) -> None:
    (small, large) = (guided(mixture, repeats).exact_measures(64, seed=0) for repeats in (1, 8))
    for each in small:
        assert 0 < each.total_variation_of_mean < 0.25
        assert abs(float(each.log_density_gap.mean())) < 3
    mean = [sum(each.total_variation_of_mean for each in few) / len(few) for few in (small, large)]
    assert mean[1] < 0.6 * mean[0]


def test_the_picture_of_log_densities_tells_the_side_of_an_error_and_the_wrong_mass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    exact, equal = torch.linspace(-5, 5, 101), torch.ones(101)
    curves = [
        pictures.Curve("low", "blue", exact - 8.3, equal, 0.17),
        pictures.Curve("high", "red", exact + 6.4, equal, 0.06),
    ]
    pictures.draw_densities("title", exact, curves, tmp_path / "picture.png", noise=0.02)
    low, high = [axis.texts[0].get_text() for axis in figures[0].axes]
    assert low == "mean log-density is 8.3 nats too low\nmass in wrong components: 17 %"
    assert high == "mean log-density is 6.4 nats too high\nmass in wrong components: 6 %"
    assert "2 %" in figures[0].legends[0].get_texts()[0].get_text()


def test_images_of_a_component_are_as_many_as_its_weight(mixture: MixtureOfGaussians) -> None:
    x = mixture.means[[4, 0, 4, 8]]
    images = drawn_images(mixture, x, torch.tensor([0.25, 0.3, 0.25, 0.2]), 10)
    assert images.shape == (10, 1, 8, 8)
    rows = images.flatten(1).double()
    for component, count in ((0, 3), (4, 5), (8, 2)):
        assert ((rows - mixture.means[component]).abs().amax(1) < 1e-6).sum() == count
    # components come in their order
    assert (rows[0] - mixture.means[0]).abs().max() < 1e-6
    assert (rows[-1] - mixture.means[8]).abs().max() < 1e-6


def test_every_pair_of_classes_has_its_populations(mixture: MixtureOfGaussians) -> None:
    target = products(mixture, 2).target_of(PlainDenoiser(mixture))
    batch = 2 * len(PAIRS)
    x = torch.randn(batch, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = target.for_rows(0, batch, batch)(x, 0.7)
    for index, (a, b) in enumerate(PAIRS):
        rows = x[2 * index : 2 * index + 2]
        labels = [torch.full((2,), label) for label in (a, b)]
        apart = sum(mixture.denoise(rows, 0.7, label) for label in labels) / 2
        torch.testing.assert_close(together[2 * index : 2 * index + 2], apart)


def test_reversal_weights_beat_the_others_on_products(mixture: MixtureOfGaussians) -> None:
    family = products(mixture)
    worst = {}
    for law in (REVERSAL, SCALED):
        made = run_law(
            law,
            family.target_of(PlainDenoiser(mixture)),
            (1.0, 1.0),
            steps=16,
            particles=128,
            populations=len(PAIRS),
            seed=0,
        )
        measures = family.measures(made)
        worst[law.name] = sum(each.total_variation_of_mean for each in measures) / len(PAIRS)
    assert worst[REVERSAL.name] < 0.2
    assert worst[SCALED.name] > 0.35


@pytest.mark.slow
def test_the_pictures_and_tables_tell_which_law_is_right(
    mixture: MixtureOfGaussians, tmp_path: Path
) -> None:
    budget, plain = Budget(populations=4, composed_populations=2), PlainDenoiser(mixture)
    report_model(mixture, tmp_path)
    low = report_low_temperature(mixture, plain, budget, tmp_path)
    variation = {row[0]: row[1] for row in low[0].rows}
    assert variation[REVERSAL.name] < 0.15
    assert variation[CORRECTOR.name] > 0.3
    assert variation[SCALED.name] > 0.6
    composed, guided = report_composition(mixture, plain, budget, tmp_path)
    variation = {row[0]: row[1] for row in composed.rows}
    assert variation["exact draws"] < variation[REVERSAL.name] < 0.12
    assert variation[SCALED.name] > 0.3
    # guidance by scores alone is too likely, and that by corrector weights too unlikely
    gap = {row[0]: row[4] for row in guided.rows}
    assert abs(gap[REVERSAL.name]) < 1.5
    assert gap[CORRECTOR.name] < -4
    assert gap[SCALED.name] > 4
    for name in ("a_model", "b_low_temperature", "c_composition", "c_guidance"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0
