"""Extractors of features from functions, names, safetensors and TorchScript."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edmfast.demo.digits import all_digits
from edmfast.evaluation import (
    DigitFeatures,
    frechet_of_features,
    load_digit_features,
    load_features,
    register_features,
    save_features,
)
from edmfast.evaluation.features import default_features, extract
from edmfast.evaluation.networks import _NETWORKS
from edmfast.evaluation.train_digit_features import accuracy_of, main, train_digit_features

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16).reshape(2, 3, 4, 4)


class Pooling(nn.Module):
    """Features that TorchScript can hold."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.config = {"size": size}
        self.layer = nn.Linear(3, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.float().mean([2, 3]))


class Classifier(nn.Module):
    """A network that returns features only where it is asked to, as published Inception files do."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        pooled = x.float().mean([2, 3])
        if return_features:
            return pooled
        return pooled[:, :1]


@pytest.fixture
def registered():
    before = dict(_NETWORKS)
    register_features(Pooling)
    yield
    _NETWORKS.clear()
    _NETWORKS.update(before)


def scripted(network, path):
    torch.jit.script(network).save(str(path))
    return path


def test_a_function_a_module_and_names():
    assert extract(load_features(lambda x: x[:, 0, 0]), IMAGES).shape == (2, 4)
    network = Pooling().train()
    assert load_features(network) is network
    assert not network.training
    flat = extract(load_features("samples"), IMAGES.double())
    assert flat.equal(IMAGES.flatten(1))
    assert extract(load_features("digits"), torch.zeros(5, 64)).shape == (5, 32)


def test_a_torchscript_file(tmp_path):
    network = Pooling()
    features = load_features(scripted(network, tmp_path / "net.pt"))
    assert extract(features, IMAGES).equal(network(IMAGES).detach())
    features = load_features(scripted(Classifier(), tmp_path / "classifier.pt"))
    assert extract(features, IMAGES).shape == (2, 3)
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad.pt is no TorchScript file"):
        load_features(tmp_path / "bad.pt")


def test_images_as_bytes():
    seen = []

    def features(x):
        seen.append(x)
        return x.float().flatten(1)

    found = load_features(features, as_bytes=True)
    found(torch.tensor([[-1.0, 1.0, 0.0, 2.0, -1 + 2 / 255]]))
    assert seen[0].dtype == torch.uint8
    assert seen[0].tolist() == [[0, 255, 128, 255, 1]]


def test_a_registered_network_is_built_from_its_file(tmp_path, registered):
    network = Pooling(5)
    save_features(network, tmp_path / "f.safetensors", note="mine")
    loaded = load_features(tmp_path / "f.safetensors")
    assert isinstance(loaded, Pooling)
    assert not loaded.training
    assert extract(loaded, IMAGES).equal(network(IMAGES).detach())
    _NETWORKS.pop("Pooling")
    with pytest.raises(ValueError, match="needs the network 'Pooling', which is not registered"):
        load_features(tmp_path / "f.safetensors")
    with pytest.raises(ValueError, match="Pooling is not registered"):
        save_features(network, tmp_path / "g.safetensors")


def test_weights_of_another_program_are_loaded_into_a_network_of_the_caller(tmp_path):
    network, path = Pooling(), tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    for given in (Pooling, lambda: Pooling(3), Pooling()):
        assert extract(load_features(path, network=given), IMAGES).equal(network(IMAGES).detach())
    with pytest.raises(ValueError, match="does not name its network: pass network="):
        load_features(path)
    with pytest.raises(ValueError, match="do not fit the network"):
        load_features(path, network=lambda: Pooling(4))
    with pytest.raises(TypeError, match="it built int"):
        load_features(path, network=lambda: 3)


@pytest.mark.parametrize(
    ("features", "error", "match"),
    [
        (lambda x: x, ValueError, r"\[B, F\] with B = 2, got \[2, 3, 4, 4\]"),
        (lambda x: x[:1, 0, 0], ValueError, r"B = 2, got \[1, 4\]"),
        (lambda x: x.argmax(1).flatten(1), TypeError, "floating tensor"),
        (lambda x: [x], TypeError, "got list"),
        (lambda x: x.flatten(1) / 0, ValueError, "finite"),
    ],
)
def test_wrong_results_are_refused(features, error, match):
    with pytest.raises(error, match=match):
        extract(features, IMAGES)


def test_wrong_sources_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="'digits', 'samples', or a file"):
        load_features(tmp_path / "none.pt")
    with pytest.raises(TypeError, match="given int"):
        load_features(3)
    with pytest.raises(TypeError, match="subclass"):
        register_features(Pooling())
    with pytest.raises(ValueError, match=r"8x8 images, given samples of shape \[63\]"):
        DigitFeatures()(torch.zeros(1, 63))


def test_the_default_follows_from_the_shape():
    assert isinstance(default_features((1, 8, 8)), DigitFeatures)
    assert default_features((64,))(IMAGES).equal(IMAGES.flatten(1))
    assert default_features((3, 32, 32)) is None


def test_the_shipped_network_knows_digits_it_was_not_trained_on():
    network = load_digit_features()
    assert accuracy_of(network) > 0.98
    digits = all_digits()
    features = extract(network, digits.images)
    low, high = features[digits.labels < 5], features[digits.labels >= 5]
    between = frechet_of_features(low, high, replicates=0).value
    within = frechet_of_features(features[::2], features[1::2], replicates=0).value
    assert between > 50 * within


def test_the_command_trains_it_again(tmp_path, capsys):
    network = train_digit_features(tmp_path / "short.safetensors", epochs=3)
    assert accuracy_of(network) > 0.85
    state = load_digit_features(tmp_path / "short.safetensors").state_dict()
    assert all(state[name].equal(value) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_the_command_reproduces_the_shipped_network(tmp_path, capsys):
    path = tmp_path / "again.safetensors"
    assert main([str(path)]) == 0
    assert f"wrote {path}: 9" in capsys.readouterr().out
    digits = all_digits().images[::5]
    again, shipped = (
        extract(f, digits) for f in (load_digit_features(path), load_digit_features())
    )
    # other processors round otherwise, and training enlarges such differences
    assert float((again - shipped).square().mean() / shipped.var()) < 0.1
