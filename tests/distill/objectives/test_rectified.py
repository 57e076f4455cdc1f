"""Rectified Diffusion on Gaussian data, where the paired denoiser has a closed form; its runs resume exactly."""

from __future__ import annotations

import dataclasses
import math
import shutil
import warnings

import pytest
import torch
from torch import nn

from edmfast.distill import DistillConfig, RectifiedLoss, make_pairs, train_rectified
from edmfast.distill.objectives.rectified import RectifiedBatches
from edmfast.models import Denoiser, ResidualMLP

STD = 0.5
SETTINGS = {"steps": 12, "batch_size": 16, "warmup_steps": 2, "checkpoint_every": 5}


def exact_ode(model, x, sigmas):
    """Return the end of the exact ODE of N(0, STD²), whatever the model."""
    start, end = float(sigmas[0]), float(sigmas[-1])
    return x * math.sqrt((STD**2 + end**2) / (STD**2 + start**2))


def gaussian(x, sigma, class_label=None):
    return STD**2 / (STD**2 + sigma[:, None] ** 2) * x


def pairs(count=512, dim=2, **options):
    levels = [80.0, 10.0, 1.0, 0.1, 0.01, 0.0]
    return make_pairs(gaussian, (dim,), count, levels, sampler=exact_ode, **options)


class Ratio(nn.Module):
    """The linear denoiser D = a x/(b + sigma), which is that of the pairs of a Gaussian for a = b."""

    sigma_data = 0.5

    def __init__(self, a=0.2, b=0.8):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value).log()) for value in (a, b))

    def forward(self, x, sigma):
        return self.a.exp() * x / (self.b.exp() + sigma)[:, None]


@pytest.mark.parametrize("sigma", [0.05, 0.2, 5.0])
def test_linear_regression_on_pairs_gives_the_paired_denoiser(sigma):
    data = pairs(dtype=torch.float64)
    x = data.clean + sigma * data.noise
    slope = float((x * data.clean).sum() / x.square().sum())
    # the pairs of a path that starts at 80 have x_0 = k eps with k just below STD
    k = STD * 80 / math.hypot(80, STD)
    assert slope == pytest.approx(k / (k + sigma), rel=1e-12)
    assert slope == pytest.approx(STD / (STD + sigma), rel=1e-4)
    plain = STD**2 / (STD**2 + sigma**2)
    assert abs(slope - plain) > 0.05


@pytest.mark.parametrize("form", ["x0", "noise", "network"])
def test_training_finds_the_paired_denoiser_and_one_step_samples_the_data(form):
    student = Ratio()
    config = DistillConfig(
        steps=400, batch_size=128, learning_rate=0.05, warmup_steps=5, ema_decay=0.9
    )
    train_rectified(student, pairs(), form=form, config=config, progress=False)
    assert float(student.a.detach().exp()) == pytest.approx(STD, rel=2e-3)
    assert float(student.b.detach().exp()) == pytest.approx(STD, rel=2e-3)
    # one Euler step from 80 z to 0 is the denoiser at 80 z
    z = torch.ones(1, 1)
    with torch.no_grad():
        end = float(student(80 * z, torch.full((1,), 80.0)))
    assert end == pytest.approx(0.496894, rel=2e-3)
    assert float(gaussian(80 * z, torch.full((1,), 80.0))) == pytest.approx(0.003125, rel=1e-3)


def test_the_exact_denoisers_have_the_numbers_of_one_euler_step():
    student = Ratio(STD, STD).double()
    z = torch.ones(1, 1, dtype=torch.float64)
    sigma = torch.full((1,), 80.0, dtype=torch.float64)
    assert float(student(80 * z, sigma).detach()) == pytest.approx(0.496894, abs=5e-7)
    assert float(gaussian(80 * z, sigma)) == pytest.approx(0.003125, abs=5e-7)


def test_the_loss_is_the_pseudo_huber_of_the_error_in_its_form():
    class Shifted(nn.Module):
        sigma_data = 0.5

        def forward(self, x, sigma):
            return torch.tensor([[3.0, 4.0], [0.0, 1e-4]], dtype=torch.float64)

    batch = {"x": torch.zeros(2, 2, dtype=torch.float64), "target": torch.zeros(2, 2).double()}
    batch["sigma"] = torch.tensor([2.0, 0.5], dtype=torch.float64)
    errors = torch.tensor([3.0, 4.0, 0.0, 1e-4], dtype=torch.float64)
    scales = {
        "x0": [1.0, 1.0],
        "noise": [0.5, 2.0],
        "network": [math.hypot(2, 0.5) / 1.0, math.hypot(0.5, 0.5) / 0.25],
    }
    for form, scale in scales.items():
        e = errors * torch.tensor(scale, dtype=torch.float64).repeat_interleave(2)
        expected = ((e**2 + 0.3**2).sqrt() - 0.3).mean()
        loss = RectifiedLoss(Shifted(), huber=0.3, form=form)
        torch.testing.assert_close(loss(batch), expected, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match=r"form must be one of .*given 'v'"):
        RectifiedLoss(Shifted(), form="v")


def test_levels_are_log_uniform_within_the_range_of_each_pair():
    config = DistillConfig(batch_size=4096)
    batches = RectifiedBatches(pairs(64, data=torch.zeros(3, 2), phases=5), config)
    drawn = batches.draw(0)
    batch = batches.part(drawn, slice(0, 4096))
    low, high = batches.pairs.low[drawn.pairs], batches.pairs.high[drawn.pairs]
    place = (batch["sigma"] / low).log() / (high / low).log().clamp_min(1e-9)
    inside = high > low
    assert bool((place[inside] > -1e-5).all())
    assert bool((place[inside] < 1 + 1e-5).all())
    assert float(place[inside].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(place[inside].std()) == pytest.approx(12**-0.5, abs=0.02)
    noise = batches.pairs.noise[drawn.pairs]
    torch.testing.assert_close(batch["x"], batch["target"] + batch["sigma"][:, None] * noise)


def student(num_classes=None):
    torch.manual_seed(0)
    return Denoiser(ResidualMLP(2, 8, 1, num_classes, embedding_width=8), sigma_data=STD)


def test_labels_reach_the_student_and_some_are_dropped():
    labels = torch.arange(64) % 3
    data = pairs(64, labels=labels, num_classes=3)
    batches = RectifiedBatches(data, DistillConfig(batch_size=2000, label_dropout=0.25))
    batch = batches.part(batches.draw(0), slice(0, 2000))
    share = float((batch["class_label"] == 3).float().mean())
    assert share == pytest.approx(0.25, abs=0.04)
    config = DistillConfig(label_dropout=0.25, **SETTINGS)
    result = train_rectified(student(3), data, config=config, progress=False)
    assert bool(result.losses.isfinite().all())
    with pytest.raises(TypeError, match="accepts no conditions"):
        train_rectified(Ratio(), data, config=DistillConfig(**SETTINGS), progress=False)


def stopping(model, calls):
    """Make a model raise at call number `calls`."""
    forward, count = model.forward, 0

    def call(*arguments, **conditions):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return forward(*arguments, **conditions)

    model.forward = call
    return model


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    config = DistillConfig(checkpoint=tmp_path / "run", **SETTINGS)
    with pytest.raises(KeyboardInterrupt, match="step 7"):
        train_rectified(stopping(student(), 7), pairs(64), config=config, progress=False)
    resumed = train_rectified(
        student(), pairs(64), config=config, resume_from=config.checkpoint, progress=False
    )
    plain = dataclasses.replace(config, checkpoint=None)
    whole = train_rectified(student(), pairs(64), config=plain, progress=False)
    assert torch.equal(resumed.losses, whole.losses)
    expected = whole.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())
    for other, data in (({"huber": 0.1}, pairs(64)), ({}, pairs(64, seed=1))):
        with pytest.raises(ValueError, match="belongs to another run"):
            train_rectified(
                student(),
                data,
                config=config,
                resume_from=config.checkpoint,
                progress=False,
                **other,
            )


def test_accumulated_parts_equal_the_whole_batch():
    losses = [
        train_rectified(
            student(), pairs(64), config=DistillConfig(accumulate=n, **SETTINGS), progress=False
        ).losses
        for n in (1, 4)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.slow
def test_a_compiled_run_equals_an_eager_one():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        runs = [
            train_rectified(
                student(), pairs(64), config=DistillConfig(compile=c, **SETTINGS), progress=False
            )
            for c in (False, True)
        ]
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=1e-5, atol=1e-6)


def test_bad_arguments_are_named():
    config = DistillConfig(**SETTINGS)
    with pytest.raises(TypeError, match="pairs must be NoisePairs, from make_pairs, given Tensor"):
        train_rectified(student(), torch.zeros(3, 2), config=config)
    with pytest.raises(TypeError, match="module with sigma_data, given Linear"):
        train_rectified(nn.Linear(2, 2), pairs(8), config=config)
    with pytest.raises(ValueError, match="label_dropout > 0 needs pairs with labels"):
        train_rectified(student(), pairs(8), config=DistillConfig(label_dropout=0.1))
    with pytest.raises(ValueError, match=r"config\.value_weight must be 0"):
        train_rectified(student(), pairs(8), config=DistillConfig(value_weight=0.1))
