"""Conditioned binds conditions and passes all other arguments on."""

import pytest
import torch

from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.targets import Conditioned, Product


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = ResidualMLP(2, width=8, depth=1, num_classes=4)
    torch.nn.init.normal_(backbone.output.weight)
    return EnergyModel(backbone)


X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("label", [3, torch.tensor(3), torch.full((5,), 3)])
def test_number_scalar_and_batch(model, label):
    bound, full = Conditioned(model, class_label=label), torch.full((5,), 3)
    expected = model.energy_and_score(X, 0.5, class_label=full)
    for a, b in zip(bound.energy_and_score(X, 0.5), expected, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(bound(X, 0.5), model(X, 0.5, class_label=full))
    assert torch.equal(bound.energy(X, 0.5), model.energy(X, 0.5, class_label=full))
    assert bound.exponent == 1.0


def test_the_condition_matters(model):
    assert not torch.equal(
        Conditioned(model, class_label=1)(X, 0.5), Conditioned(model, class_label=2)(X, 0.5)
    )


def test_pieces_of_a_batch_keep_their_conditions(model):
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([1, 3])
    target = Product([Conditioned(model, class_label=label), Conditioned(model, class_label=2)])
    result, _ = target.for_rows(0, 6, 6).energy_and_score(x, 0.5)
    pieces = [
        target.for_rows(i, i + 2, 6).energy_and_score(x[i : i + 2], 0.5)[0] for i in (0, 2, 4)
    ]
    assert torch.equal(result, torch.cat(pieces))
    expected = model.energy(x, 0.5, class_label=label.repeat_interleave(3))
    expected = expected + model.energy(x, 0.5, class_label=torch.full((6,), 2))
    torch.testing.assert_close(result, expected.detach(), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="4 rows, which do not divide a batch of 6"):
        Conditioned(model, class_label=torch.zeros(4, dtype=torch.int64)).for_rows(0, 2, 6)


def test_bad_conditions_are_refused(model):
    with pytest.raises(ValueError, match="bound to this model already"):
        Conditioned(model, class_label=1)(X, 0.5, class_label=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 rows for a batch of 5"):
        Conditioned(model, class_label=torch.zeros(3, dtype=torch.int64))(X, 0.5)
    with pytest.raises(TypeError, match="number or a tensor"):
        Conditioned(model, class_label="three")
    with pytest.raises(TypeError, match="not an energy"):
        Conditioned(Denoiser(model.backbone), class_label=1).energy_and_score(X, 0.5)
    with pytest.raises(ValueError, match=r"0\.\.4"):
        Conditioned(model, class_label=5)(X, 0.5)
