"""The Fokker–Planck loss: zero for exact energies, closed for wrong ones, unbiased, and part of every run."""

from __future__ import annotations

import math
import shutil
import warnings

import pytest
import torch
from torch import nn

from edmfast import DistillConfig, distill
from edmfast.analytic import GaussianMixture
from edmfast.diagnostics import fokker_planck
from edmfast.distill.batch import BatchMaker
from edmfast.distill.covariance import covariance_within, variance_within
from edmfast.distill.data import check_data
from edmfast.distill.fokker_planck_loss import fokker_planck_loss, residual_estimates
from edmfast.distill.fokker_planck_states import draw_states, states_of
from edmfast.models import DiT, EnergyModel, ResidualMLP
from tests.small_models import Wide

SETTINGS = {"steps": 6, "batch_size": 64, "warmup_steps": 2, "fokker_planck_weight": 0.1}


def batch(levels=8, states=4, dim=3, sigma=None, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    size = (levels, states, dim)
    sigma = torch.rand(levels, generator=draw, dtype=dtype) + 0.1 if sigma is None else sigma
    clean, noise = torch.randn(2, *size, generator=draw, dtype=dtype)
    signs = (
        torch.rand(levels, states, 2, dim, generator=draw, dtype=dtype).lt(0.5).to(dtype) * 2 - 1
    )
    return {
        "fokker_planck_x": clean + sigma[:, None, None] * noise,
        "fokker_planck_sigma": sigma,
        "fokker_planck_probe": signs,
    }


def test_exact_energies_of_gaussian_data_have_no_residual_up_to_rounding():
    for gauge in (0.0, 3.0):
        assert abs(float(fokker_planck_loss(Wide(gauge=gauge), batch()).detach())) < 1e-20
    # a fresh student is the Gaussian with the standard deviation sigma_data
    student = EnergyModel(ResidualMLP(3, 16, 2), sigma_data=0.9).double()
    assert abs(float(fokker_planck_loss(student, batch()).detach())) < 1e-20
    single = EnergyModel(ResidualMLP(3, 16, 2), sigma_data=0.9)
    assert abs(float(fokker_planck_loss(single, batch(dtype=torch.float32)).detach())) < 1e-7


def test_a_wrong_scale_has_its_closed_form():
    excess, data = 1.3, batch()
    sigma = data["fokker_planck_sigma"][:, None]
    variance = 1 + excess * sigma**2
    residual = sigma * (excess - 1) / variance**2 * data["fokker_planck_x"].square().sum(2)
    expected = ((sigma**2 / 0.5) ** 2 * residual.var(1, keepdim=True)).mean() / 3
    loss = fokker_planck_loss(Wide(excess), data)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-9, atol=0)
    # the gradient is that of the closed form
    student = Wide(excess)
    (gradient,) = torch.autograd.grad(fokker_planck_loss(student, data), student.excess)
    step = 1e-5
    above, below = (fokker_planck_loss(Wide(excess + s), data) for s in (step, -step))
    assert float(gradient) == pytest.approx(float((above - below).detach()) / (2 * step), rel=1e-6)


def random_student(dim=3, dtype=torch.float64, num_classes=None):
    torch.manual_seed(0)
    student = EnergyModel(ResidualMLP(dim, 16, 2, num_classes, embedding_width=8)).to(dtype)
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.3)
    return student


def test_the_estimates_are_those_of_the_diagnostic_within_the_error_of_probes_and_differences():
    student, data = (
        random_student(),
        batch(levels=1, states=400, sigma=torch.tensor([0.7]).double()),
    )
    x, levels = data["fokker_planck_x"][0], torch.full((400,), 0.7, dtype=torch.float64)
    exact = fokker_planck(student, [x], [0.7]).residuals[0]
    probes = (
        torch.rand(64, 400, 3, generator=torch.Generator().manual_seed(1)).lt(0.5).double() * 2 - 1
    )
    estimates = torch.stack(residual_estimates(student, x, levels, tuple(probes), {})).detach()
    error = estimates.mean(0) - exact
    # all 400 errors of means over 64 probes lie within six standard errors
    assert bool((error.abs() < 6 * estimates.std(0) / 8 + 1e-3).all())
    assert float(exact.std()) > 0.1


def test_the_loss_is_unbiased_where_the_variance_of_one_estimate_is_not():
    student = random_student()
    sigma = torch.tensor([0.7], dtype=torch.float64)
    data = batch(levels=1, states=200, sigma=sigma)
    x = data["fokker_planck_x"][0]
    exact = float((0.7**2 / 0.5 * fokker_planck(student, [x], [0.7]).residuals[0]).var()) / 3
    losses, plain = [], []
    draw = torch.Generator().manual_seed(2)
    for _ in range(100):
        signs = torch.rand(1, 200, 2, 3, generator=draw).lt(0.5).double() * 2 - 1
        losses.append(fokker_planck_loss(student, data | {"fokker_planck_probe": signs}).detach())
        same = signs[:, :, :1].expand(signs.shape)
        plain.append(fokker_planck_loss(student, data | {"fokker_planck_probe": same}).detach())
    mean, error = (float(f(torch.stack(losses))) for f in (torch.mean, torch.std))
    assert mean == pytest.approx(exact, abs=5 * error / 10)
    # one probe for both factors adds the variance of the probe
    assert float(torch.stack(plain).mean()) > exact + 10 * error / 10


def test_covariances_have_a_mean_for_each_label():
    a, b = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 0, 1, 1, 1, 2])
    total = torch.zeros(3, dtype=torch.float64)
    for rows in (slice(0, 2), slice(2, 5)):
        centred = [values[:, rows] - values[:, rows].mean(1, keepdim=True) for values in (a, b)]
        total += (centred[0] * centred[1]).sum(1)
    # three means take three degrees of freedom, and the label that is alone adds nothing
    torch.testing.assert_close(covariance_within(a, b, label), total / 3)
    torch.testing.assert_close(covariance_within(a, a, label), variance_within(a, label))
    torch.testing.assert_close(covariance_within(a, a, None), a.var(1))


def test_states_share_samples_and_labels_two_by_two():
    config = DistillConfig(batch_size=96, variance_groups=2, fokker_planck_weight=1.0)
    draw = torch.Generator().manual_seed(0)
    drawn = draw_states(config, (2,), torch.float64, draw)
    assert drawn.sigma.shape == (2, 3)
    clean = torch.randn(96, 2, generator=draw, dtype=torch.float64)
    labels = torch.arange(96)
    whole = states_of(drawn, slice(0, 2), clean, labels)
    label = whole["fokker_planck_label"]
    assert label.shape == (6, 4)
    assert label[0].tolist() == [0, 0, 1, 1]
    # the second group takes rows of its own half
    assert label[3].tolist() == [48, 48, 49, 49]
    sigma = whole["fokker_planck_sigma"][:, None, None]
    noise = (whole["fokker_planck_x"] - clean[label]) / sigma
    torch.testing.assert_close(noise, drawn.noise.flatten(0, 1))
    assert set(whole["fokker_planck_probe"].unique().tolist()) == {-1.0, 1.0}
    part = states_of(drawn, slice(1, 2), clean[48:], labels[48:])
    for name, tensor in part.items():
        assert torch.equal(tensor, whole[name][3:])


@pytest.fixture
def problem():
    teacher = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.15, 0.25], [0.3, 0.7])
    return teacher, teacher.sample(500, seed=1).float()


def run(problem, **settings):
    teacher, data = problem
    config = DistillConfig(**(SETTINGS | settings))
    student = random_student(2, torch.float32)
    return distill(teacher, student, data, config=config, progress=False)


ENERGIES = {"difference_weight": 0.05, "value_weight": 0.01, "value_paths": 16, "value_levels": 6}


def test_training_reduces_the_residual_of_an_energy(problem):
    data = problem[1]
    sigmas = [0.2, 0.5, 1.5]
    states = [
        data[:300] + s * torch.randn(300, 2, generator=torch.Generator().manual_seed(3))
        for s in sigmas
    ]
    residuals = {}
    for weight in (0.0, 1.0):
        result = run(problem, steps=150, learning_rate=5e-3, fokker_planck_weight=weight)
        found = fokker_planck(result.model, states, sigmas).sd
        residuals[weight] = float((found * torch.tensor(sigmas).double() ** 2).square().sum())
    assert residuals[1.0] < 0.5 * residuals[0.0]


@pytest.mark.parametrize("settings", [{}, ENERGIES, {"mode": "dsm"}])
def test_it_joins_the_other_losses_and_accumulates(problem, settings):
    whole = run(problem, variance_groups=4, **settings)
    parts = run(problem, variance_groups=4, accumulate=4, **settings)
    torch.testing.assert_close(whole.losses, parts.losses, rtol=1e-4, atol=1e-5)
    without = run(problem, variance_groups=4, fokker_planck_weight=0.0, **settings)
    # its draws come last, so that the other losses of the first step stay the same
    assert whole.losses[0] != without.losses[0]
    assert bool(whole.losses.isfinite().all())


def test_a_resumed_run_equals_an_uninterrupted_one(problem, tmp_path):
    path = tmp_path / "run"
    whole = run(problem, steps=8, schedule="constant")
    run(problem, steps=4, schedule="constant", checkpoint=path)
    teacher, data = problem
    config = DistillConfig(**(SETTINGS | {"steps": 8, "schedule": "constant"}))
    student = random_student(2, torch.float32)
    options = {"resume_from": path, "progress": False}
    resumed = distill(teacher, student, data, config=config, **options)
    assert torch.equal(resumed.losses, whole.losses)
    other = DistillConfig(steps=8, schedule="constant", batch_size=64, warmup_steps=2)
    with pytest.raises(ValueError, match=r"config\.fokker_planck_weight is only in the file"):
        distill(teacher, random_student(2, torch.float32), data, config=other, **options)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.parametrize("settings", [ENERGIES, {"autocast": "bfloat16"}])
def test_compiled_losses_equal_eager_ones(problem, settings):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        eager, compiled = (run(problem, compile=c, **settings) for c in (False, True))
    tolerance = 0.03 if "autocast" in settings else 1e-4
    torch.testing.assert_close(compiled.losses, eager.losses, rtol=tolerance, atol=tolerance)


def transformer(dropout=0.0):
    torch.manual_seed(0)
    model = EnergyModel(DiT(1, 4, width=8, depth=1, heads=2, num_classes=5, dropout=dropout))
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return model


def test_a_transformer_with_labels_takes_part_and_dropout_does_not():
    images = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 5
    config = DistillConfig(mode="dsm", steps=2, batch_size=32, fokker_planck_weight=0.1)
    losses = []
    for dropout in (0.0, 0.5):
        student = transformer(dropout).train()
        data = check_data((images, labels), student, config)
        source = BatchMaker(data, None, config)
        part = source.part(source.draw(0), slice(0, 32))
        losses.append(fokker_planck_loss(student, part).detach())
    assert torch.equal(losses[0], losses[1])
    result = distill(None, transformer(0.5), (images, labels), config=config, progress=False)
    assert bool(result.losses.isfinite().all())


def test_bad_settings_and_energies_are_named(problem):
    with pytest.raises(ValueError, match="fokker_planck_weight > 0 needs batch_size >= 32"):
        DistillConfig(fokker_planck_weight=0.1, batch_size=30, variance_groups=2)
    with pytest.raises(ValueError, match="fokker_planck_weight > 0 needs Gaussian noise"):
        DistillConfig(fokker_planck_weight=0.1, noise_dof=3.0)

    class Level(Wide):
        def energy(self, x, sigma):
            return super().energy(x, sigma.detach())

    with pytest.raises(ValueError, match="needs an energy with a derivative with respect to sigma"):
        fokker_planck_loss(Level(), batch())
    assert math.isinf(DistillConfig(fokker_planck_weight=0.1).noise_dof)
