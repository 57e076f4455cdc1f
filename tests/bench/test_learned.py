"""Test the study of learned energies: recipes train, the regulariser vanishes where it must, and rows add up."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)")

from bench.studies.learned import recipes, rne, run
from edmfast.analytic import GaussianMixture
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.distill import DistillConfig
from edmfast.distill.batch import BatchMaker
from edmfast.distill.data import TensorData
from edmfast.distill.loss import denoising_loss
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, save_model


def loss_of(student, batch, weight=0.0):
    loss = rne._Loss(student, weight) if weight else lambda batch: denoising_loss(student, batch)
    return float(loss(batch).detach())


def pairs(samples, teacher):
    config = DistillConfig(difference_weight=1.0, batch_size=16)
    return BatchMaker(TensorData(samples, None, 0), teacher, config)()


def test_the_regulariser_vanishes_for_a_gaussian_and_not_for_another_energy():
    gaussian = GaussianMixture([[0.0] * 8], [0.75])
    batch = pairs(gaussian.sample(100, seed=0), gaussian)
    student = EnergyModel(ResidualMLP(8), sigma_data=0.75).double()
    plain = loss_of(student, batch)
    assert loss_of(student, batch, 1.0) == pytest.approx(plain, abs=1e-12)
    torch.manual_seed(0)
    torch.nn.init.normal_(student.backbone.output.weight)
    plain = loss_of(student, batch)
    assert loss_of(student, batch, 1.0) > plain + 1e-3


def test_a_student_starts_from_a_conditional_teacher_without_its_classes():
    torch.manual_seed(0)
    teacher = Denoiser(ResidualMLP(64, 16, 2, num_classes=10), sigma_data=0.75)
    torch.nn.init.normal_(teacher.backbone.output.weight, std=0.1)
    copy = recipes.without_classes(teacher)
    y, c_noise = torch.randn(5, 64), torch.zeros(5)
    label = torch.full((5,), 10)
    torch.testing.assert_close(copy(y, c_noise), teacher.backbone(y, c_noise, class_label=label))


def test_parts_of_the_study_add_rows_to_one_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "DRAWS", 600)
    monkeypatch.setattr(run, "LEVELS", (0.1, 1.0))
    path, teacher = tmp_path / "rows.json", tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    save_model(Denoiser(ResidualMLP(64, 256, 4, num_classes=10), sigma_data=0.75), teacher)
    shared = ["--students", str(tmp_path), "--populations", "0", "--steps", "2"]
    shared += ["--json", str(path)]
    settings = {"value_weight": 0.1, "value_paths": 8, "value_levels": 4, "batch_size": 16}
    few = {
        "RNE": recipes.Recipe("RNE", width=8, depth=1, rne=0.1, settings={"batch_size": 16}),
        "values": recipes.Recipe("values", width=8, depth=1, settings=settings),
        "started": recipes.Recipe("started", width=256, start="teacher", settings=settings),
    }
    monkeypatch.setattr(run, "RECIPES", few)
    assert run.main(["--only", "RNE", *shared]) == 0
    assert run.main(["--only", "values", *shared]) == 0
    assert run.main(["--only", "started", "--teacher", str(teacher), *shared]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows] == ["RNE", "values", "denoiser", "started"]
    assert [row.get("teacher") for row in rows] == ["exact", "exact", None, "learned"]
    assert all(value > 0 for row in rows for value in row["score"])
    assert all(value > 1 for value in rows[0]["on_p"])
    assert "between" in capsys.readouterr().out


def test_control_of_the_exact_mixture_is_right():
    from bench.studies.learned.control import control

    found = control(load_smooth_digits(), 2.0, "reversal", populations=2)
    assert found["total_variation"] < 0.2
    assert found["nfe"] > 0
