"""An interrupted and resumed run equals an uninterrupted run, bit for bit on the CPU."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from edmfast._internal.files import read_tensors
from edmfast.distill import DistillConfig, distill, load_ema
from edmfast.models import EnergyModel, ResidualMLP, UNet, save_model

SETTINGS = {"steps": 24, "batch_size": 16, "warmup_steps": 5, "checkpoint_every": 9}


def stopping_after(teacher, calls):
    """Return the teacher as a function that raises KeyboardInterrupt at call number `calls`."""
    count = 0

    def call(*arguments, **condition):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return teacher(*arguments, **condition)

    # differences have other targets where the teacher offers no exact trace
    call.jacobian_trace = teacher.jacobian_trace
    return call


@pytest.mark.parametrize("stop", [1, 7, 18])
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_resumed_equals_uninterrupted(stop, weight, teacher, data, student, tmp_path):
    config = DistillConfig(
        difference_weight=weight, checkpoint=tmp_path / "run.safetensors", **SETTINGS
    )
    calls_per_step = 2 if weight else 1
    interrupted = stopping_after(teacher, stop * calls_per_step)
    with pytest.raises(KeyboardInterrupt, match=f"step {stop}"):
        distill(interrupted, student(), data, config=config, progress=False)
    torch.manual_seed(123)
    other = student()
    torch.nn.init.normal_(other.backbone.output.weight)
    resumed = distill(
        teacher, other, data, config=config, resume_from=config.checkpoint, progress=False
    )
    plain = dataclasses.replace(config, checkpoint=None)
    whole = distill(teacher, student(), data, config=plain, progress=False)
    assert torch.equal(resumed.losses, whole.losses)
    expected = whole.model.state_dict()
    weights = resumed.model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_class_conditional_unet_resumes_exactly(tmp_path):
    torch.manual_seed(0)
    samples, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 3
    settings = {"mode": "dsm", "label_dropout": 0.3, "steps": 6, "batch_size": 33}
    path = tmp_path / "run.safetensors"

    def student():
        torch.manual_seed(1)
        return EnergyModel(UNet(1, (8, 16), groups=4, num_classes=3, patch=2))

    constant = DistillConfig(schedule="constant", checkpoint=path, **settings)
    shorter = dataclasses.replace(constant, steps=3)
    distill(None, student(), (samples, labels), config=shorter, progress=False)
    longer = distill(
        None, student(), (samples, labels), config=constant, resume_from=path, progress=False
    )
    whole = distill(
        None, student(), (samples, labels), config=constant, progress=False, overwrite=True
    )
    assert torch.equal(longer.losses, whole.losses)


def test_a_finished_run_returns_at_once(teacher, data, student, tmp_path):
    config = DistillConfig(checkpoint=tmp_path / "run.safetensors", **SETTINGS)
    whole = distill(teacher, student(), data, config=config, progress=False)
    assert whole.checkpoint == tmp_path / "run.safetensors"
    again = distill(
        stopping_after(teacher, 1),  # one call checks that the teacher is that of the checkpoint
        student(),
        data,
        config=config,
        resume_from=whole.checkpoint,
        progress=False,
    )
    assert again.step == 24
    assert torch.equal(again.losses, whole.losses)
    x = torch.randn(5, 2)
    assert torch.equal(again.model(x, 0.5), whole.model(x, 0.5))
    assert torch.equal(load_ema(whole.checkpoint, student()).eval()(x, 0.5), whole.model(x, 0.5))


@pytest.fixture
def checkpoint(teacher, data, student, tmp_path):
    config = DistillConfig(checkpoint=tmp_path / "run.safetensors", **SETTINGS)
    distill(teacher, student(), data, config=config, progress=False)
    return config.checkpoint


def shortened(path, _):
    path.write_bytes(path.read_bytes()[:-100])


def without_a_tensor(path, _):
    tensors, _ = read_tensors(path)
    del tensors["second_moment.backbone.output.bias"]
    _rewrite(path, tensors)


def with_a_loss_too_few(path, _):
    tensors, _ = read_tensors(path)
    tensors["run.losses"] = tensors["run.losses"][:-1].clone()
    _rewrite(path, tensors)


def _rewrite(path, tensors):
    """Write a file without checksums, which would detect the damage before the check under test does."""
    _, metadata = read_tensors(path)
    save_file(tensors, path, metadata={"edmfast": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shortened, "not a readable safetensors file"),
        (without_a_tensor, r"no second_moment\.backbone\.output\.bias"),
        (with_a_loss_too_few, "this run ends at"),
        (lambda path, model: save_model(model, path, overwrite=True), "holds 'edmfast-model'"),
        (lambda path, _: save_file({"a": torch.zeros(1)}, path), "not written by edmfast"),
    ],
)
def test_damaged_checkpoints(damage, message, checkpoint, teacher, data, student):
    damage(checkpoint, student())
    config = DistillConfig(**SETTINGS)
    with pytest.raises(ValueError, match=message):
        distill(teacher, student(), data, config=config, resume_from=checkpoint, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"config\.seed is 0 there and 1 here"),
        ({"steps": 30}, r"config\.steps is 24 there and 30 here"),
        ({"difference_weight": 0.5}, r"config\.difference_weight"),
    ],
)
def test_checkpoints_of_other_settings(changes, message, checkpoint, teacher, data, student):
    config = DistillConfig(**{**SETTINGS, **changes})
    with pytest.raises(ValueError, match=message):
        distill(teacher, student(), data, config=config, resume_from=checkpoint, progress=False)


def test_checkpoints_of_other_models_and_data(checkpoint, teacher, data, student):
    def resume(model, samples=data):
        config = DistillConfig(**SETTINGS)
        distill(teacher, model, samples, config=config, resume_from=checkpoint, progress=False)

    with pytest.raises(ValueError, match=r"student\.tensors\.backbone.* is \['torch.float32'"):
        resume(student(8))
    with pytest.raises(ValueError, match="only in this run"):
        resume(student(num_classes=3))
    with pytest.raises(ValueError, match=r"student\.sigma_data is 0\.9 there and 0\.5 here"):
        resume(EnergyModel(ResidualMLP(2, 16, 2, embedding_width=8)))
    with pytest.raises(ValueError, match=r"data is \[2000, 2\] there and \[5, 2\] here"):
        resume(student(), data[:5])
    with pytest.raises(ValueError, match="to another run"):
        load_ema(checkpoint, student(8))
    with pytest.raises(FileNotFoundError):
        load_ema(checkpoint.with_name("none"), student())
