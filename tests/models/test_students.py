"""Students start from the teacher's weights, as a Gaussian, or from weights of their own; the teacher stays."""

import copy

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.models import (
    Denoiser,
    DiT,
    EnergyModel,
    ResidualMLP,
    SongUNet,
    UNet,
    initialise_from,
    student_from,
)


def teacher_of(kind="dit"):
    torch.manual_seed(0)
    if kind == "dit":
        backbone = DiT(1, 4, 2, width=8, depth=2, heads=2, num_classes=3, dropout=0.5)
    else:
        backbone = SongUNet(
            4,
            1,
            1,
            label_dim=3,
            model_channels=4,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(2,),
            dropout=0.5,
            label_dropout=0.3,
        )
    for parameter in backbone.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return Denoiser(backbone, sigma_data=0.8)


DATA = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = {"class_label": torch.arange(64) % 4}


@pytest.mark.parametrize("kind", ["dit", "song"])
def test_start_from_weights_fits_without_dropout_and_under_the_conditions(kind):
    teacher = teacher_of(kind).train()
    before = copy.deepcopy(teacher.state_dict())
    student = student_from(teacher, DATA, seed=3, **LABELS)
    expected = EnergyModel(copy.deepcopy(teacher.backbone), sigma_data=0.8)
    initialise_from(expected.eval(), copy.deepcopy(teacher).eval(), DATA, seed=3, **LABELS)
    assert torch.equal(student.scale.values, expected.scale.values)
    assert ((student.scale.values >= 0.5) & (student.scale.values <= 1)).all()
    # the fit depends on the classes, and neither model's mode has changed
    other = student_from(teacher, DATA, seed=3, class_label=torch.zeros(64, dtype=torch.int64))
    assert not torch.equal(other.scale.values, student.scale.values)
    assert all(module.training for module in (*teacher.modules(), *student.modules()))
    assert student.sigma_data == 0.8
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(student.state_dict()[name], value)
    for parameter in student.parameters():
        parameter.data.zero_()
    assert all(parameter.any() for parameter in teacher.parameters())


def test_start_from_weights_is_close_to_a_teacher_that_is_nearly_a_gradient():
    matrix = torch.tensor([[1.0, 0.2], [0.2, -0.5]])

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.nn.Parameter(matrix)

        def forward(self, y, c_noise):
            return y @ self.matrix

    teacher, x = Denoiser(Linear(), sigma_data=0.8), torch.randn(64, 2)
    student = student_from(teacher, x)
    torch.testing.assert_close(student(x, 0.4), teacher(x, 0.4).detach())
    # a foreign denoiser names the module whose weights are copied
    foreign = student_from(
        lambda x, sigma: teacher(x, sigma),
        x,
        weights_from=teacher.backbone,
        sigma_data=0.8,
    )
    torch.testing.assert_close(foreign(x, 0.4), teacher(x, 0.4).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dit", "song"])
def test_start_from_zero_is_exactly_gaussian(kind):
    teacher = teacher_of(kind)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    student = student_from(teacher, DATA, start="zero", seed=3, **LABELS)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert type(student.backbone) is type(teacher.backbone)
    assert student.backbone.config == teacher.backbone.config
    energy, score = student.energy_and_score(DATA, 0.3, **LABELS)
    variance = 0.3**2 + 0.8**2
    torch.testing.assert_close(energy, DATA.flatten(1).square().sum(1) / (2 * variance))
    torch.testing.assert_close(score, -DATA / variance)
    again = student_from(teacher, DATA, start="zero", seed=3, **LABELS)
    other = student_from(teacher, DATA, start="zero", seed=4, **LABELS)
    weights = [next(model.backbone.parameters()) for model in (student, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_another_backbone():
    exact = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.2])
    x, backbone = exact.sample(32, seed=1).float(), ResidualMLP(2, width=8)
    student = student_from(exact, x, start="zero", backbone=backbone, sigma_data=0.9)
    assert student.backbone is backbone
    torch.nn.init.normal_(backbone.output.weight)
    kept = student_from(
        exact, x, start="given", backbone=backbone, potential="norm", sigma_data=0.9
    )
    assert kept.potential_name == "norm"
    assert kept.backbone.output.weight.any()
    # weights are copied into a network of the same architecture
    teacher = teacher_of()
    copied = student_from(teacher, DATA, backbone=DiT(**teacher.backbone.config), **LABELS)
    assert torch.equal(copied.backbone.output.weight, teacher.backbone.output.weight)


class Plain(torch.nn.Module):
    def forward(self, y, c_noise):
        return y


@pytest.mark.parametrize(
    ("teacher", "options", "error", "message"),
    [
        (teacher_of(), {"start": "random"}, ValueError, "start must be one of"),
        (teacher_of(), {"start": "given"}, ValueError, "needs backbone="),
        (
            teacher_of(),
            {"start": "zero", "backbone": Plain()},
            ValueError,
            "Plain does not start at zero",
        ),
        (Denoiser(Plain()), {"start": "zero"}, ValueError, "Plain has no config"),
        (teacher_of(), {"potential": "norm"}, ValueError, 'only potential="inner"'),
        (teacher_of(), {"backbone": UNet(1, (8,))}, ValueError, "must agree"),
        (lambda x, sigma: x, {}, ValueError, "has no attribute sigma_data"),
        (lambda x, sigma: x, {"sigma_data": 0.5}, TypeError, "pass backbone="),
    ],
)
def test_errors(teacher, options, error, message):
    with pytest.raises(error, match=message):
        student_from(teacher, DATA, **options)


def test_the_copy_of_a_frozen_teacher_can_be_trained():
    torch.manual_seed(0)
    teacher = Denoiser(ResidualMLP(2, width=8, depth=1)).requires_grad_(False)
    for start in ("weights", "zero"):
        student = student_from(teacher, torch.randn(8, 2), start=start)
        assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
