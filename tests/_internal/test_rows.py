"""On the CPU the bits of a sample do not depend on the batch that it is in."""

import pytest
import torch

from edmfast._internal.rows import MIN_ROWS, ROW_TILE, pad_rows
from edmfast.models import Denoiser, DiT, EnergyModel, PairwiseMLP, ResidualMLP, UNet

MODELS = {
    "mlp": (lambda: ResidualMLP(3, width=37, depth=2, num_classes=3), (3,)),
    "wide": (lambda: ResidualMLP(17, width=32, depth=1, num_classes=3), (17,)),
    "odd": (lambda: UNet(1, (8, 8, 16), groups=4, num_classes=3), (1, 12, 12)),
    "unet": (lambda: UNet(1, (8, 16), groups=4, num_classes=3), (1, 8, 8)),
    "patched": (lambda: UNet(1, (12, 16), groups=4, num_classes=3, patch=2), (1, 8, 8)),
    "dit": (lambda: DiT(1, 8, width=16, depth=2, heads=2, num_classes=3), (1, 8, 8)),
    # This network has 15 tokens of 9 numbers, and heads of 3 numbers.
    "odd dit": (
        lambda: DiT(1, (9, 15), 3, width=12, depth=2, heads=4, num_classes=3, mlp_ratio=1.5),
        (1, 9, 15),
    ),
    "dw4": (lambda: PairwiseMLP(4, 2, width=16, depth=2, num_classes=3), (4, 2)),
    # This network has 21 pairs of 7 particles, and rows of 10, 9 and 35 numbers.
    "odd pairs": (lambda: PairwiseMLP(7, 5, 10, 2, num_classes=3, features=9), (35,)),
    "lj13": (lambda: PairwiseMLP(13, 3, width=32, depth=2, num_classes=3), (13, 3)),
}


def randomised(backbone):
    """Return the model with random parameters, also where layers start at zero."""
    for parameter in backbone.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return backbone


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_a_sample_do_not_depend_on_the_batch(name, dtype):
    build, shape = MODELS[name]
    torch.manual_seed(0)
    backbone = randomised(build())
    energy, denoiser = EnergyModel(backbone).to(dtype), Denoiser(backbone)
    x = torch.randn(130, *shape, dtype=dtype)
    sigma = torch.rand(130, dtype=dtype) + 0.05
    label = torch.randint(0, 4, (130,))

    def everything(rows):
        condition = {"class_label": label[rows]}
        leaf = x[rows].clone().requires_grad_()
        _, score = energy.energy_and_score(leaf, sigma[rows], **condition)
        (curvature,) = torch.autograd.grad(score.sum(), leaf)
        return (
            *energy.energy_and_score(x[rows], sigma[rows], **condition),
            energy.energy(x[rows], sigma[rows], **condition).detach(),
            energy(x[rows], sigma[rows], **condition),
            denoiser(x[rows], sigma[rows], **condition).detach(),
            curvature,
        )

    full_batch = everything(slice(None))
    for rows in (
        slice(0, 1),
        slice(5, 8),
        slice(3, 34),
        slice(0, 33),
        slice(1, 102),
        slice(7, 130),
    ):
        for part, full in zip(everything(rows), full_batch, strict=True):
            assert torch.equal(part, full[rows])


@pytest.mark.parametrize("name", MODELS)
def test_one_noise_level_has_the_bits_of_equal_levels(name):
    build, shape = MODELS[name]
    torch.manual_seed(0)
    model = EnergyModel(randomised(build()))
    for batch in (1, 5, 32, 70):
        x = torch.randn(batch, *shape)
        shared = model.energy_and_score(x, 0.7)
        many = model.energy_and_score(x, torch.full((batch,), 0.7))
        assert all(torch.equal(a, b) for a, b in zip(shared, many, strict=True))


def test_padding_repeats_the_last_row_and_its_condition():
    x, levels = torch.arange(6.0).reshape(3, 2), torch.tensor([[1.0], [2.0], [3.0]])
    label, other = torch.tensor([4, 5, 6]), torch.ones(7)
    padded, padded_levels, condition = pad_rows(x, levels, {"a": label, "b": other, "c": None})
    assert padded.shape == (MIN_ROWS, 2)
    assert torch.equal(padded[:3], x)
    assert (padded[3:] == x[-1]).all()
    assert (padded_levels[3:] == 3).all()
    assert condition["a"].tolist() == [4, 5] + [6] * (MIN_ROWS - 2)
    assert condition["b"] is other
    assert condition["c"] is None


@pytest.mark.parametrize("rows", [0, MIN_ROWS, MIN_ROWS + ROW_TILE])
def test_other_batches_pass_through(rows):
    x, levels = torch.zeros(rows, 2), torch.zeros(rows, 1)
    assert pad_rows(x, levels, {})[0] is x


def test_padding_does_not_reach_parameter_gradients():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=8, depth=1)).double()
    torch.nn.init.normal_(model.backbone.output.weight)
    x = torch.randn(40, 2, dtype=torch.float64)

    def gradients(blocks):
        model.zero_grad()
        for block in blocks:
            model(block.clone().requires_grad_(), 0.5).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for a, b in zip(gradients([x]), gradients(x.split(3)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
