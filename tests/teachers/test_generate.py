"""Samples of a teacher as training data: their law, their seeds, and the file that grows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import edmfast
from edmfast import DistillConfig, analytic, sampling
from edmfast.distill import open_data
from edmfast.sampling.solvers import Euler
from edmfast.teachers import generated_data, generated_file
from tests.small_models import PAIR

LEVELS = sampling.get_sigmas_karras(6, 0.02, 20.0)
OPTIONS = {"sigmas": LEVELS, "progress": False}


class Interrupted(Exception):
    pass


class Stops(nn.Module):
    """A teacher that fails at a certain call, and counts its rows."""

    def __init__(self, calls=None, shift=0.0):
        super().__init__()
        self.shift, self.left, self.rows = shift, calls, 0

    def forward(self, x, sigma, **condition):
        assert not self.training
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Interrupted
        self.rows += len(x)
        return PAIR.denoise(x, sigma) + self.shift


def test_the_samples_have_the_law_of_the_teacher():
    teacher = analytic.GaussianMixture([[1.0, -2.0]], [0.5], [1.0])
    samples = generated_data(teacher, (2,), 4000, seed=1, progress=False)
    assert samples.shape == (4000, 2)
    assert samples.dtype == torch.float32
    error = 4 / 4000**0.5
    # a Gaussian is carried exactly up to the error of 18 levels of Heun's method
    assert float((samples.mean(0) - torch.tensor([1.0, -2.0])).abs().max()) < 0.5 * error + 0.02
    assert float((samples.std(0) / 0.5 - 1).abs().max()) < error + 0.02


def test_sample_i_follows_from_the_seed_and_i():
    whole = generated_data(PAIR, (2,), 20, seed=5, **OPTIONS)
    for size in (1, 7, 64):
        parts = generated_data(PAIR, (2,), 20, seed=5, batch_size=size, **OPTIONS)
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(generated_data(PAIR, (2,), 8, seed=5, **OPTIONS), whole[:8])
    assert not torch.equal(generated_data(PAIR, (2,), 20, seed=6, **OPTIONS), whole)


def test_the_sampler_is_that_of_the_package():
    seen = []

    def teacher(x, sigma):
        seen.append(float(sigma[0]))
        return PAIR.denoise(x, sigma)

    made = generated_data(teacher, (2,), 3, solver=Euler(), **OPTIONS)
    assert seen == LEVELS[:-1].tolist()
    assert not torch.equal(made, generated_data(PAIR, (2,), 3, **OPTIONS))


@pytest.mark.parametrize("labels", [3, [0, 1, 2, 0, 1], np.array([0, 1, 2, 0, 1])])
def test_class_labels(labels):
    seen = []

    def teacher(x, sigma, class_label):
        seen.append(class_label)
        return PAIR.denoise(x, sigma) + class_label[:, None]

    samples, classes = generated_data(
        teacher, (2,), 5, class_labels=labels, batch_size=2, **OPTIONS
    )
    assert classes.tolist() == [0, 1, 2, 0, 1]
    assert classes.dtype == torch.int64
    assert seen[-1].tolist() == [1]
    assert samples.shape == (5, 2)


def test_an_interrupted_run_goes_on(tmp_path):
    path = tmp_path / "samples.safetensors"
    whole = generated_data(Stops(), (2,), 20, batch_size=4, **OPTIONS)
    calls = 2 * (len(LEVELS) - 1) - 1
    with pytest.raises(Interrupted):
        # the third batch fails in its middle
        generated_data(Stops(2 * calls + 3), (2,), 20, batch_size=4, path=path, **OPTIONS)
    with pytest.raises(ValueError, match="is unfinished: it has 8 of 20 samples"):
        open_data(path)
    teacher = Stops().train()
    again = generated_data(teacher, (2,), 20, batch_size=4, path=path, **OPTIONS)
    assert torch.equal(again, whole)
    assert teacher.training
    # the first batch is drawn again, which tells another teacher apart
    assert teacher.rows == (4 + 12) * calls
    assert torch.equal(open_data(path).some(20), whole)
    longer = generated_data(Stops(), (2,), 23, batch_size=4, path=path, **OPTIONS)
    assert torch.equal(longer[:20], whole)
    content = path.read_bytes()
    assert torch.equal(
        generated_data(Stops(), (2,), 9, batch_size=4, path=path, **OPTIONS), whole[:9]
    )
    assert path.read_bytes() == content


def test_fewer_samples_than_first_wanted_complete_a_file(tmp_path):
    path = tmp_path / "samples.safetensors"
    calls = 2 * (len(LEVELS) - 1) - 1
    with pytest.raises(Interrupted):
        generated_data(Stops(calls), (2,), 20, batch_size=4, path=path, **OPTIONS)
    made = generated_data(Stops(), (2,), 4, batch_size=4, path=path, **OPTIONS)
    assert torch.equal(open_data(path).some(4), made)


def test_the_file_is_written_now_and_then(tmp_path, monkeypatch):
    path = tmp_path / "samples.safetensors"
    monkeypatch.setattr(generated_file, "_EVERY", 0.0)
    monkeypatch.setattr(generated_file, "_SHARE", 0)
    found = []

    def teacher(x, sigma):
        found.append(len(generated_file.read_tensors(path)[0]["samples"]) if path.exists() else 0)
        return PAIR.denoise(x, sigma)

    generated_data(teacher, (2,), 12, batch_size=4, path=path, **OPTIONS)
    assert sorted({*found}) == [0, 4, 8]


def test_files_of_other_samples_are_refused(tmp_path):
    path = tmp_path / "samples.safetensors"
    generated_data(Stops(), (2,), 6, path=path, **OPTIONS)
    cases = [
        ({"seed": 1}, "seed=0, and this call has 1"),
        ({"solver": Euler()}, "solver="),
        ({"sigmas": LEVELS[1:]}, "sigmas="),
        ({"class_labels": 2}, "other class labels"),
        ({"dtype": torch.float64}, "dtype='torch.float32'"),
    ]
    for change, words in cases:
        with pytest.raises(ValueError, match=f"has other samples: it has .*{words}"):
            generated_data(Stops(), (2,), 6, path=path, **(OPTIONS | change))
    with pytest.raises(ValueError, match="differ from those of this teacher"):
        generated_data(Stops(shift=1.0), (2,), 6, path=path, **OPTIONS)
    made = generated_data(Stops(shift=1.0), (2,), 6, path=path, overwrite=True, **OPTIONS)
    assert torch.equal(open_data(path).some(6), made)
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        generated_data(Stops(), (2,), 6, path=other, **OPTIONS)


def test_bad_arguments():
    with (
        pytest.raises(FloatingPointError, match="sample 2 is not finite"),
        pytest.warns(sampling.NonFiniteWarning),
    ):
        generated_data(
            lambda x, sigma: x / (torch.arange(len(x)) != 2)[:, None], (2,), 4, **OPTIONS
        )
    with pytest.raises(ValueError, match=r"one for each of count = 20 samples, given \[32\]"):
        generated_data(PAIR, (2,), 20, class_labels=[0] * 32, **OPTIONS)
    with pytest.raises(TypeError, match="class_labels must be integers"):
        generated_data(PAIR, (2,), 2, class_labels=[0.5, 1.0], **OPTIONS)
    with pytest.raises(ValueError, match="end with 0"):
        generated_data(PAIR, (2,), 2, sigmas=[2.0, 1.0], progress=False)
    with pytest.raises(TypeError, match="class_label"):
        generated_data(lambda x, sigma: x, (2,), 2, class_labels=3, **OPTIONS)


def test_a_student_learns_from_generated_data(tmp_path):
    path = tmp_path / "samples.safetensors"
    made = generated_data(PAIR, (2,), 50, path=path, **OPTIONS)
    config = DistillConfig(steps=3, batch_size=8)

    def losses(data):
        torch.manual_seed(0)
        student = edmfast.EnergyModel(edmfast.models.ResidualMLP(2, 8, 1), sigma_data=1.0)
        return edmfast.distill(PAIR, student, data, config=config, progress=False).losses

    assert torch.equal(losses(path), losses(made))
    with pytest.raises(ValueError, match=r"teachers\.generated_data\(teacher, shape, count\)"):
        losses(None)
