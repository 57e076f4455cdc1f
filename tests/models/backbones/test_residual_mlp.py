"""ResidualMLP follows its formula, uses its conditions, and refuses invalid arguments."""

import pytest
import torch
from torch.nn import functional as F

from edmfast.models import ResidualMLP
from edmfast.models.backbones.activation import silu


def test_follows_the_stated_recurrence():
    torch.manual_seed(0)
    net = ResidualMLP(6, width=8, depth=3, num_classes=2, embedding_width=5).double()
    torch.nn.init.normal_(net.output.weight)
    y = torch.randn(4, 2, 3, dtype=torch.float64)
    c_noise, label = torch.randn(4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    angle = c_noise[:, None] * net.embedding._frequencies
    features = torch.cat([angle.cos(), angle.sin()], 1)
    embedded = F.silu(net.embedding.level(features) + net.embedding.label.weight[label])
    shifts = net.shifts(embedded).reshape(4, 3, 8)
    h = net.input(y.flatten(1))
    for index, layer in enumerate(net.layers):
        h = h + F.silu(layer(h) + shifts[:, index])
    torch.testing.assert_close(net(y, c_noise, label), net.output(h).reshape(4, 2, 3))


def test_silu_is_torchs_in_value_and_derivatives():
    x = torch.linspace(-40, 40, 101, dtype=torch.float64, requires_grad=True)
    for order in range(3):
        actual, expected = silu(x), F.silu(x)
        for _ in range(order):
            (actual,) = torch.autograd.grad(actual.sum(), x, create_graph=True)
            (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_starts_at_zero_and_without_label_means_unconditional():
    torch.manual_seed(0)
    net = ResidualMLP(2, num_classes=3)
    y, c_noise = torch.randn(4, 2), torch.zeros(4)
    assert (net(y, c_noise) == 0).all()
    torch.nn.init.normal_(net.output.weight)
    unconditional = net(y, c_noise, torch.full((4,), 3))
    torch.testing.assert_close(net(y, c_noise), unconditional)
    assert not torch.allclose(net(y, c_noise, torch.zeros(4, dtype=torch.int64)), unconditional)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 1, 4, 0]), r"0\.\.3 .*given 0\.\.4"),
        (torch.tensor([0, -1, 2, 0]), r"given -1\.\.2"),
        (torch.zeros(4), "must be int64"),
        (torch.zeros(3, dtype=torch.int64), r"int64 \[4\]"),
    ],
)
def test_bad_labels(label, message):
    with pytest.raises(ValueError, match=message):
        ResidualMLP(2, num_classes=3)(torch.zeros(4, 2), torch.zeros(4), label)


def test_presets_fit_their_targets_and_the_fused_operator():
    for name, dim in {"2-D": 2, "GMM-40": 2, "DW4": 8, "LJ13": 39}.items():
        net = ResidualMLP(**ResidualMLP.PRESETS[name])
        y = torch.randn(3, dim)
        assert net(y, torch.zeros(3)).shape == (3, dim)
        assert net.perceptron(y) is not None
        assert net.config["width"].bit_count() == 1


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes=None"):
        ResidualMLP(2)(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="of 2 numbers"):
        ResidualMLP(2)(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="dim must be an integer of at least 1"):
        ResidualMLP(0)
    with pytest.raises(ValueError, match="num_classes"):
        ResidualMLP(2, num_classes=0)
