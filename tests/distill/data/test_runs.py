"""Whole runs on other data than tensors: they learn the same, resume exactly, and refuse other data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import edmfast
from edmfast import DistillConfig
from edmfast.distill import open_data, train_interpolant
from edmfast.distill.trainer import distill
from edmfast.interpolants import Interpolant, InterpolantModel
from tests.distill.data.forms import Items, Stream
from tests.small_models import PAIR, mlp

STEPS = 12
SAMPLES = PAIR.sample(300, seed=3).float()


def run(data, **settings):
    torch.manual_seed(0)
    resume = settings.pop("resume_from", None)
    config = DistillConfig(**({"steps": STEPS, "batch_size": 8, "schedule": "constant"} | settings))
    student = edmfast.EnergyModel(mlp(), sigma_data=1.0)
    result = distill(PAIR, student, data, config=config, resume_from=resume, progress=False)
    return [*result.losses, *student.parameters()]


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: SAMPLES.numpy(),
        lambda path: path,
        lambda path: open_data(path, keep_in_memory=False, workers=2),
        lambda path: open_data([*SAMPLES], workers=1),
    ],
    ids=["array", "path", "mapped", "items"],
)
def test_a_run_on_other_data_equals_that_on_the_tensor(make, tmp_path):
    np.save(tmp_path / "x.npy", SAMPLES.numpy())
    assert_same(run(make(tmp_path / "x.npy")), run(SAMPLES))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["items", "stream"])
def test_a_resumed_run_equals_one_without_interruption(kind, workers, tmp_path):
    def data():
        return open_data(
            Items([*SAMPLES]) if kind == "items" else Stream([*SAMPLES]), workers=workers
        )

    whole = run(data())
    run(data(), steps=5, checkpoint=tmp_path / "run")
    assert_same(run(data(), resume_from=tmp_path / "run"), whole)
    # parts of the batch are read one after the other
    assert torch.isfinite(torch.stack(run(data(), accumulate=2)[:STEPS])).all()


@pytest.mark.parametrize("kind", [Items, Stream])
def test_a_checkpoint_refuses_other_data(kind, tmp_path):
    run(open_data(kind([*SAMPLES])), steps=5, checkpoint=tmp_path / "run")
    for other in (SAMPLES + 1, SAMPLES[:, [1, 0]]):
        with pytest.raises(ValueError, match="belongs to another run"):
            run(open_data(kind([*other])), resume_from=tmp_path / "run")


def test_a_student_without_classes_is_told_how_to_leave_labels_out(tmp_path):
    np.savez(tmp_path / "x.npz", x=SAMPLES.numpy(), y=np.zeros(300, np.int64))
    torch.manual_seed(0)
    with pytest.raises(
        TypeError, match=r"class_label.*open_data\(data, labels=False\) leaves them out"
    ):
        distill(PAIR, edmfast.Denoiser(Unconditional()), tmp_path / "x.npz", progress=False)
    student = edmfast.Denoiser(edmfast.models.ResidualMLP(2, 8, 1))
    with pytest.raises(TypeError, match=r"without classes .* labels=False\) leaves them out"):
        distill(PAIR, student, tmp_path / "x.npz", progress=False)
    assert_same(run(open_data(tmp_path / "x.npz", labels=False)), run(SAMPLES))


class Unconditional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, y, c_noise):
        return self.linear(y)


def test_an_interpolant_takes_other_data():
    def train(data, **options):
        torch.manual_seed(0)
        model = InterpolantModel(Interpolant(), drift=mlp(), noise=mlp())
        config = DistillConfig(steps=4, batch_size=4)
        return train_interpolant(model, data, config=config, progress=False, **options).losses

    assert torch.equal(train(SAMPLES.numpy()), train(SAMPLES))
    with pytest.raises(ValueError, match="paired=True needs data as a tensor"):
        train(SAMPLES.numpy(), base=SAMPLES, paired=True)
