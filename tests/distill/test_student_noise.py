"""Training with the noise of PFGM++: its law, its restart, and the report that no energy follows its teacher."""

from __future__ import annotations

import json
import math

import pytest
import torch

from edmfast.analytic import PointSet
from edmfast.distill import DistillConfig, NonConservativeWarning, distill
from edmfast.distill.batch import BatchMaker
from edmfast.distill.data import TensorData
from edmfast.models import Denoiser, ResidualMLP

POINTS, WEIGHTS = [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.5, 0.3, 0.2]


def maker(samples, **settings):
    return BatchMaker(TensorData(samples, None, 0), None, DistillConfig(mode="dsm", **settings))


@pytest.mark.parametrize("dof", [1.0, 6.0])
def test_noise_has_the_law_of_the_paper(dof):
    """For N = 2, R²/(R² + r²) ~ Beta(1, D/2), so that (1 + R²/r²)^(-D/2) is uniform."""
    count = 10_000
    batch = maker(torch.zeros(3, 2).double(), batch_size=count, noise_dof=dof, seed=1)()
    radius = batch["x"].norm(dim=1) / (batch["sigma"] * math.sqrt(dof))
    place = ((1 + radius.square()) ** (-dof / 2)).sort().values
    steps = torch.arange(count, dtype=torch.float64)
    distance = torch.maximum(place - steps / count, (steps + 1) / count - place).max()
    assert float(distance) * math.sqrt(count) < 1.63
    log_sigma = batch["sigma"].log()
    assert abs(float(log_sigma.mean()) + 1.2) < 5 * 1.2 / math.sqrt(count)


def test_gaussian_noise_keeps_its_draws():
    samples = torch.randn(50, 8)
    before = maker(samples)()
    assert torch.equal(before["x"], maker(samples, noise_dof=math.inf)()["x"])
    heavy = maker(samples, noise_dof=3)()
    assert torch.equal(heavy["sigma"], before["sigma"])
    assert not torch.equal(heavy["x"], before["x"])


def test_the_loss_of_a_perfect_denoiser_is_least():
    """Denoising score matching with Student-t noise has its minimum at the denoiser of the same D."""
    exact = PointSet(POINTS, WEIGHTS, dof=1.0)
    data = exact.sample(5000, seed=0)
    batch = maker(data, batch_size=40_000, noise_dof=1.0)()
    x, sigma = batch["x"], batch["sigma"]
    weight = (sigma.square() + 0.25) / (sigma * 0.5).square()

    def loss(dof):
        error = PointSet(POINTS, WEIGHTS, dof=dof)(x, sigma) - batch["target"]
        return float((weight[:, None] * error.square()).mean())

    assert loss(1.0) < loss(3.0) < loss(math.inf)


def test_the_config_names_what_does_not_fit():
    for name in ("difference_weight", "value_weight"):
        with pytest.raises(ValueError, match=rf"{name} > 0 needs Gaussian noise.*given 128"):
            DistillConfig(noise_dof=128, **{name: 0.1})
    with pytest.raises(ValueError, match="noise_dof must be positive"):
        DistillConfig(noise_dof=-1)
    # checkpoints of earlier versions have no such setting
    assert "noise_dof" not in DistillConfig().trajectory()
    heavy = DistillConfig(noise_dof=128).trajectory()
    assert heavy["noise_dof"] == 128
    assert json.loads(json.dumps(heavy)) == heavy


def test_a_resumed_run_repeats_the_noise(student, tmp_path):
    teacher = PointSet(POINTS, WEIGHTS, dof=64)
    data = teacher.sample(500, seed=0).float()
    path = tmp_path / "run.safetensors"
    settings = {"noise_dof": 64, "batch_size": 8, "schedule": "constant"}
    short, whole = (DistillConfig(steps=n, checkpoint=path, **settings) for n in (3, 6))
    distill(teacher, student(), data, config=short, progress=False)
    resumed = distill(teacher, student(), data, config=whole, resume_from=path, progress=False)
    plain = DistillConfig(steps=6, **settings)
    assert torch.equal(
        resumed.losses, distill(teacher, student(), data, config=plain, progress=False).losses
    )
    gaussian = DistillConfig(steps=6, batch_size=8, schedule="constant")
    with pytest.raises(ValueError, match=r"config\.noise_dof is only in the file"):
        distill(teacher, student(), data, config=gaussian, resume_from=path, progress=False)


def test_an_energy_reports_the_part_of_its_teacher_that_is_no_gradient(student):
    data = PointSet(POINTS, WEIGHTS).sample(200, seed=0).float()

    def distilled(dof, model, teacher=None):
        config = DistillConfig(steps=1, batch_size=8, noise_dof=dof)
        teacher = teacher or PointSet(POINTS, WEIGHTS, dof=dof)
        return distill(teacher, model, data, config=config, progress=False)

    with pytest.warns(NonConservativeWarning, match="field is no gradient"):
        result = distilled(1.0, student())
    assert 0.005 < result.teacher_asymmetry < 0.05
    assert "teacher asymmetry 0.0" in repr(result)
    # D = 128 is nearly conservative, and a Gaussian teacher is conservative
    nearly = distilled(128.0, student())
    assert 0 < nearly.teacher_asymmetry < 1e-3
    assert distilled(math.inf, student()).teacher_asymmetry is None
    plain = Denoiser(ResidualMLP(2, 16, 2, embedding_width=8), sigma_data=0.9)
    assert distilled(1.0, plain).teacher_asymmetry is None
    exact = PointSet(POINTS, WEIGHTS, dof=1.0)
    detached = distilled(1.0, student(), lambda x, sigma: exact(x, sigma).detach())
    assert detached.teacher_asymmetry is None
