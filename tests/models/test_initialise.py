"""Initialisation from a teacher's weights gives the best scales, and the scale table interpolates them."""

import math

import pytest
import torch

from edmfast.models import Denoiser, EnergyModel, ResidualMLP, initialise_from
from edmfast.models.scale_table import ScaleTable


class Linear(torch.nn.Module):
    """The backbone h = M y with a symmetric M, for which grad <h, y> = 2h, so that the scale must be 1/2."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = torch.nn.Parameter(matrix)

    def forward(self, y, c_noise):
        return y @ self.matrix


DATA = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


def test_symmetric_linear_teacher_is_reproduced_exactly():
    matrix = torch.tensor([[1.0, 0.2, 0.0], [0.2, -0.5, 0.1], [0.0, 0.1, 0.3]])
    teacher = Denoiser(Linear(matrix))
    model = initialise_from(EnergyModel(Linear(torch.zeros(3, 3))), teacher, DATA)
    torch.testing.assert_close(model.scale.values, torch.full((17,), 0.5))
    torch.testing.assert_close(model(DATA, 0.37), teacher(DATA, 0.37).detach())


def test_fit_is_the_best_scalar():
    torch.manual_seed(0)
    teacher = Denoiser(ResidualMLP(3, width=16, depth=2))
    torch.nn.init.normal_(teacher.backbone.output.weight, std=0.3)
    model = initialise_from(EnergyModel(ResidualMLP(3, width=16, depth=2)), teacher, DATA)
    assert ((model.scale.values > 0.5) & (model.scale.values < 1)).any()

    def error(entry, factor):
        sigma = model.scale.sigmas[entry]
        generator = torch.Generator().manual_seed(0)
        noise = [torch.randn(DATA.shape, generator=generator) for _ in range(entry + 1)][-1]
        x = DATA + sigma * noise
        model.scale.values[entry] *= factor
        loss = (model(x, sigma) - teacher(x, sigma)).square().sum().item()
        model.scale.values[entry] /= factor
        return loss

    entry = 9
    assert 0.5 < model.scale.values[entry] < 1
    assert error(entry, 1.0) < min(error(entry, 0.97), error(entry, 1.03))


def test_zero_teacher_keeps_the_table_at_one():
    model = initialise_from(EnergyModel(ResidualMLP(3)), Denoiser(ResidualMLP(3)), DATA)
    assert (model.scale.values == 1).all()


def test_table_interpolates_linearly_in_log_sigma():
    table = ScaleTable()
    sigmas = torch.tensor(table.sigmas)
    assert (table(sigmas.log() / 4 + 0.01) == 1).all()
    table.values.copy_(torch.rand(17, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(table(sigmas.log() / 4), table.values, rtol=1e-4, atol=1e-5)
    middle = table((sigmas[:-1] * sigmas[1:]).sqrt().log() / 4)
    expected = (table.values[:-1] + table.values[1:]) / 2
    torch.testing.assert_close(middle, expected, rtol=1e-4, atol=1e-5)
    outside = table(torch.tensor([1e-9, 1e9]).log() / 4)
    torch.testing.assert_close(outside, table.values[[0, -1]])


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (EnergyModel(ResidualMLP(3), potential="norm"), DATA, 'only potential="inner"'),
        (EnergyModel(ResidualMLP(3), sigma_data=1.0), DATA, "the same sigma_data"),
        (EnergyModel(ResidualMLP(3, width=8)), DATA, "backbones of model and teacher must agree"),
        (EnergyModel(ResidualMLP(3)), DATA[:0], "at least one sample"),
        (EnergyModel(ResidualMLP(3)), DATA * math.nan, "finite"),
    ],
)
def test_errors(model, data, message):
    with pytest.raises(ValueError, match=message):
        initialise_from(model, Denoiser(ResidualMLP(3)), data)
