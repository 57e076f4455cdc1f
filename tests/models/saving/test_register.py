"""A user's backbone can be saved and loaded once it is registered; nothing is imported by name."""

import numpy as np
import pytest
import torch
from torch import nn

from edmfast.models import (
    BACKBONES,
    Denoiser,
    EnergyModel,
    ResidualMLP,
    load_model,
    register_backbone,
    save_model,
)
from edmfast.models.saving.rebuild import rebuilt


class Own(nn.Module):
    """A backbone with two layers that share a weight, a channels_last weight, and numbers outside of its state."""

    def __init__(self, dim, sizes=(4, 4), tied=True):
        super().__init__()
        self.config = {"dim": dim, "sizes": list(sizes), "tied": tied}
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        if tied:
            self.second.weight = self.first.weight
        self.convolution = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
        self.register_buffer("frequencies", torch.arange(1.0, dim + 1), persistent=False)
        self.register_buffer("count", torch.tensor(3))
        self.sizes = torch.tensor(sizes, dtype=torch.float32)

    def forward(self, y, c_noise):
        shift = self.convolution.weight.sum() + self.sizes.sum() + c_noise[:, None]
        return self.second(torch.tanh(self.first(y * self.frequencies))) + shift


@pytest.fixture
def registered():
    yield register_backbone(Own)
    del BACKBONES["Own"]


@pytest.mark.parametrize("kind", [Denoiser, EnergyModel])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(kind, tied, registered, tmp_path):
    torch.manual_seed(0)
    model, path = kind(Own(3, tied=tied), sigma_data=0.7).eval(), tmp_path / "model"
    save_model(model, path)
    loaded, x = load_model(path), torch.randn(5, 3)
    assert torch.equal(loaded(x, 0.3), model(x, 0.3))
    backbone = loaded.backbone
    assert (backbone.first.weight is backbone.second.weight) == tied
    assert backbone.config == model.backbone.config


def test_loading_with_a_class_at_hand(registered, tmp_path):
    save_model(Denoiser(Own(3)), tmp_path / "model")
    del BACKBONES["Own"]
    try:
        with pytest.raises(
            ValueError, match=r"needs backbone 'Own'.*backbones=.*register_backbone"
        ):
            load_model(tmp_path / "model")
        assert isinstance(load_model(tmp_path / "model", backbones={"Own": Own}).backbone, Own)
    finally:
        register_backbone(Own)
    for backbones in ({"Own": "Own"}, {3: Own}, [Own], {"Own": int}):
        with pytest.raises(TypeError, match="backbones must"):
            load_model(tmp_path / "model", backbones=backbones)


def test_dtypes_are_kept_each(registered, tmp_path):
    model = Denoiser(Own(3, tied=False))
    model.backbone.first.half()
    model.backbone.second.double()
    save_model(model, tmp_path / "model")
    state = load_model(tmp_path / "model").state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


def test_saving_draws_no_random_numbers(registered, tmp_path):
    model, before = Denoiser(Own(3)), torch.get_rng_state()
    save_model(model, tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_error_for_an_unregistered_backbone_says_how_to_register(tmp_path):
    with pytest.raises(ValueError, match=r"self\.config.*register_backbone\(Own\)"):
        save_model(Denoiser(Own(3)), tmp_path / "model")
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_registered():
    for wrong in (Own(3), lambda: Own(3), int, "Own"):
        with pytest.raises(TypeError, match=r"class of nn\.Module"):
            register_backbone(wrong)
    impostor = type("UNet", (nn.Module,), {})
    with pytest.raises(ValueError, match="another name"):
        register_backbone(impostor)
    assert register_backbone(ResidualMLP) is ResidualMLP


@pytest.mark.parametrize(
    "config",
    [
        None,
        [1],
        {1: 2},
        {"dim": {3}},
        {"dim": torch.ones(1)},
        {"dim": float("nan")},
        {"dim": 4},
        {},
    ],
)
def test_a_config_that_does_not_rebuild_the_model(config, registered, tmp_path):
    model = Denoiser(Own(3))
    model.backbone.config = config
    with pytest.raises(ValueError, match="config"):
        save_model(model, tmp_path / "model")
    assert not [*tmp_path.iterdir()]


def test_a_patched_model_is_refused_at_saving(tmp_path):
    model = EnergyModel(ResidualMLP(2, width=8, depth=1))
    model.backbone.output = nn.Sequential(model.backbone.output, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="cannot be saved"):
        save_model(model, tmp_path / "model")


def test_a_constructor_that_reads_numbers():
    def build():
        return nn.Linear(2, int(torch.tensor(3.0).item()))

    tensors = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    assert torch.equal(rebuilt(build, tensors).weight, torch.ones(3, 2))


class Unusual(nn.Module):
    """A backbone whose constructor reads numbers through NumPy and which has many modules without weights."""

    def __init__(self, dim):
        super().__init__()
        self.config = {"dim": np.int64(dim)}
        self.rates = torch.linspace(0, 1, 3).numpy()
        self.layers = nn.Sequential(nn.Linear(dim, dim), *(nn.Tanh() for _ in range(150)))

    def forward(self, y, c_noise):
        return self.layers(y) * float(self.rates[1])


def test_an_unusual_constructor_is_taken(tmp_path):
    model, x = Denoiser(Unusual(3)).eval(), torch.randn(5, 3)
    register_backbone(Unusual)
    try:
        save_model(model, tmp_path / "model")
        assert torch.equal(load_model(tmp_path / "model")(x, 0.3), model(x, 0.3))
    finally:
        del BACKBONES["Unusual"]
