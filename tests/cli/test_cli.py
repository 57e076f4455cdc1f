"""Test that `edmfast sample` turns files into weighted samples and pictures, and reports each mistake in one line.

A network whose last layer is zero is the energy of a Gaussian, so log Z has a closed form:
d/2 log((sigma_min² + sigma_data²) / sigma_max²) for every exponent.
"""

from __future__ import annotations

import math
import os
import sys

import pytest
import torch
from typer.testing import CliRunner

from edmfast import smc
from edmfast.cli.main import app
from edmfast.cli.request import read_values
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, UNet, save_model

LEVELS = ["--sigma-max", "5", "--sigma-min", "0.1", "--steps", "8"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with saved models, to which the command may write."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    save_model(EnergyModel(ResidualMLP(2, width=16, depth=1), sigma_data=0.5), "half")
    save_model(EnergyModel(ResidualMLP(2, width=16, depth=1), sigma_data=1.5), "wide")
    labelled = EnergyModel(ResidualMLP(16, width=16, depth=1, num_classes=3))
    torch.nn.init.normal_(labelled.backbone.output.weight, std=0.1)
    save_model(labelled, "labelled")
    save_model(Denoiser(ResidualMLP(16, width=16, depth=1)), "denoiser")
    save_model(EnergyModel(UNet(1, channels=(8,), groups=4)), "unet")
    return tmp_path


def sample(*arguments):
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


def test_a_tempered_model(folder):
    done = sample(
        *("half", "--target", "tempered(model, 2)", "--particles", 200, "--populations", 20),
        *("--out", "s.safetensors", "--png", "s.png", "--seed", 3, "--weights", "energy", *LEVELS),
    )
    assert done.exit_code == 0, done.output
    result = smc.Particles.load("s.safetensors")
    assert result.x.shape == (20, 200, 2)
    assert result.seed == 3
    assert result.sigmas[0] == 5
    assert result.sigmas[-1] == 0
    truth = math.log((0.01 + 0.25) / 25)
    value, error = result.log_z_estimate()
    assert abs(float(value) - truth) < 3 * float(error) + 1e-6
    assert f"log Z: {result.log_z_estimate()} nats" in done.output
    assert "law: exact" in done.output
    rows = [line.split() for line in done.output.splitlines() if line.strip()[:1].isdigit()]
    table = [row for row in rows if len(row) == 6]
    assert [int(row[0]) for row in table] == list(range(20))
    assert [int(row[4]) for row in table] == result.unique_ancestors.tolist()
    assert [int(row[3]) for row in table] == result.resampled.sum(0).tolist()
    assert (folder / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert "wrote s.safetensors, s.png" in done.output


def test_several_models_and_one_exponent_for_each_population(folder):
    target = "product([a, b], exponents=[1, [0, 1, 3]])"
    options = ["--particles", "2000", "--weights", "energy", "--out", "p", *LEVELS]
    done = sample("--model", "a=half", "--model", "b=wide", "--target", target, *options)
    assert done.exit_code == 0, done.output
    assert "±" not in done.output  # populations of different targets have no common log Z
    result = smc.Particles.load("p")
    assert len(result.x) == 3
    precision = torch.tensor([0.0, 1.0, 3.0]) / (0.01 + 2.25) + 1 / (0.01 + 0.25)
    truth = torch.log((1 + torch.tensor([0.0, 1.0, 3.0])) / 25 / precision).double()
    torch.testing.assert_close(result.log_z, truth, rtol=0, atol=0.1)


def test_class_labels_are_one_for_each_population(folder):
    options = ["--shape", "1,4,4", "--particles", "8", "--out", "p", "--png", "p.png", *LEVELS]
    done = sample("labelled", "--class-label", "0..2", *options)
    assert done.exit_code == 0, done.output
    result = smc.Particles.load("p")
    assert result.x.shape == (3, 8, 1, 4, 4)
    single = sample("labelled", "--condition", "class_label=0", "--populations", 1, *options)
    assert single.exit_code == 0, single.output
    assert torch.equal(smc.Particles.load("p").x[0], result.x[0])
    target = (
        "guided(conditioned(model, class_label=3), conditioned(model, class_label=[0, 1, 2]), 2)"
    )
    guided = sample("labelled", "--target", target, *options)
    assert guided.exit_code == 0, guided.output
    assert smc.Particles.load("p").x.shape == (3, 8, 1, 4, 4)


def test_weights_are_those_of_the_option(folder):
    laws = {"auto": "energies weigh the steps", "reversal": "reversal-matched", "energy": "exact"}
    for weights, law in laws.items():
        done = sample("half", "--particles", 8, "--weights", weights, "--out", "p", *LEVELS)
        assert done.exit_code == 0, done.output
        assert f"law: {law}" in done.output
    refused = sample("half", "--weights", "heavy", "--out", "p", *LEVELS)
    assert refused.exit_code != 0
    assert "unknown weights 'heavy'" in refused.output


def test_a_denoiser_is_sampled_without_weights(folder):
    done = sample("denoiser", "--particles", 5, "--out", "p", *LEVELS)
    assert done.exit_code == 0, done.output
    assert "law: plain sampler" in done.output
    assert smc.Particles.load("p").x.shape == (1, 5, 16)


def test_a_calibration_is_written_and_used_again(folder):
    several = ["half", "--target", "tempered(model, [1, 2, 3])", "--calibration", "c.json"]
    pilot = ["--calibrate", "--pilot-steps", 16]
    assert sample(*several, *pilot, "--out", "p", *LEVELS).exit_code == 0
    levels = smc.Calibration.load("c.json").sigmas
    first = smc.Particles.load("p")
    assert first.x.shape == (3, 64, 2)
    assert first.sigmas.tolist() == list(levels)
    assert sample(*several, "--out", "q").exit_code == 0
    assert torch.equal(smc.Particles.load("q").x, first.x)


def test_other_options_reach_the_run(folder):
    done = sample(
        *("half", "--out", "p", "--proposal", "euler", "--weighted-above", 1.0),
        *("--particles", 50, *LEVELS),
    )
    assert done.exit_code == 0, done.output
    result = smc.Particles.load("p")
    below = result.sigmas[result.sigmas > 0] < 1.0
    assert not result.resampled[below].any()
    assert sample("half", "--out", "q", "--particles", 50, *LEVELS).exit_code == 0
    assert not torch.equal(smc.Particles.load("q").x, result.x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (LEVELS, "no model was given"),
        (["half", *LEVELS], "nothing to write: give --out, --png or both"),
        (["half", "--out", "p"], "need --sigma-max and --sigma-min"),
        (["half", "--out", "p", "--sigma-max", "5"], "need --sigma-min"),
        (["none", "--out", "p", *LEVELS], "no file none"),
        (["broken", "--out", "p", *LEVELS], "broken is not a readable safetensors file"),
        (["half", "--out", "no/p", *LEVELS], "cannot write no/p: there is no folder"),
        (["half", "--out", ".", *LEVELS], "it is a folder"),
        (["half", "--out", "p", "--target", "tempered(mode, 2)", *LEVELS], "unknown name 'mode'"),
        (["half", "--out", "p", "--target", "exit()", *LEVELS], "unknown function 'exit'"),
        (["--model", "half", "--out", "p", *LEVELS], "--model takes NAME=PATH, got 'half'"),
        (
            ["half", "--model", "model=wide", "--out", "p", *LEVELS],
            "two models are called 'model'",
        ),
        (
            ["half", "--model", "b=wide", "--out", "p", *LEVELS],
            "say with --target what to make of model, b",
        ),
        (["unet", "--out", "p", *LEVELS], "give --shape"),
        (["half", "--out", "p", "--shape", "2,x", *LEVELS], "--shape takes integers"),
        (["half", "--out", "p", "--shape", "3", *LEVELS], "2 numbers|dim|must be"),
        (["denoiser", "--png", "p", *LEVELS], "not samples of shape (16,)"),
        (["labelled", "--out", "p", "--class-label", "a", *LEVELS], "takes numbers such as 3"),
        (["labelled", "--out", "p", "--class-label", "3..1", *LEVELS], "no values"),
        (["labelled", "--out", "p", "--class-label", "9", *LEVELS], "must lie in 0..3"),
        (["half", "--out", "p", "--class-label", "1", *LEVELS], "num_classes=None"),
        (["labelled", "--out", "p", "--condition", "x", *LEVELS], "--condition takes NAME=VALUES"),
        (
            ["labelled", "--out", "p", "--class-label", "1,2", "--populations", "3", *LEVELS],
            "[2] values for 3 populations",
        ),
        (["half", "--out", "p", "--proposal", "heun", *LEVELS], "unknown proposal 'heun'"),
        (["half", "--out", "p", "--device", "nowhere", *LEVELS], "no device 'nowhere'"),
        (["half", "--out", "p", "--particles", "0", *LEVELS], "particles must be"),
        (["half", "--out", "p", "--calibration", "broken"], "broken is not a calibration"),
        (["half", "--out", "p", "--calibration", "c", *LEVELS], "brings its own noise levels"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(folder, arguments, message):
    (folder / "broken").write_bytes(b"nonsense")
    done = sample(*arguments)
    assert done.exit_code == 2, done.output
    lines = done.output.strip().splitlines()
    errors = [line for line in lines if line.startswith("edmfast sample: ")]
    assert lines[-1:] == errors, lines
    assert any(part in errors[0] for part in message.split("|")), errors
    assert not (folder / "p").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "half"], "--out half is a file that this call reads"),
        (["--out", "half", "--overwrite"], "--out half is a file that this call reads"),
        (["--png", "half"], "--png half is a file that this call reads"),
        (["--out", "p", "--png", "p"], "--out and --png are one file"),
        (["--out", "p", "--png", "./p"], "--out and --png are one file"),
        (["--out", "p", "--checkpoint", "p"], "--out and --checkpoint are one file"),
        (["--out", "wide"], "--out wide holds a model, which a file of particles would replace"),
        (["--png", "notes"], "--png notes holds a file that edmfast did not write"),
        (
            ["--out", "p", "--checkpoint", "notes"],
            "--checkpoint notes holds a file that edmfast did",
        ),
        (
            ["--out", "p", "--calibrate", "--calibration", "notes"],
            "--calibration notes holds a file",
        ),
        (["--out", "fifo"], "it is a FIFO"),
        (["--out", "/dev/null"], "it is a device"),
        (["--out", "broken"], "--out broken is a link to a file that does not exist"),
    ],
)
def test_files_of_others_are_left_alone(folder, monkeypatch, arguments, message):
    (folder / "notes").write_text("mine")
    os.mkfifo("fifo")
    os.symlink("nowhere", "broken")
    monkeypatch.setattr("edmfast.smc.sample", None)
    before = {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()}
    done = sample("half", *arguments, *LEVELS)
    assert done.exit_code == 2
    assert message in done.stderr
    assert {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()} == before


def test_overwrite_replaces_another_kind_of_file_and_another_run(folder):
    (folder / "p").write_text("mine")
    options = ["half", "--out", "p", "--checkpoint", "c", "--steps", "20", *LEVELS[:4]]
    assert sample(*options, "--overwrite").exit_code == 0
    assert smc.Particles.load("p").x.shape == (1, 64, 2)
    assert (
        sample(*options[:3], *LEVELS).exit_code == 0
    )  # a file of particles is replaced by a new one
    done = sample(*options)
    assert done.exit_code == 2
    assert "c is the checkpoint of an earlier run" in done.stderr
    assert sample(*options, "--overwrite").exit_code == 0


def test_a_full_disk_at_the_end_says_where_the_samples_are(folder, monkeypatch):
    save, tried = smc.Particles.save, []

    def full(self, path, **options):
        tried.append(path)
        if len(tried) == 1:
            raise OSError(28, "No space left on device")
        save(self, path, **options)

    monkeypatch.setattr(smc.Particles, "save", full)
    done = sample("half", "--out", "p", *LEVELS)
    assert done.exit_code == 0
    assert f"wrote {tried[1]} (not p: [Errno 28] No space left on device)" in done.output
    assert smc.Particles.load(tried[1]).x.shape == (1, 64, 2)
    tried[1].unlink()


def test_a_picture_without_matplotlib_is_refused_before_the_run(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = sample("half", "--png", "p.png", "--out", "p", *LEVELS)
    assert done.exit_code == 2
    assert "pip install 'edmfast[demo]'" in done.output
    assert not (folder / "p").exists()


def test_values_of_conditions():
    assert read_values("x", "3") == [3]
    assert read_values("x", "0..2,7,-1") == [0, 1, 2, 7, -1]
    assert read_values("x", "1,2.5") == [1.0, 2.5]
