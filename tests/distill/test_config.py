"""DistillConfig refuses invalid settings, its schedules are as documented, and help() explains every field."""

import dataclasses
import inspect
import json
import math
import re

import numpy as np
import pytest
import torch

from edmfast.distill import DistillConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "dms"}, "'distill', 'dsm'"),
        ({"schedule": "linear"}, "'cosine', 'constant'"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"seed": 2**64}, "seed must fit 64 bits"),
        ({"p_mean": 100.0}, "p_mean"),
        ({"p_std": 1e3}, "p_std"),
        ({"betas": (0.9,)}, "betas must be a pair"),
        ({"difference_sigmas": (1e-30, 1.0)}, "difference_sigmas must be from"),
        ({"difference_sigmas": (0.1, math.nan)}, "difference_sigmas"),
        ({"p_std": 0.0}, "p_std"),
        ({"p_mean": math.nan}, "p_mean"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"label_dropout": 1.5}, "label_dropout"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"difference_weight": -0.1}, "difference_weight"),
        ({"difference_sigmas": (2.0, 1.0)}, "lowest < highest"),
        ({"difference_steps": (0, 4)}, "fewest"),
        ({"difference_weight": 0.1, "batch_size": 2}, "batch_size >= 4"),
        ({"value_weight": -0.1}, "value_weight"),
        ({"value_weight": 0.1, "batch_size": 6}, "batch_size >= 8"),
        ({"value_paths": 1}, "value_paths"),
        ({"value_levels": 1}, "value_levels"),
        ({"value_refresh": -1}, "value_refresh"),
        ({"value_sigmas": (2.0, 1.0)}, "value_sigmas must be 0 < lowest < highest"),
        ({"value_sigmas": (1e-30, 1.0)}, "value_sigmas must be from"),
        ({"value_sigmas": (1.0,)}, "value_sigmas must be a pair"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**settings)


def test_learning_rate_warms_up_then_falls_to_zero():
    config = DistillConfig(steps=100, warmup_steps=10, learning_rate=2.0)
    assert config.learning_rate_at(0) == pytest.approx(0.2)
    assert config.learning_rate_at(50) == pytest.approx(1.0)
    assert config.learning_rate_at(99) < 1e-3
    constant = DistillConfig(steps=100, warmup_steps=10, learning_rate=2.0, schedule="constant")
    assert constant.learning_rate_at(4) == pytest.approx(1.0)
    assert constant.learning_rate_at(99) == 2.0


def test_settings_of_a_loss_that_is_not_computed_do_not_count():
    plain = DistillConfig().trajectory()
    assert plain == DistillConfig(value_levels=5, value_sigmas=(0.1, 9.0)).trajectory()
    # checkpoints of earlier versions have none of these settings
    assert not [name for name in plain if name.startswith("value_")]
    valued = DistillConfig(value_weight=0.1, value_sigmas=(0.1, 9.0)).trajectory()
    assert json.loads(json.dumps(valued)) == valued
    assert valued != DistillConfig(value_weight=0.1, value_sigmas=(0.1, 8.0)).trajectory()


def test_averaging_warms_up():
    config = DistillConfig(ema_decay=0.99)
    assert config.ema_decay_at(0) == pytest.approx(0.1)
    assert config.ema_decay_at(10**6) == 0.99


def test_trajectory_is_json_and_leaves_out_what_does_not_matter():
    first = DistillConfig(checkpoint="a", checkpoint_every=3, compile=True)
    second = DistillConfig(checkpoint=None, checkpoint_every=7, activation_checkpointing=True)
    assert json.loads(json.dumps(first.trajectory())) == first.trajectory() == second.trajectory()
    assert first.trajectory() != DistillConfig(steps=1).trajectory()
    constant = DistillConfig(schedule="constant")
    assert constant.trajectory() == DistillConfig(schedule="constant", steps=1).trajectory()


@pytest.mark.parametrize(
    "settings", [{"steps": 2.5}, {"seed": True}, {"seed": 1.5}, {"betas": 0.9}, {"p_std": "1"}]
)
def test_what_is_no_number_is_refused_by_its_name(settings):
    with pytest.raises(TypeError, match=next(iter(settings))):
        DistillConfig(**settings)


def test_numbers_of_numpy_and_torch_become_those_of_python():
    config = DistillConfig(
        steps=np.int64(3),
        seed=torch.tensor(-1),
        learning_rate=np.float32(0.5),
        betas=np.array([0.5, 0.75]),
        clip_norm=torch.tensor(2.0),
        difference_steps=(np.int8(2), np.int8(4)),
    )
    plain = DistillConfig(
        steps=3,
        seed=-1,
        learning_rate=0.5,
        betas=(0.5, 0.75),
        clip_norm=2.0,
        difference_steps=(2, 4),
    )
    assert config == plain
    assert hash(config) == hash(plain)
    assert json.dumps(config.trajectory()) == json.dumps(plain.trajectory())


def test_help_explains_every_field():
    text = inspect.getdoc(DistillConfig)
    names = [field.name for field in dataclasses.fields(DistillConfig)]
    assert [name for name in names if not re.search(rf"\b{name}\b[\w, ]*:", text)] == []


@pytest.mark.parametrize("name", ["compile", "activation_checkpointing", "shard", "keep_best"])
def test_a_text_is_no_switch(name):
    for value in ("no", 1, None):
        with pytest.raises(TypeError, match=f"{name} must be True or False"):
            DistillConfig(**{name: value})


def test_neighbouring_levels_of_differences_are_told_apart():
    for sigmas, steps in (((1.0, 1.0000001), (1, 1)), ((0.9, 1.0), (16, 100_000))):
        with pytest.raises(ValueError, match="single precision cannot tell apart"):
            DistillConfig(difference_sigmas=sigmas, difference_steps=steps)
    DistillConfig(difference_sigmas=(0.9, 1.0), difference_steps=(16, 10_000))
