"""PSO on given pairs: the losses by their formulas, a run that prefers the winners, and exact resuming."""

from __future__ import annotations

import dataclasses
import math
import shutil
import warnings

import pytest
import torch
from torch import nn

from edmfast.distill import DistillConfig, OfflinePSOLoss, train_pso_offline
from edmfast.distill.objectives.preferences import OfflineBatches, Preferences
from edmfast.models import Denoiser, ResidualMLP

LEVELS = [4.0, 1.5, 0.6, 0.2, 0.0]
SETTINGS = {"steps": 12, "batch_size": 16, "warmup_steps": 2, "checkpoint_every": 5}
GENERATOR = torch.Generator().manual_seed(0)
WINNERS = 0.3 * torch.randn(64, 2, generator=GENERATOR) + torch.tensor([0.4, 0.0])
LOSERS = 0.3 * torch.randn(64, 2, generator=GENERATOR)


class Constant(nn.Module):
    sigma_data = 0.5

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer, dtype=torch.float64))

    def forward(self, x, sigma):
        return self.answer.expand(x.shape)


def batch():
    draw = torch.Generator().manual_seed(1)
    x, target, reference = torch.randn(3, 5, 2, 3, generator=draw, dtype=torch.float64)
    return {
        "x": x,
        "target": target,
        "reference": reference,
        "sigma": torch.rand(5, generator=draw, dtype=torch.float64) + 0.5,
    }


@pytest.mark.parametrize("loser_weight", [1.0, 0.4])
@pytest.mark.parametrize("prior_weight", [0.0, 0.7])
@pytest.mark.parametrize("kind", ["logistic", "hinge"])
def test_the_losses_are_their_formulas(kind, prior_weight, loser_weight):
    data, answer = batch(), (0.1, -0.2, 0.3)
    options = {"beta": 2.0, "loser_weight": loser_weight, "prior_weight": prior_weight}
    loss = OfflinePSOLoss(Constant(answer), loss=kind, **options)(data)
    values = []
    for row in range(5):
        student, reference = [], []
        for side in (0, 1):
            target, variance = data["target"][row, side], float(data["sigma"][row]) ** 2
            error = torch.tensor(answer, dtype=torch.float64) - target
            student.append(float(error.square().mean()) / variance)
            error = data["reference"][row, side] - target
            reference.append(float(error.square().mean()) / variance)
        margin = -(student[0] - loser_weight * student[1])
        if kind == "hinge":
            value = max(0.0, 1 - 2.0 * margin)
        else:
            margin += reference[0] - loser_weight * reference[1]
            value = -math.log(1 / (1 + math.exp(-2.0 * margin)))
        values.append(value + prior_weight * student[1])
    assert float(loss.detach()) == pytest.approx(sum(values) / 5, rel=1e-12)


def test_at_the_reference_the_loss_is_ln_2_and_its_gradient_prefers_the_winner():
    student = Constant((0.3, -0.2, 0.1))
    data = batch()
    data["reference"] = student.answer.detach().expand(data["target"].shape)
    loss = OfflinePSOLoss(student, beta=3.0)(data)
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, student.answer)
    # d/dD of (beta/2) (L^w - L^l) is beta (x_l - x_w)/(sigma² d), averaged over pairs
    pull = data["target"][:, 1] - data["target"][:, 0]
    expected = (3.0 * pull / (3 * data["sigma"][:, None] ** 2)).mean(0)
    torch.testing.assert_close(gradient, expected)


def student(num_classes=None):
    torch.manual_seed(0)
    return Denoiser(ResidualMLP(2, 16, 1, num_classes, embedding_width=8), sigma_data=0.5)


def test_batches_noise_both_samples_alike_at_the_levels_of_the_model():
    data = Preferences(torch.stack([WINNERS, LOSERS], 1), torch.arange(64))
    batches = OfflineBatches(data, student(), None, LEVELS[:-1], DistillConfig(batch_size=512))
    drawn = batches.draw(0)
    part = batches.part(drawn, slice(0, 512))
    noise = (part["x"] - part["target"]) / part["sigma"][:, None, None]
    torch.testing.assert_close(noise[:, 0], noise[:, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noise[:, 0], drawn.noise, rtol=1e-4, atol=1e-5)
    counts = [int((part["sigma"] == torch.tensor(level)).sum()) for level in LEVELS[:-1]]
    assert sum(counts) == 512
    assert min(counts) > 90
    assert torch.equal(WINNERS[part["class_label"]], part["target"][:, 0])
    assert "reference" not in part


def test_a_run_prefers_the_winners():
    config = DistillConfig(
        steps=150, batch_size=64, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9
    )
    model = student()
    before = preference(model)
    options = {"sigmas": LEVELS, "beta": 5.0, "config": config, "progress": False}
    result = train_pso_offline(model, WINNERS, LOSERS, **options)
    assert float(result.losses[0]) == pytest.approx(math.log(2), abs=1e-5)
    assert float(result.losses[-20:].mean()) < 0.6
    assert preference(result.model) > before + 0.05
    hinge = train_pso_offline(student(), WINNERS, LOSERS, loss="hinge", prior_weight=0.5, **options)
    assert float(hinge.losses[-20:].mean()) < float(hinge.losses[0]) - 0.1
    assert preference(hinge.model) > before + 0.05


def preference(model):
    """Return the mean first coordinate of the model's answers to noised losers, which is higher at the winners."""
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return float(model(LOSERS + 0.6 * noise, torch.full((64,), 0.6))[:, 0].mean())


class Stopping(nn.Module):
    """A reference that raises an interrupt at a call of its number."""

    def __init__(self, calls):
        super().__init__()
        self.model, self.calls = student(), calls

    def forward(self, x, sigma):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.model(x, sigma)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    config = DistillConfig(checkpoint=tmp_path / "run", **SETTINGS)
    plain = dataclasses.replace(config, checkpoint=None)
    options = {"sigmas": LEVELS, "progress": False}
    with pytest.raises(KeyboardInterrupt, match="step 7"):
        train_pso_offline(
            student(), WINNERS, LOSERS, reference=Stopping(7), config=config, **options
        )
    resumed = train_pso_offline(
        student(), WINNERS, LOSERS, config=config, resume_from=config.checkpoint, **options
    )
    whole = train_pso_offline(student(), WINNERS, LOSERS, config=plain, **options)
    assert torch.equal(resumed.losses, whole.losses)
    expected = whole.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())
    for other in ({"beta": 3.0}, {"reference": Constant((0.0, 0.0)).float()}):
        with pytest.raises(ValueError, match="belongs to another run"):
            train_pso_offline(
                student(),
                WINNERS,
                LOSERS,
                config=config,
                resume_from=config.checkpoint,
                **options,
                **other,
            )


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_accumulated_and_compiled_runs_equal_a_plain_one(compiled):
    if compiled and not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("needs a C++ compiler")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        runs = [
            train_pso_offline(
                student(4),
                WINNERS,
                LOSERS,
                labels=torch.arange(64) % 4,
                config=DistillConfig(**SETTINGS, **settings),
                progress=False,
            )
            for settings in ({}, {"compile": True} if compiled else {"accumulate": 4})
        ]
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"losers": LOSERS[:3]}, ValueError, r"equal shapes, given \[64, 2\] and \[3, 2\]"),
        ({"winners": WINNERS.double()}, TypeError, r"winners must have the dtype .*float64"),
        ({"losers": LOSERS / 0}, ValueError, "losers must be finite"),
        ({"loss": "square"}, ValueError, "loss must be one of"),
        ({"labels": torch.arange(3)}, ValueError, r"labels must be \[n\] = \[64\], given \[3\]"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"winners": WINNERS, "losers": LOSERS} | change
    with pytest.raises(error, match=message):
        train_pso_offline(student(4), **arguments, progress=False)
