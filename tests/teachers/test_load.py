"""`load_teacher` reads every kind of source, moves it, and refuses what does not fit."""

import json
import math
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import edmfast
from edmfast import models
from edmfast.teachers import convert, load_teacher
from tests.teachers.writer import write

CONFIG = {"dim": 3, "width": 8, "depth": 1}
X, SIGMA = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.7)


def model(sigma_data=0.25):
    torch.manual_seed(0)
    made = models.Denoiser(models.ResidualMLP(**CONFIG), sigma_data=sigma_data)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


MODEL = model()
STATE = MODEL.backbone.state_dict()


def same(teacher):
    assert not teacher.training
    assert torch.equal(teacher(X, SIGMA), MODEL(X, SIGMA))
    return True


def test_importing_the_package_stays_quick():
    assert "load_teacher" in dir(edmfast)
    assert edmfast.load_teacher is load_teacher


def test_a_saved_model_comes_back(tmp_path):
    models.save_model(MODEL, tmp_path / "a.safetensors")
    assert same(load_teacher(tmp_path / "a.safetensors"))
    energy = models.EnergyModel(models.ResidualMLP(**CONFIG))
    models.save_model(energy, tmp_path / "b.safetensors")
    assert isinstance(load_teacher(str(tmp_path / "b.safetensors")), models.EnergyModel)
    with pytest.raises(TypeError, match="a saved model takes no network"):
        load_teacher(tmp_path / "a.safetensors", network="ResidualMLP")


@pytest.mark.parametrize("prefix", ["", "backbone.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_bare_state_needs_a_description(tmp_path, prefix, suffix):
    path = tmp_path / f"a{suffix}"
    named = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    (save_file if suffix == ".safetensors" else torch.save)(named, path)
    given = {"network": "ResidualMLP", "config": CONFIG, "sigma_data": 0.25}
    assert same(load_teacher(path, **given))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert same(load_teacher(path, **{**given, "config": tmp_path / "config.json"}))
    with pytest.raises(ValueError, match="does not say which network"):
        load_teacher(path, config=CONFIG)
    with pytest.raises(ValueError, match=r"network must be one of .*ResidualMLP.*, given 'Other'"):
        load_teacher(path, network="Other", config=CONFIG)
    with pytest.raises(ValueError, match=r"config does not fit ResidualMLP: .*'size'"):
        load_teacher(path, network="ResidualMLP", config={**CONFIG, "size": 1})
    wrong = r"size mismatch: backbone\.\S+ is \[.*8.*\] in the file and \[.*16.*\] in the model"
    with pytest.raises(ValueError, match=wrong):
        load_teacher(path, network="ResidualMLP", config={**CONFIG, "width": 16})
    wrong = r"size mismatch: backbone\.shifts\.\S+ is \[8.* in the file and \[16"
    with pytest.raises(ValueError, match=wrong):
        load_teacher(path, network="ResidualMLP", config={**CONFIG, "depth": 2})


def test_metadata_describe_a_state(tmp_path):
    path = tmp_path / "a.safetensors"
    said = {"network": "ResidualMLP", "config": json.dumps(CONFIG), "sigma_data": "0.25"}
    save_file(STATE, path, metadata=said)
    assert same(load_teacher(path))
    assert load_teacher(path, sigma_data=2.0).sigma_data == 2.0
    save_file(STATE, path, metadata={**said, "config": "[1]"})
    with pytest.raises(ValueError, match="a list and not an object"):
        load_teacher(path)
    save_file(STATE, path, metadata={**said, "sigma_data": "half"})
    with pytest.raises(ValueError, match="sigma_data='half' in its metadata"):
        load_teacher(path)


def test_torch_files_hold_a_state_and_its_description(tmp_path):
    path = tmp_path / "a.pth"
    said = {"network": "ResidualMLP", "config": CONFIG, "sigma_data": 0.25}
    torch.save({"state_dict": STATE, "step": 3, **said}, path)
    assert same(load_teacher(path))
    torch.save({"best": STATE, "state_dict": {}, **said}, path)
    assert same(load_teacher(path, key="best"))
    with pytest.raises(ValueError, match="no dictionary named 'worst'"):
        load_teacher(path, key="worst")


def test_torch_files_run_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path / "mark").touch, ()

    torch.save({"state_dict": STATE, "more": Hostile()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"weights_only=True.* reads: "):
        load_teacher(tmp_path / "a.pt", network="ResidualMLP", config=CONFIG)
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"weights_only=True"):
        load_teacher(tmp_path / "b.pt", network="ResidualMLP", config=CONFIG)
    assert not (tmp_path / "mark").exists()


def test_a_callable_is_returned_as_it_is():
    def denoiser(x, sigma):
        return x / 2

    assert load_teacher(denoiser) is denoiser
    assert load_teacher(MODEL) is MODEL
    half = load_teacher(model().half())
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert load_teacher(model(), dtype=torch.float64).backbone.input.weight.dtype == torch.float64
    with pytest.raises(TypeError, match=r"cannot move .*denoiser, which is no torch\.nn\.Module"):
        load_teacher(denoiser, device="cpu")
    with pytest.raises(TypeError, match="a callable takes no config"):
        load_teacher(denoiser, config={})
    with pytest.raises(TypeError, match="given the class Denoiser"):
        load_teacher(models.Denoiser)
    with pytest.raises(TypeError, match="a teacher must be a path, or a denoiser"):
        load_teacher(3)


def test_a_name_of_the_program_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_teachers.py").write_text(
        "class Box:\n    half = staticmethod(lambda x, sigma: x / 2)\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert torch.equal(load_teacher("my_teachers:Box.half")(X, SIGMA), X / 2)
        with pytest.raises(ImportError, match="my_teachers has no other"):
            load_teacher("my_teachers:other")
        with pytest.raises(TypeError, match="a teacher must be"):
            load_teacher("my_teachers:number")
    finally:
        sys.modules.pop("my_teachers", None)
    with pytest.raises(ImportError):
        load_teacher("no_such_module_here:denoiser")


def test_other_paths_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_teacher(tmp_path / "a.pkl")
    (tmp_path / "a.onnx").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"must be a \.safetensors, \.pkl or"):
        load_teacher(tmp_path / "a.onnx")
    (tmp_path / "a.safetensors").write_bytes(b"1")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_teacher(tmp_path / "a.safetensors")
    (tmp_path / "empty.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.pkl: "):
        load_teacher(tmp_path / "empty.pkl")
    with pytest.raises(ValueError, match="no folder of diffusers with a network"):
        load_teacher(tmp_path)
    with pytest.raises(TypeError, match="a file takes no class_label"):
        load_teacher(tmp_path / "a.safetensors", class_label=3)
    with pytest.raises(TypeError, match="dtype must be float32"):
        load_teacher(MODEL, dtype=torch.int64)
    save_file({"a": torch.zeros(1, dtype=torch.int64)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="does not fit ResidualMLP"):
        load_teacher(tmp_path / "b.safetensors", network="ResidualMLP", config=CONFIG)


def test_a_teacher_from_a_file_is_distilled(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    teacher = load_teacher(tmp_path / "a.pt", network="ResidualMLP", config=CONFIG, sigma_data=0.25)
    student = models.EnergyModel(models.ResidualMLP(**CONFIG), sigma_data=0.25)
    data = 0.25 * torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    config = edmfast.DistillConfig(steps=60, batch_size=64, learning_rate=1e-2)
    losses = edmfast.distill(teacher, student, data, config=config, progress=False).losses
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()


def test_conversion_checks_its_two_paths(tmp_path):
    models.save_model(MODEL, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="give another path"):
        convert(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        convert(tmp_path / "a.safetensors", tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    facts = convert(tmp_path / "a.safetensors", tmp_path / "notes.txt", overwrite=True)
    assert (facts.network, facts.shape, facts.sigma_data) == ("ResidualMLP", None, 0.25)
    assert same(models.load_model(tmp_path / "notes.txt"))
    with pytest.raises(ValueError, match="only networks of edmfast can be converted"):
        convert("math:sqrt", tmp_path / "b.safetensors")
    assert math.sqrt is not None
    write(tmp_path / "c.pkl", {"a": 1})
    with pytest.raises(ValueError, match="no network named"):
        convert(tmp_path / "c.pkl", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
