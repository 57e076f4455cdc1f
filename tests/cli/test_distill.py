"""`edmfast distill` trains from options and TOML files, estimates before, goes on after, and explains mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edmfast._internal.files import read_tensors
from edmfast.cli.main import app
from edmfast.cli.training.estimate import duration
from edmfast.cli.training.settings import read_settings
from edmfast.models import Denoiser, EnergyModel, SongUNet, TwoHeads, UNet, load_model, save_model
from tests.process_groups import torchrun

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "configs" / "digits.toml"
CONFIGS = sorted({*DIGITS.parent.glob("*.toml")} - {DIGITS})
QUICK = ["--steps", "4", "--batch-size", "8", "--set", "train.warmup_steps=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a teacher and data, to which the command may write."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    backbone = UNet(1, channels=(8,), groups=4, num_classes=3)
    torch.nn.init.normal_(backbone.output.weight, std=0.1)
    save_model(Denoiser(backbone), "teacher.safetensors")
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), dtype=np.uint8)
    np.savez("data.npz", images=images, labels=np.arange(40) % 3)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["distill", *map(str, arguments)])


def trained(*arguments):
    done = run("--teacher", "teacher.safetensors", "--data", "data.npz", *QUICK, *arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_run_leaves_model_records_and_settings(folder):
    text = trained("--out", "run", "--set", "train.log_every=2", "--flip")
    assert "student: EnergyModel of UNet" in text
    assert "80 samples; batch 8; 4 steps on cpu" in text
    model = load_model("run/model.safetensors")
    assert isinstance(model, EnergyModel)
    records = Path("run/records.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in records]
    assert steps == [2, 4]
    assert json.loads(Path("run/settings.json").read_text())["train"]["steps"] == 4
    # the start is the teacher's, with a scale that was fitted
    assert not torch.equal(model.scale.values, torch.ones_like(model.scale.values))


def test_options_win_over_the_file(folder):
    Path("run.toml").write_text(
        'out = "a"\nteacher = "teacher.safetensors"\ndata = "data.npz"\n'
        "[train]\nsteps = 100\nbatch_size = 8\nlearning_rate = 1\n[student]\nstart = 'zero'\n"
    )
    done = run("--config", "run.toml", "--steps", "3", "--set", "train.learning_rate=0.001")
    assert done.exit_code == 0, done.output
    metadata = read_tensors("a/run.safetensors")[1]
    assert metadata["step"] == 3
    assert metadata["config"]["learning_rate"] == 0.001
    assert metadata["config"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--mode", "dsm", "--network", "UNet"], EnergyModel),
        (["--mode", "two_heads", "--network", "UNet"], TwoHeads),
        (["--network", "UNet", "--set", "student.kind=denoiser"], Denoiser),
    ],
)
def test_kinds_of_students(folder, arguments, kind):
    config = "--set student.config.in_channels=1 --set student.config.channels=[8] "
    config += "--set student.config.groups=4 --set student.config.num_classes=3"
    if kind is TwoHeads:
        config += " --set student.config.out_channels=2"
    trained("--out", "run", *arguments, *config.split())
    assert isinstance(load_model("run/model.safetensors"), kind)


def test_a_dry_run_tells_parameters_memory_and_time_and_writes_nothing(folder):
    text = trained("--out", "run", "--dry-run", "--set", "train.steps=1000")
    parameters = sum(p.numel() for p in load_model("teacher.safetensors").parameters())
    assert f"trained parameters: {parameters:,}" in text
    assert "GiB before the first step" in text
    assert "for 1,000 steps" in text
    assert [*Path("run").iterdir()] == []


def test_results_of_another_run_are_kept_and_runs_go_on(folder):
    trained("--out", "run", "--set", "train.schedule=constant")
    done = run("--teacher", "teacher.safetensors", "--data", "data.npz", *QUICK, "--out", "run")
    assert done.exit_code == 2
    assert "--resume continues it" in done.output
    more = ["--set", "train.schedule=constant", "--steps", "6", "--resume"]
    text = trained("--out", "run", *more)
    assert text.startswith("student")
    assert "6 steps, mean loss" in text
    trained("--out", "fresh", *more)
    again, whole = (load_model(f"{name}/model.safetensors") for name in ("run", "fresh"))
    pairs = zip(again.parameters(), whole.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_without_data_the_teacher_draws_them(folder):
    done = run(
        *("--teacher", "teacher.safetensors", "--generate", 10, *QUICK, "--out", "run"),
        *("--set", "data.shape=[1, 8, 8]", "--set", "data.nfe=5"),
    )
    assert done.exit_code == 0, done.output
    assert "10 samples" in done.output
    assert Path("run/generated.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "data.npz"], "there is no teacher"),
        (["--teacher", "teacher.safetensors"], "there are no data"),
        (["--teacher", "x.safetensors", "--data", "data.npz"], "x.safetensors"),
        (["--set", "train.stepz=3"], "unknown setting train.stepz, did you mean train.steps?"),
        (["--set", "train.steps"], "takes NAME=VALUE"),
        (["--set", "stduent.start=zero"], "unknown setting stduent"),
        (["--teacher", "teacher.safetensors", "--data", "data.npz", "--mode", "x"], "mode must"),
        (["--teacher", "teacher.safetensors", "--data", "data.npz", "--network", "X"], "must be"),
        (["--teacher", "teacher.safetensors", "--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_told_on_one_line(folder, arguments, message):
    done = run("--out", "run", *arguments)
    assert done.exit_code == 2
    lines = done.output.strip().splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("edmfast distill: ")


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("steps = = 3")
    with pytest.raises(ValueError, match=r"run.toml cannot be read as TOML"):
        read_settings(path, {"out": "x"}, ())
    path.write_text("steps = 3")
    with pytest.raises(ValueError, match="unknown setting steps"):
        read_settings(path, {"out": "x"}, ())


def test_durations_in_words():
    assert duration(12.34) == "12.3 s"
    assert duration(3 * 60 + 20) == "3 min"
    assert duration(2 * 3600 + 61) == "2 h 1 min"
    assert duration(50 * 3600) == "2 d 2 h"


def test_the_configuration_for_digits_trains(folder):
    quick = ["--steps", "2", "--batch-size", "8", "--out", "run"]
    quick += ["--set", "train.value_paths=16", "--set", "train.value_levels=4"]
    done = run("--config", DIGITS, "--teacher", "teacher.safetensors", "--data", "data.npz", *quick)
    assert done.exit_code == 0, done.output
    assert read_tensors("run/run.safetensors")[1]["config"]["value_weight"] == 0.0003


def true_network(name):
    """Return the network of a configuration's teacher: EDM's architecture, with random weights."""
    wide = [1, 2, 2, 2] if name in ("ffhq64", "afhqv2") else [2, 2, 2]
    size = 64 if len(wide) == 4 else 32
    labels = 10 if name == "cifar10_conditional" else 0
    return SongUNet(
        size, 3, 3, label_dim=labels, augment_dim=9, model_channels=128, channel_mult=wide
    ), size


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_trains_the_true_architecture(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    settings = read_settings(config, {}, ())
    network, size = true_network(config.stem)
    # the papers' networks have about this many millions of parameters
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(56 if size == 32 else 62, abs=1)
    save_model(Denoiser(network), "teacher.safetensors")
    images = np.random.default_rng(0).integers(0, 255, (4, size, size, 3), dtype=np.uint8)
    np.savez("data.npz", images=images, labels=np.arange(4))
    small = {"steps": 1, "batch_size": 1, "compile": "false", "checkpoint_every": 1}
    done = run(
        *("--config", config, "--teacher", "teacher.safetensors", "--data", "data.npz"),
        *("--out", "run", "--device", "cpu", "--set", "student.fit_samples=1"),
        *(word for name, value in small.items() for word in ("--set", f"train.{name}={value}")),
    )
    assert done.exit_code == 0, done.output
    assert settings.out == Path("runs") / config.stem
    assert isinstance(load_model("run/model.safetensors").backbone, SongUNet)


def test_torchrun_trains_as_one_process(folder):
    trained("--out", "one", "--set", "train.checkpoint_every=2")
    options = ["--out", "two", *QUICK, "--teacher", "teacher.safetensors", "--data", "data.npz"]
    done = torchrun(2, "-m", "edmfast.cli", "distill", *options, "--device", "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("mean loss of the last") == 1
    assert "4 on each of 2 ranks" in done.stdout
    one, two = (load_model(f"{name}/model.safetensors") for name in ("one", "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


FOREIGN = """
import torch

def denoise(x, noise, y=None):
    return x / (1 + noise.view(-1, 1, 1, 1) ** 2) if y is None else x * 0 + y.view(-1, 1, 1, 1)
"""
UNET = "--network UNet --set student.config.in_channels=1 --set student.config.channels=[8] "
UNET += "--set student.config.groups=4 --set student.config.num_classes=3"


def test_a_teacher_of_the_program_has_its_own_name_for_labels(folder, monkeypatch):
    Path("foreign.py").write_text(FOREIGN)
    given = ["--teacher", "foreign:denoise", "--data", "data.npz", "--out", "run", *QUICK]
    done = run(*given, *UNET.split())
    assert done.exit_code == 2
    assert "add --set teacher.condition_names.class_label=NAME" in done.output
    assert "--set data.labels=false leaves them out" in done.output
    done = run(*given)
    assert "has no attribute backbone" in done.output
    assert "--network UNet" in done.output
    done = run(*given, *UNET.split(), "--set", "teacher.condition_names.class_label=y")
    assert done.exit_code == 0, done.output
    assert "teacher: denoise\n" in done.output


def test_a_run_goes_on_with_the_settings_in_its_folder(folder):
    trained("--out", "run", "--set", "train.schedule=constant", "--flip")
    done = run("--out", "run", "--resume", "--steps", "6")
    assert done.exit_code == 0, done.output
    assert "80 samples; batch 8; 6 steps" in done.output
    assert "mean loss of the last 6 steps" in done.output
    settings = json.loads(Path("run/settings.json").read_text())
    assert settings["train"] == {
        "steps": 6,
        "batch_size": 8,
        "warmup_steps": 1,
        "schedule": "constant",
    }


def test_a_student_that_could_not_be_saved_is_refused_before_its_training(folder):
    Path("mine.py").write_text(
        "import torch\nfrom edmfast.models import Denoiser\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = torch.nn.Conv2d(1, 1, 1)\n"
        "    def forward(self, y, c_noise, class_label=None):\n"
        "        return self.inner(y)\n"
        "teacher = Denoiser(Net())\n"
    )
    done = run("--teacher", "mine:teacher", "--data", "data.npz", "--out", "run", *QUICK)
    assert done.exit_code == 2
    assert "backbone Net is not registered" in done.output
    assert not Path("run/run.safetensors").exists()


def test_labels_are_left_out_where_the_teacher_has_no_classes(folder):
    torch.manual_seed(0)
    save_model(Denoiser(UNet(1, channels=(8,), groups=4)), "plain.safetensors")
    given = ["--teacher", "plain.safetensors", "--data", "data.npz", "--out", "run", *QUICK]
    done = run(*given)
    assert done.exit_code == 0, done.output
    done = run(*given, "--overwrite", "--set", "data.labels=true")
    assert done.exit_code == 2
    assert "takes no class_label" in done.output
    done = run("--teacher", "plain.safetensors", "--generate", "8", "--out", "run", "--overwrite")
    assert "add --set data.shape=[3,32,32]" in done.output
