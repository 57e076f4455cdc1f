"""The training losses agree with their formulas."""

import torch

from edmfast.distill.loss import TrainingLoss, denoising_loss, value_loss, variance_within
from edmfast.models import EnergyModel, ResidualMLP


def test_denoising_loss_of_the_untrained_energy():
    draw = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, 6, 3, generator=draw, dtype=torch.float64)
    sigma = torch.logspace(-1, 1, 6, dtype=torch.float64)
    model = EnergyModel(ResidualMLP(3), sigma_data=0.5).double()
    s = sigma[:, None]
    weight = (s**2 + 0.25) / (0.5 * s) ** 2
    expected = (weight * (0.25 / (s**2 + 0.25) * x - target) ** 2).mean()
    loss = denoising_loss(model, {"x": x, "sigma": sigma, "target": target})
    torch.testing.assert_close(loss.detach(), expected)
    assert loss.requires_grad


def test_variance_within_labels():
    values = torch.tensor([1.0, 3.0, 10.0, 14.0, 100.0], dtype=torch.float64)
    label = torch.tensor([0, 0, 1, 1, 2])
    torch.testing.assert_close(variance_within(values, None), values.var())
    torch.testing.assert_close(variance_within(values, torch.zeros(5).long()), values.var())
    expected = torch.tensor((1 + 1 + 4 + 4) / (5 - 3), dtype=torch.float64)
    torch.testing.assert_close(variance_within(values, label), expected)
    alone = variance_within(values, torch.arange(5))
    assert alone == 0


def test_constants_per_class_do_not_count():
    label = torch.arange(64) % 4
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(64, generator=draw, dtype=torch.float64)
    shifted = values + 10.0 * label
    torch.testing.assert_close(variance_within(values, label), variance_within(shifted, label))


def test_difference_term_is_added_with_its_weight():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(3))
    pairs = torch.randn(2, 4, 3)
    batch = {
        "x": torch.randn(8, 3),
        "sigma": torch.ones(8),
        "target": torch.randn(8, 3),
        "pair_from": pairs[0][None],
        "pair_to": pairs[1][None],
        "pair_sigma_from": torch.tensor([0.6]),
        "pair_sigma_to": torch.tensor([0.4]),
        "pair_target": torch.randn(1, 4),
    }
    plain, half, full = (TrainingLoss(model, weight)(batch) for weight in (0.0, 0.5, 1.0))
    change = model.energy(pairs[1], 0.4) - model.energy(pairs[0], 0.6)
    expected = (-change - batch["pair_target"]).var()
    torch.testing.assert_close(full - plain, expected)
    torch.testing.assert_close(half - plain, 0.5 * expected)


def test_value_term_is_the_mean_variance_of_the_levels():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(3, num_classes=2))
    torch.nn.init.normal_(model.backbone.output.weight)
    x, sigma = torch.randn(8, 3), torch.tensor([0.3, 0.3, 0.5, 0.5, 0.9, 0.9, 2.0, 2.0])
    batch = {
        "x": torch.randn(8, 3),
        "sigma": torch.ones(8),
        "target": torch.randn(8, 3),
        "class_label": torch.zeros(8).long(),
        "value_x": x.repeat_interleave(2, 0),
        "value_sigma": sigma.repeat_interleave(2),
        "value_target": torch.randn(4, 4),
        "value_label": torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0]]),
    }
    labels = batch["value_label"].flatten()
    energies = model.energy(batch["value_x"], batch["value_sigma"], class_label=labels)
    errors = (-energies.view(4, 4) - batch["value_target"]).detach()
    rows = list(zip(errors, batch["value_label"], strict=True))
    variances = [[row[label == k].var() for k in (0, 1)] for row, label in rows]
    expected = torch.tensor(variances).mean()
    torch.testing.assert_close(value_loss(model, batch).detach(), expected)
    plain, half = (TrainingLoss(model, 0.0, None, weight)(batch) for weight in (0.0, 0.5))
    torch.testing.assert_close((half - plain).detach(), 0.5 * expected)
    gauge = torch.tensor([3.0, -2.0])[batch["value_label"]] + torch.randn(4, 1)
    shifted = {**batch, "value_target": batch["value_target"] + gauge}
    torch.testing.assert_close(value_loss(model, shifted).detach(), expected)
