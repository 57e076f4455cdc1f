"""`edmfast convert` writes a model, prints what it found, and reports every mistake on one line."""

import json
import os

import pytest
import torch
from typer.testing import CliRunner

from edmfast.cli.main import app
from edmfast.models import Denoiser, ResidualMLP, load_model
from tests.teachers.test_hostile import Call, dumped

CONFIG = {"dim": 3, "width": 8, "depth": 1, "num_classes": 4}


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.fixture
def state(tmp_path):
    network = ResidualMLP(**CONFIG)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return network, tmp_path / "a.pt", tmp_path / "out.safetensors"


def test_what_was_found_is_printed(state, tmp_path):
    network, source, destination = state
    options = ("--network", "ResidualMLP", "--config", tmp_path / "config.json")
    done = run(source, destination, *options, "--sigma-data", 0.25, "--dtype", "float64")
    assert done.exit_code == 0, done.output
    count = sum(parameter.numel() for parameter in network.parameters())
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert lines == [
        "Denoiser around ResidualMLP",
        f"parameters {count:,} in float64",
        "sample not said",
        "sigma_data 0.25",
        "labels 4 classes",
        f"wrote {destination}",
    ]
    loaded = load_model(destination)
    assert isinstance(loaded, Denoiser)
    assert loaded.sigma_data == 0.25
    assert torch.equal(loaded.backbone.output.weight, network.output.weight.double())


def test_mistakes_are_one_line(state, tmp_path):
    _, source, destination = state
    (tmp_path / "hostile.pkl").write_bytes(dumped(Call(os.system, f"touch {tmp_path / 'mark'}")))
    for arguments, message in (
        ((tmp_path / "none.pkl", destination), "no file or folder"),
        ((source, destination), "does not say which network"),
        ((source, destination, "--dtype", "int8"), "--dtype must be one of float32"),
        ((tmp_path / "hostile.pkl", destination), "the pickle names"),
        ((source, source, "--network", "UNet", "--config", "x"), "give another path"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2
        assert done.stderr.startswith("edmfast convert: ")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not destination.exists()
    assert not (tmp_path / "mark").exists()
