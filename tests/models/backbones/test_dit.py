"""The DiT has the right shapes, initialisation, conditions, derivatives, dropout, files and errors; it learns."""

import pytest
import torch
from torch.func import functional_call

from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill
from edmfast.models import DiT, EnergyModel, load_model, save_model
from edmfast.models.backbones import self_attention


def without_zeros(net):
    """Return the network with random numbers in place of zeros: layers of zeros would hide the others."""
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return net


def tiny(**arguments):
    torch.manual_seed(0)
    settings = {"width": 8, "depth": 2, "heads": 2, "num_classes": 3, "embedding_width": 6}
    return without_zeros(DiT(1, 4, **(settings | arguments)))


@pytest.mark.parametrize(
    ("size", "patch", "heads"), [(8, 2, 2), ((4, 6), 1, 3), ([9, 15], 3, 4), (4, 4, 1)]
)
def test_any_size_of_whole_patches(size, patch, heads):
    torch.manual_seed(0)
    net = DiT(3, size, patch, width=12, depth=1, heads=heads)
    shape = net.config["size"]
    y = torch.randn(2, 3, *shape)
    assert (net(y, torch.zeros(2)) == 0).all()
    output = without_zeros(net)(y, torch.zeros(2))
    assert output.shape == y.shape
    assert output.std() > 0.1


def test_its_energy_starts_as_the_gaussian_one():
    torch.manual_seed(0)
    model = EnergyModel(DiT(2, 4, width=8, depth=1, heads=2), sigma_data=0.7)
    x, sigma = torch.randn(5, 2, 4, 4), torch.tensor([0.01, 0.1, 1.0, 5.0, 50.0])
    energy, score = model.energy_and_score(x, sigma)
    variance = sigma.square() + 0.49
    torch.testing.assert_close(energy, x.square().sum((1, 2, 3)) / (2 * variance))
    torch.testing.assert_close(score, -x / variance[:, None, None, None])


def test_a_patch_is_a_token():
    """Without attention between tokens, a change of one patch changes the output of that patch only."""
    net = tiny(depth=1)
    torch.nn.init.zeros_(net.blocks[0].projection.weight)
    y = torch.randn(1, 1, 4, 4)
    moved = y.clone()
    moved[0, 0, 2, 1] += 1
    changed = (net(moved, torch.zeros(1)) != net(y, torch.zeros(1)))[0, 0]
    assert changed[2:, :2].all()
    assert changed.sum() == 4


def test_attention_reaches_the_whole_image_and_positions_matter():
    net = tiny().double()
    y = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    moved = y.clone()
    moved[0, 0, 0, 0] += 1
    output = net(y, torch.zeros(1))
    assert (net(moved, torch.zeros(1)) - output)[0, 0, -1, -1].abs() > 1e-6
    assert not torch.allclose(net(y.roll(2, 3), torch.zeros(1)).roll(-2, 3), output)


def test_every_parameter_and_condition_matters():
    net = tiny()
    y, label = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    output = net(y, torch.zeros(4), label)
    gradients = torch.autograd.grad(output.square().sum(), [*net.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not torch.allclose(net(y, torch.ones(4), label), output)
    assert not torch.allclose(net(y, torch.zeros(4), label.flip(0)), output)
    torch.testing.assert_close(net(y, torch.zeros(4))[3], output[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [2, 8])
def test_derivatives_of_its_energy(heads):
    model = EnergyModel(tiny(heads=heads, num_classes=2)).double()
    names, values = zip(*model.named_parameters(), strict=True)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    condition = {"class_label": torch.tensor([0, 2])}

    def energy(x):
        return model.energy(x, 0.5, **condition)

    def denoise(x, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return functional_call(model, named, (x, 0.5), condition)

    assert torch.autograd.gradcheck(energy, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, x, fast_mode=True)
    inputs = (x, *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(denoise, inputs, fast_mode=True)


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_training_gradients_are_those_of_plain_attention(size, monkeypatch):
    torch.manual_seed(0)
    net = DiT(1, size, width=24, depth=2, heads=2, embedding_width=8)
    model = EnergyModel(without_zeros(net)).double()
    x = torch.randn(3, 1, *size, dtype=torch.float64, requires_grad=True)

    def plain(q, k, v, scale, key_mask=None):
        scores = scale * q @ k.mT
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None], -torch.inf)
        return torch.softmax(scores, -1) @ v

    def gradients():
        loss = (model(x, 0.7) - 0.1).square().mean()
        return torch.autograd.grad(loss, [*model.backbone.parameters()])

    actual = gradients()
    monkeypatch.setattr(self_attention, "attention", plain)
    for a, b in zip(actual, gradients(), strict=True):
        assert a.any()
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_dropout_acts_only_where_configured_and_only_in_training():
    y, c_noise = torch.randn(2, 1, 4, 4), torch.zeros(2)
    plain, net = tiny().train(), tiny(dropout=0.5).train()
    assert plain.config["dropout"] == 0
    assert torch.equal(plain(y, c_noise), plain(y, c_noise))
    assert not torch.equal(net(y, c_noise), net(y, c_noise))
    assert torch.equal(net.eval()(y, c_noise), plain(y, c_noise))


def test_an_energy_with_dropout_is_trained_through_its_score():
    model = EnergyModel(tiny(dropout=0.5)).train()
    x = torch.randn(4, 1, 4, 4, requires_grad=True)
    model(x, 0.5).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.backbone.parameters())


@pytest.mark.parametrize("size", [4, (4, 6)])
def test_save_and_load(tmp_path, size):
    torch.manual_seed(0)
    net = DiT(1, size, width=8, depth=1, heads=2, num_classes=3, mlp_ratio=1.5, dropout=0.1)
    model = EnergyModel(without_zeros(net), sigma_data=0.9).eval()
    save_model(model, tmp_path / "dit.safetensors")
    loaded = load_model(tmp_path / "dit.safetensors")
    assert loaded.backbone.config == net.config
    x, label = torch.randn(5, *net.shape), torch.tensor([0, 1, 2, 3, 0])
    result = loaded.energy_and_score(x, 0.3, class_label=label)
    for a, b in zip(result, model.energy_and_score(x, 0.3, class_label=label), strict=True):
        assert torch.equal(a, b)


def test_published_sizes():
    """The sizes, in millions of parameters, are those of table 1 of the paper (4 channels, 1,000 classes)."""
    for name, millions in {"S": 33, "B": 130, "L": 458, "XL": 675}.items():
        with torch.device("meta"):
            net = DiT(4, 32, num_classes=1000, **DiT.PRESETS[name])
        size = sum(parameter.numel() for parameter in net.parameters()) / 1e6
        assert size == pytest.approx(millions, rel=0.015)


def test_it_learns():
    torch.manual_seed(0)
    means = torch.tensor([[1.0, 0.0] * 8, [0.0, 1.0] * 8]).double()
    teacher = GaussianMixture(means, [0.2, 0.3])
    data = teacher.sample(500, seed=0).float().reshape(-1, 1, 4, 4)

    def flat_teacher(x, sigma):
        return teacher.denoise(x.flatten(1), sigma).reshape(x.shape)

    student = EnergyModel(DiT(1, 4, width=16, depth=2, heads=2, embedding_width=16))
    config = DistillConfig(steps=80, batch_size=64, learning_rate=3e-3, warmup_steps=10)
    losses = distill(flat_teacher, student, data, config=config, progress=False).losses
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 9}, r"multiples of patch=2, given \[9, 9\]"),
        ({"size": (8, 6), "patch": 4}, r"multiples of patch=4, given \[8, 6\]"),
        ({"size": (8, 8, 8)}, "one or two"),
        ({"size": 0}, "size must be an integer of at least 1"),
        ({"depth": 0}, "depth must be an integer of at least 1"),
        ({"heads": 0}, "heads must be an integer of at least 1"),
        ({"width": 18, "heads": 3}, "multiple of 4 .* given 18"),
        ({"width": 16, "heads": 3}, "of heads=3, given 16"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"dropout": 1.0}, r"\[0, 1\), given 1.0"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiT(1, **({"size": 8, "width": 8, "heads": 2, "depth": 1} | arguments))


@pytest.mark.parametrize("shape", [(2, 1, 4, 8), (2, 3, 4, 4), (2, 16)])
def test_bad_states(shape):
    with pytest.raises(ValueError, match=r"must be \[B, 1, 4, 4\], given"):
        tiny()(torch.zeros(shape), torch.zeros(2))
