"""Saved models load unchanged; all other files are refused, and refused models overwrite nothing."""

import contextlib
import json
import random

import pytest
import torch
from safetensors.torch import save_file

from edmfast._internal.files import read_tensors
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
        (relabelled(kind="Flow"), "kind must be EnergyModel, Denoiser or TwoHeads"),
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


HUGE = 10**9
ABSURD = [
    {"config": {"dim": 2, "width": HUGE}},
    {"config": {"dim": HUGE, "width": HUGE}},
    {"config": {"dim": 2, "width": 8, "depth": HUGE}},
    {"config": {"dim": 2, "width": 8, "depth": 1, "num_classes": HUGE}},
    {"config": {"dim": 2**63 - 1, "width": 2**63 - 1}},
    {"backbone": "UNet", "config": {"in_channels": 1, "channels": [HUGE]}},
    {
        "backbone": "UNet",
        "config": {"in_channels": 1, "channels": [8], "groups": 4, "blocks": HUGE},
    },
    {"backbone": "DiT", "config": {"in_channels": 1, "size": [2**20, 2**20], "patch": 1}},
    {"backbone": "DiT", "config": {"in_channels": 1, "size": 8, "patch": 2, "depth": HUGE}},
    {"backbone": "PairwiseMLP", "config": {"particles": HUGE, "dimensions": 3}},
    {"backbone": "PairwiseMLP", "config": {"particles": 3, "dimensions": HUGE, "depth": HUGE}},
]
WRONG = [
    None,
    3,
    "abc",
    [],
    {},
    True,
    [1],
    1e400,
    {"dim": None},
    {"dim": "2"},
    {"dim": [2]},
    {"": 1},
]


@pytest.mark.parametrize("changes", ABSURD)
def test_absurd_sizes_are_refused_before_memory_is_taken(changes, tmp_path):
    path = tmp_path / "model.safetensors"
    relabelled(**changes)(path)
    with pytest.raises(ValueError, match="does not describe a loadable model"):
        load_model(path)


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", ["format", "version", "kind", "sigma_data", "backbone", "config"])
def test_metadata_of_other_types(name, value, tmp_path):
    path = tmp_path / "model.safetensors"
    relabelled(**{name: value})(path)
    if (name, value) in [("sigma_data", 3), ("version", True)]:
        load_model(path)  # 3 is a valid number, and JSON's true equals 1 in Python
        return
    with pytest.raises(ValueError, match=str(path)):
        load_model(path)


@pytest.mark.parametrize(
    "name", ["format", "version", "kind", "sigma_data", "backbone", "config", "potential"]
)
def test_metadata_without_a_key(name, tmp_path):
    path = tmp_path / "model.safetensors"
    relabelled()(path)
    tensors, metadata = read_tensors(path)
    del metadata[name]
    save_file(dict(tensors), path, metadata={"edmfast": json.dumps(metadata)})
    with pytest.raises(ValueError, match=str(path)):
        load_model(path)


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_mutated_metadata(count, tmp_path):
    path, draw = tmp_path / "model.safetensors", random.Random(0)
    relabelled()(path)
    tensors, metadata = read_tensors(path)
    text = json.dumps(metadata)
    for _ in range(count):
        mutated = [*text]
        for _ in range(draw.randint(1, 4)):
            mutated[draw.randrange(len(text))] = draw.choice([*'0129eE.-+[]{}",: ', "", "99999"])
        save_file(dict(tensors), path, metadata={"edmfast": "".join(mutated)})
        with contextlib.suppress(ValueError):
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
