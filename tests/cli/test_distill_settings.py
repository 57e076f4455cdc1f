"""Settings of `edmfast distill` of a wrong type are refused by their names, before any work is done."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from edmfast.cli.main import app
from edmfast.cli.training.settings import read_settings
from edmfast.models import Denoiser, UNet, load_model, save_model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out = 3", "out must be a text, given 3"),
        ("teacher.path = 3", "teacher.path must be a text, given 3"),
        ('teacher.dtype = ["float32"]', "teacher.dtype must be a text"),
        ("data.shape = 3", "data.shape must be a list, given 3"),
        ('student.network = ["UNet"]', "student.network must be a text"),
        ("student.potential = 3", "student.potential must be a text"),
        ("student.config = 3", "student.config must be a table, given 3"),
        ('log.json = "no"', "log.json must be true or false, given 'no'"),
        ("log.tensorboard = 3", "log.tensorboard must be true or false or a text, given 3"),
        ('log.wandb = "project"', "log.wandb must be true or false or a table"),
    ],
)
def test_types_of_settings(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(path, {} if "out" in text else {"out": "x"}, ())
    # the same setting as an option
    with pytest.raises(ValueError, match=message):
        read_settings(None, {"out": "x"}, [text])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.steps=3\nx = 4"], "value of several lines"),
        (["student.config=3", "student.config.width=4"], "student.config must be a table"),
    ],
)
def test_changes_that_would_get_lost(changes, message):
    with pytest.raises(ValueError, match=message):
        read_settings(None, {"out": "x"}, changes)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_model(Denoiser(UNet(1, channels=(8,), groups=4)), "teacher.safetensors")
    return tmp_path


def run(*changes):
    options = [part for change in changes for part in ("--set", change)]
    arguments = ["--teacher", "teacher.safetensors", "--out", "run", *options]
    return CliRunner().invoke(app, ["distill", *arguments])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.generate=12.7", "data.shape=[1, 4, 4]"], "data.generate must be an integer"),
        (["data.generate=true", "data.shape=[1, 4, 4]"], "data.generate must be an integer"),
        (["data.generate=9", "data.nfe=0", "data.shape=[1, 4, 4]"], "data.nfe must be an integer"),
        (["train.keep_best=yes"], "keep_best must be True or False"),
    ],
)
def test_numbers_and_switches(folder, changes, message):
    done = run(*changes)
    assert done.exit_code == 2
    assert message in done.output


def test_an_unknown_argument_of_the_network(folder):
    sizes = "data.generate=9", "data.nfe=3", "data.shape=[1, 4, 4]"
    done = run(*sizes, "student.network=UNet", "student.config.widths=[8]")
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "student.config does not fit UNet (got an unexpected keyword argument 'widths')" in said
    assert "whose arguments are in_channels, channels" in said


def test_a_teacher_of_another_dtype_gives_its_dtype_to_the_student(folder):
    sizes = ["data.generate=9", "data.nfe=3", "data.shape=[1, 4, 4]"]
    training = ["train.steps=2", "train.batch_size=4"]
    done = run("teacher.dtype=float64", *sizes, *training)
    assert done.exit_code == 0, done.output
    model = load_model("run/model.safetensors")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
