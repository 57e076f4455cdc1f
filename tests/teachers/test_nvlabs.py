"""Pickles in the form of EDM's give the networks of the fixture, strictly, in every protocol and precision."""

import pickle

import pytest
import torch

import edmfast
from edmfast import models
from edmfast.teachers import convert, load_teacher
from tests.models.backbones.edm import fixture
from tests.models.backbones.edm.fixture import NAMES, condition, state, tensor
from tests.teachers.writer import EasyDict, module_of, precond, with_arguments, write

SIGMA_DATA = 0.5


def arguments(name):
    return fixture.arguments(name)[1]


def network(name, **changed):
    """Return the U-Net of the fixture as a persistent module."""
    kind = {"adm": "DhariwalUNet"}.get(name, "SongUNet")
    return with_arguments(module_of(state(name), kind), **{**arguments(name), **changed})


def written(path, name, protocol=4, **changed):
    """Write the network of the fixture, inside its preconditioning, as EDM does."""
    settings = arguments(name)
    outer = precond(
        "EDMPrecond",
        network(name, **changed),
        settings["img_resolution"],
        img_channels=3,
        label_dim=settings["label_dim"],
        model_type="SongUNet",
        attributes={"sigma_data": SIGMA_DATA, "use_fp16": False, "sigma_max": float("inf")},
    )
    loss = precond("EDMLoss", torch.nn.Identity(), attributes={"P_mean": -1.2})
    content = {"ema": outer, "loss_fn": loss, "augment_pipe": None, "dataset_kwargs": EasyDict()}
    return write(path, content, protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_those_of_the_fixture(tmp_path, name, protocol):
    path = written(tmp_path / "a.pkl", name, protocol)
    for dtype, tolerance in ((torch.float64, 1e-6), (None, 1e-5)):
        teacher = edmfast.load_teacher(path, dtype=dtype)
        assert isinstance(teacher, models.Denoiser)
        assert not teacher.training
        x, sigma = (tensor(name, key).to(dtype or torch.float32) for key in ("x", "sigma"))
        with torch.no_grad():
            denoised = teacher(x, sigma, **condition(name)).double()
        expected = tensor(name, "denoised")
        assert (denoised - expected).abs().max() < tolerance * expected.abs().max()


def test_a_converted_file_gives_the_same_network(tmp_path):
    path = written(tmp_path / "a.pkl", "ddpmpp")
    facts = convert(path, tmp_path / "a.safetensors")
    assert (facts.kind, facts.network, facts.shape) == ("Denoiser", "SongUNet", (3, 16, 16))
    assert (facts.num_classes, facts.sigma_data, facts.dtype) == (5, 0.5, torch.float32)
    first, second = load_teacher(path), models.load_model(tmp_path / "a.safetensors")
    assert facts.parameters == sum(p.numel() for p in first.parameters())
    for before, after in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert before[0] == after[0]
        assert torch.equal(before[1], after[1])
    again = load_teacher(tmp_path / "a.safetensors")
    x, sigma = tensor("ddpmpp", "x").float(), tensor("ddpmpp", "sigma").float()
    assert torch.equal(again(x, sigma), first(x, sigma))


def test_half_precision_becomes_float32_or_what_the_caller_says(tmp_path):
    halves = {name: t.half() for name, t in state("ncsnpp").items()}
    unet = with_arguments(module_of(halves, "SongUNet"), **arguments("ncsnpp"))
    path = write(tmp_path / "a.pkl", {"ema": precond("EDMPrecond", unet)})
    kept = load_teacher(path)
    assert {p.dtype for p in kept.parameters()} == {torch.float32}
    torch.testing.assert_close(
        kept.backbone.map_layer0.weight, state("ncsnpp")["map_layer0.weight"], rtol=1e-3, atol=1e-3
    )
    assert {p.dtype for p in load_teacher(path, dtype=torch.float64).parameters()} == {
        torch.float64
    }
    half = convert(path, tmp_path / "a.safetensors", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_a_config_that_does_not_fit_names_the_parameter(tmp_path):
    path = written(tmp_path / "a.pkl", "ddpmpp", model_channels=32)
    with pytest.raises(
        ValueError, match=r"a\.pkl: the state does not fit SongUNet.*size mismatch: backbone\."
    ):
        load_teacher(path)
    path = written(tmp_path / "a.pkl", "ddpmpp", num_blocks=2)
    with pytest.raises(ValueError, match=r"num_blocks=2.*backbone\.(enc|dec)\."):
        load_teacher(path)
    path = written(tmp_path / "a.pkl", "ddpmpp", width=3)
    with pytest.raises(ValueError, match=r"does not fit SongUNet.*'width'"):
        load_teacher(path)
    path = written(tmp_path / "a.pkl", "ddpmpp", dropout=pickle.PickleBuffer)
    with pytest.raises(ValueError, match="not in the list of what is read"):
        load_teacher(path)


def test_positional_arguments_take_the_names_of_the_constructor(tmp_path):
    settings = arguments("adm")
    positional = [settings.pop(name) for name in ("img_resolution", "in_channels", "out_channels")]
    unet = with_arguments(module_of(state("adm"), "DhariwalUNet"), *positional, **settings)
    write(tmp_path / "a.pkl", precond("EDMPrecond", unet, 16, 3, 5, False, 0, 80, 0.25))
    teacher = load_teacher(tmp_path / "a.pkl")
    assert teacher.sigma_data == 0.25
    assert teacher.backbone.config["img_resolution"] == 16


def test_files_without_a_network_are_refused_by_name(tmp_path):
    unet = network("ncsnpp")
    for content, message in (
        ({"a": 1}, r"no network named ema or net or model; its objects are \[\]"),
        ([1], "holds a list"),
        ({"G_ema": precond("EDMPrecond", unet)}, "its objects are .'G_ema'."),
        (precond("Generator", unet), "the network is a Generator, which is not read; read are EDM"),
        (precond("EDMPrecond", torch.nn.Identity()), "holds a Identity as model"),
        (precond("EDMPrecond", None), "holds a NoneType as model"),
    ):
        write(tmp_path / "a.pkl", content)
        with pytest.raises(ValueError, match=message):
            load_teacher(tmp_path / "a.pkl")
    write(tmp_path / "a.pkl", {"G_ema": precond("EDMPrecond", unet)})
    assert load_teacher(tmp_path / "a.pkl", key="G_ema").sigma_data == 0.5
    with pytest.raises(TypeError, match=r"a \.pkl file takes no config"):
        load_teacher(tmp_path / "a.pkl", config={})


@pytest.mark.parametrize(
    ("class_name", "attributes"),
    [
        ("VPPrecond", {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}),
        ("VEPrecond", {"sigma_min": 0.02, "sigma_max": 100}),
        ("iDDPMPrecond", {"C_1": 0.001, "C_2": 0.008, "M": 1000, "sigma_min": 0.008}),
    ],
)
def test_other_preconditionings_are_denoisers_of_their_own_formula(
    tmp_path, class_name, attributes
):
    unet = network("ncsnpp")
    write(tmp_path / "a.pkl", {"ema": precond(class_name, unet, attributes=attributes)})
    teacher = load_teacher(tmp_path / "a.pkl", dtype=torch.float64)
    kind = {"VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}[class_name]
    assert teacher.backbone.kind == kind
    inner = fixture.denoiser("ncsnpp").double().backbone
    x, sigma = tensor("ncsnpp", "x")[:2], 0.3
    c_in = 1.0 if kind == "ve" else (sigma**2 + 1) ** -0.5
    time = teacher.backbone._time(torch.full((2,), sigma, dtype=torch.float64))
    with torch.no_grad():
        denoised = teacher(x, sigma)
        expected = x + (sigma if kind == "ve" else -sigma) * inner(c_in * x, time)
    torch.testing.assert_close(denoised, expected, rtol=1e-6, atol=1e-6)
    facts = convert(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    assert (facts.network, facts.shape) == ("RescaledNetwork", (3, 16, 16))
    again = models.load_model(tmp_path / "a.safetensors").double()
    with torch.no_grad():
        torch.testing.assert_close(again(x, sigma), denoised)
