"""PSO on the model's own samples: the loss at the reference, the clip, and a run that raises the reward."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import shutil
import warnings

import pytest
import torch
from torch import nn

from edmfast.distill import DistillConfig, PSOLoss, train_pso, train_pso_offline
from edmfast.distill.objectives.prompts import Prompts
from edmfast.distill.objectives.pso import log_ratio
from edmfast.distill.objectives.pso_batch import PSOBatches
from edmfast.distill.objectives.reference import Reference
from edmfast.models import Denoiser, EnergyModel, ResidualMLP

LEVELS = [4.0, 1.5, 0.6, 0.2, 0.0]
SETTINGS = {"steps": 12, "batch_size": 16, "warmup_steps": 2, "checkpoint_every": 5}


class Constant(nn.Module):
    """A denoiser whose answer is a parameter, the same for all states."""

    sigma_data = 0.5

    def __init__(self, answer=(0.3, -0.2)):
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer, dtype=torch.float64))

    def forward(self, x, sigma):
        return self.answer.expand(x.shape)


def batch_of(winner, loser, reference, sigma=0.5, decided=1.0):
    following = torch.tensor([[[winner], [loser]]], dtype=torch.float64)
    levels = torch.full((1, 2, 1), sigma, dtype=torch.float64)
    return {
        "x": torch.zeros_like(following),
        "next": following,
        "reference": torch.tensor(reference, dtype=torch.float64).expand(following.shape),
        "levels": levels,
        "next_levels": levels,
        "decided": torch.tensor([decided], dtype=torch.float64),
    }


def test_at_the_reference_the_loss_is_ln_2_with_its_gradient():
    student = Constant()
    loss = PSOLoss(student, beta=50.0)(batch_of((1.0, 0.0), (0.0, 1.0), (0.3, -0.2)))
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, student.answer)
    # -(beta/2) (x_w - x_l)/(sigma² d) with d = 2
    torch.testing.assert_close(gradient, torch.tensor([-50.0, 50.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("winner", "loser", "moving"),
    [((0.4, 0.4), (0.4, 0.4), 0), ((0.02, 0.0), (0.4, 0.4), 1), ((0.02, 0.0), (0.01, 0.0), 2)],
)
def test_there_is_no_gradient_outside_the_clip(winner, loser, moving):
    shift = 0.2
    student = Constant((shift, shift))
    batch = batch_of(winner, loser, (0.0, 0.0))
    ratios = log_ratio(
        batch["next"], student.answer.expand(batch["x"].shape), batch["reference"], batch["levels"]
    )
    inside = (ratios.exp() > 0.9) & (ratios.exp() < 1.1)
    loss = PSOLoss(student, beta=5.0)(batch)
    (gradient,) = torch.autograd.grad(loss, student.answer)
    clipped = ratios.exp().clamp(0.9, 1.1).log().flatten()
    expected = nn.functional.softplus(-5 * (clipped[0] - clipped[1]))
    torch.testing.assert_close(loss, expected)
    assert bool(gradient.any()) == bool(inside.any())


def test_the_log_ratio_is_that_of_two_gaussians_per_element():
    draw = torch.Generator().manual_seed(0)
    following, denoised, reference = torch.randn(
        3, 4, 2, 3, 5, 2, generator=draw, dtype=torch.float64
    )
    sigma = torch.rand(4, 2, 3, generator=draw, dtype=torch.float64) + 0.1
    wide = sigma[..., None, None]
    ratio = torch.distributions.Normal(denoised, wide).log_prob(following)
    ratio = ratio - torch.distributions.Normal(reference, wide).log_prob(following)
    torch.testing.assert_close(
        log_ratio(following, denoised, reference, sigma), ratio.flatten(3).mean(3)
    )


def test_an_undecided_pair_has_no_loss():
    loss = PSOLoss(Constant())(batch_of((1.0, 0.0), (0.0, 1.0), (0.3, -0.2), decided=0.0))
    assert float(loss.detach()) == 0


def student(kind=Denoiser, num_classes=None, width=16):
    torch.manual_seed(0)
    backbone = ResidualMLP(2, width, 1, num_classes, embedding_width=8)
    return kind(backbone, sigma_data=0.5)


def first_coordinate(x, class_label=None):
    sign = 1 if class_label is None else 1 - 2 * class_label
    return sign * x[:, 0]


def batches(model, reward=first_coordinate, labels=None, **settings):
    config = DistillConfig(**(SETTINGS | settings))
    prompts = Prompts(labels, (2,), torch.float32, torch.device("cpu"))
    return PSOBatches(prompts, model, Reference(None, model), reward, LEVELS, config)


def test_trajectories_are_those_of_the_few_step_model_with_the_winner_first():
    model = student()
    nn.init.normal_(model.backbone.output.weight)
    source = batches(model)
    drawn = source.draw(0)
    batch = source.part(drawn, slice(0, 16))
    assert batch["x"].shape == batch["next"].shape == (16, 2, 3, 2)
    assert batch["levels"][3, 1].tolist() == pytest.approx(LEVELS[:3])
    assert batch["next_levels"][3, 1].tolist() == pytest.approx(LEVELS[1:4])
    assert torch.equal(batch["x"][:, :, 1:], batch["next"][:, :, :-1])
    rewards = batch["reward"]
    # the last of four steps ends at 0 and has no density, and its end is what the reward sees
    last = model(batch["next"][:, :, -1].flatten(0, 1), LEVELS[3]).view(16, 2, 2)[..., 0]
    torch.testing.assert_close(last[:, 0], rewards.max(1).values)
    torch.testing.assert_close(last[:, 1], rewards.min(1).values)
    # every next state is the denoised one plus the drawn noise
    for i in range(3):
        denoised = model(batch["x"][:, :, i].flatten(0, 1), LEVELS[i]).view(16, 2, 2)
        noise = (batch["next"][:, :, i] - denoised) / LEVELS[i + 1]
        first, second = drawn.noise[:, :, i + 1].unbind(1)
        swapped = rewards[:, 1] > rewards[:, 0]
        expected = torch.where(swapped[:, None], second, first)
        torch.testing.assert_close(noise[:, 0], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(batch["reference"][:, :, i], denoised, rtol=1e-5, atol=1e-6)
    # parts are rows of the whole batch
    part = source.part(drawn, slice(4, 8))
    for name, whole in batch.items():
        torch.testing.assert_close(part[name], whole[4:8])


def test_equal_and_nan_rewards_have_no_winner():
    values = torch.tensor([1.0, 1.0, math.nan, 2.0, 3.0, 4.0])

    def reward(x):
        return values.repeat(6)[: len(x)]

    source = batches(student(), reward, batch_size=6)
    batch = source.part(source.draw(0), slice(0, 6))
    assert batch["decided"].tolist() == [0, 0, 1, 0, 0, 1]


class Adapted(nn.Module):
    """A frozen denoiser with an adapter that can be switched off, as models of PEFT have one."""

    sigma_data = 0.5

    def __init__(self):
        super().__init__()
        self.base = student().requires_grad_(False)
        self.adapter = nn.Parameter(torch.zeros(2))
        self.on = True

    @contextlib.contextmanager
    def disable_adapter(self):
        self.on = False
        yield
        self.on = True

    def forward(self, x, sigma):
        return self.base(x, sigma) + (self.adapter if self.on else 0)


def test_the_reference_is_the_student_without_its_adapters():
    model = Adapted()
    reference = Reference(None, model)
    nn.init.ones_(model.adapter)
    x, sigma = torch.ones(3, 2), torch.ones(3)
    assert reference.model is model
    torch.testing.assert_close(reference(x, sigma), model(x, sigma) - 1)
    copied = Reference(None, model.base)
    assert copied.model is not model.base
    config = DistillConfig(learning_rate=0.01, **SETTINGS)
    result = train_pso(model, first_coordinate, (2,), LEVELS, config=config, progress=False)
    assert bool((result.model.adapter != 1).any())


def test_batches_that_need_the_whole_student_refuse_shares():
    config = DistillConfig(shard=True)
    with pytest.raises(ValueError, match="shard must be False for train_pso"):
        train_pso(student(), first_coordinate, (2,), LEVELS, config=config, progress=False)
    pairs = (torch.ones(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="where the reference is the student without its adapters"):
        train_pso_offline(Adapted(), *pairs, config=config, progress=False)


WIDE = [4.0, 2.0, 1.0, 0.5, 0.0]


def samples(model, label, count=2000):
    """Return samples [n, 2] of a few-step model, and the divergence of a step from the start's, per element."""
    draw = torch.Generator().manual_seed(5)
    start, labels = student(num_classes=2), torch.full((count,), label)
    x, divergence = WIDE[0] * torch.randn(count, 2, generator=draw), 0.0
    with torch.no_grad():
        for s, u in itertools.pairwise(WIDE):
            denoised = model(x, s, class_label=labels)
            if u > 0:
                difference = denoised - start(x, s, class_label=labels)
                divergence += float((difference.square() / (2 * u**2)).mean()) / 3
            x = denoised + u * torch.randn(count, 2, generator=draw)
    return x, divergence


def test_a_run_raises_the_reward_and_beta_bounds_the_divergence():
    config = DistillConfig(
        steps=150, batch_size=64, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9
    )
    divergences = {}
    for beta in (50.0, 10.0):
        result = train_pso(
            student(num_classes=2),
            first_coordinate,
            (2,),
            WIDE,
            labels=torch.tensor([0, 1]),
            beta=beta,
            config=config,
            progress=False,
        )
        assert float(result.losses[0]) == pytest.approx(math.log(2), abs=1e-3)
        assert float(result.losses[-20:].mean()) < 0.65
        for label in (0, 1):
            before, _ = samples(student(num_classes=2), label)
            after, divergences[beta] = samples(result.model, label)
            # the two classes ask for opposite directions
            gain = first_coordinate(after, label) - first_coordinate(before, label)
            assert float(gain.mean()) > max(0.03, 5 * float(gain.std()) / 2000**0.5)
    assert 1e-4 < divergences[50.0] < 0.005
    assert 3 * divergences[50.0] < divergences[10.0] < 0.05


def test_loggers_receive_the_loss_and_a_loss_that_is_not_finite_ends_the_run():
    records = []
    config = DistillConfig(log_every=4, **SETTINGS)
    options = {"config": config, "progress": False}
    loggers = [lambda step, values: records.append((step, values))]
    train_pso(student(), first_coordinate, (2,), LEVELS, loggers=loggers, **options)
    assert len(records) == 3
    broken = student()
    nn.init.constant_(broken.backbone.output.weight, math.nan)
    with pytest.raises(FloatingPointError, match="the x of row 0 of the batch"):
        train_pso(broken, first_coordinate, (2,), LEVELS, **options)


@pytest.mark.parametrize("kind", [Denoiser, EnergyModel])
def test_a_resumed_run_equals_an_uninterrupted_one(kind, tmp_path):
    def run(calls=None, **options):
        count = 0

        def reward(x):
            nonlocal count
            count += 1
            if calls is not None and count > calls:
                raise KeyboardInterrupt
            return first_coordinate(x)

        config = DistillConfig(**(SETTINGS | {"checkpoint": options.pop("checkpoint", None)}))
        arguments = {"config": config, "progress": False} | options
        return train_pso(student(kind), reward, (2,), LEVELS, **arguments)

    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="step 7"):
        run(7, checkpoint=path)
    resumed, whole = run(checkpoint=path, resume_from=path), run()
    assert torch.equal(resumed.losses, whole.losses)
    expected = whole.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())
    for other in ({"beta": 3.0}, {"reference": Constant().float()}):
        with pytest.raises(ValueError, match="belongs to another run"):
            run(checkpoint=path, resume_from=path, **other)


def test_accumulated_parts_equal_the_whole_batch():
    losses = [
        train_pso(
            student(),
            first_coordinate,
            (2,),
            LEVELS,
            config=DistillConfig(accumulate=n, **SETTINGS),
            progress=False,
        ).losses
        for n in (1, 4)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.slow
def test_a_compiled_run_equals_an_eager_one():
    config = DistillConfig(**SETTINGS)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        runs = [
            train_pso(
                student(),
                first_coordinate,
                (2,),
                LEVELS,
                config=dataclasses.replace(config, compile=compiled),
                progress=False,
            )
            for compiled in (False, True)
        ]
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sigmas": [1.0, 0.0]}, ValueError, "sigmas must be at least two positive levels"),
        ({"sigmas": [1.0, 2.0]}, ValueError, "must decrease strictly"),
        ({"clip": 1.0}, ValueError, "clip must be below 1, given 1"),
        ({"beta": 0.0}, ValueError, "beta must be positive"),
        ({"reward": 3}, TypeError, "reward must be a function of samples, given int"),
        ({"labels": torch.zeros(3)}, TypeError, "labels must be an int64 tensor"),
        ({"labels": torch.zeros(3).long()}, TypeError, "accepts no conditions"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"reward": first_coordinate, "shape": (2,), "sigmas": LEVELS} | change
    with pytest.raises(error, match=message):
        train_pso(Constant() if "labels" in change else student(), **arguments, progress=False)
