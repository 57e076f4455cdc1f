"""Saved models come back the same; anything else is refused and overwrites nothing."""

import json

import pytest
import torch
from safetensors.torch import save_file

from edmfast.models import Denoiser, EnergyModel, ResidualMLP, UNet, load_model, save_model


def energy(seed=0):
    torch.manual_seed(seed)
    model = EnergyModel(ResidualMLP(2, width=8, depth=1), potential="norm", sigma_data=0.3)
    torch.nn.init.normal_(model.backbone.output.weight)
    model.scale.values[3] = 0.7
    return model


@pytest.mark.parametrize(
    "model",
    [
        energy(),
        energy().double(),
        Denoiser(UNet(1, (8, 8), groups=2, num_classes=3, patch=2), sigma_data=0.9),
    ],
)
def test_round_trip(model, tmp_path):
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert type(loaded) is type(model)
    assert loaded.sigma_data == model.sigma_data
    assert loaded.backbone.config == model.backbone.config
    assert getattr(loaded, "potential_name", "") == getattr(model, "potential_name", "")
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def corrupt(path):
    path.write_bytes(path.read_bytes()[:-40])


def foreign(path):
    save_file({"a": torch.zeros(1)}, path)


def relabelled(**changes):
    def change(path):
        model = energy()
        metadata = {
            "format": "edmfast-model",
            "version": 1,
            "kind": "EnergyModel",
            "sigma_data": 0.3,
            "potential": "norm",
            "backbone": "ResidualMLP",
            "config": model.backbone.config,
        }
        text = json.dumps({**metadata, **changes})
        save_file(model.state_dict(), path, metadata={"edmfast": text})

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt, "not a readable safetensors file"),
        (lambda path: path.write_bytes(b""), "not a readable safetensors file"),
        (foreign, "not written by edmfast"),
        (relabelled(format="other"), "holds 'other'"),
        (relabelled(version=9), "version 9"),
        (relabelled(kind="Flow"), "neither EnergyModel nor Denoiser"),
        (relabelled(backbone="ResNet"), "needs backbone 'ResNet'"),
        (relabelled(potential="cubic"), "given 'cubic'"),
        (relabelled(config={"dim": 3}), "size mismatch"),
        (relabelled(config={"size": 3}), "unexpected keyword"),
        (relabelled(sigma_data="wide"), "loadable"),
    ],
)
def test_bad_files(damage, message, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(energy(), path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        load_model(path)


def test_unchanged_metadata_loads(tmp_path):
    relabelled()(tmp_path / "model.safetensors")
    load_model(tmp_path / "model.safetensors")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_model(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_model(energy(), tmp_path / "none" / "model")


def test_unknown_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="backbone Linear is not registered"):
        save_model(Denoiser(torch.nn.Linear(2, 2)), tmp_path / "model")
    with pytest.raises(ValueError, match="given Linear"):
        save_model(torch.nn.Linear(2, 2), tmp_path / "model")


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    save_model(energy(), tmp_path / "model.safetensors")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(energy(0), path)
    before = path.read_bytes()

    def half_written(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("edmfast._internal.files.save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_model(energy(1), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
