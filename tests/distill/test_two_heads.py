"""Two heads learn a denoiser and its energy from data alone, or from a teacher, by the loss that is stated."""

import shutil

import pytest
import torch

from edmfast.distill import DistillConfig, distill
from edmfast.distill.batch import BatchMaker
from edmfast.distill.data import TensorData
from edmfast.distill.fokker_planck_loss import fokker_planck_loss
from edmfast.distill.gradients import gradient_function
from edmfast.distill.loss import denoising_loss, difference_loss, value_loss
from edmfast.distill.two_heads import TwoHeadsLoss, two_heads_loss
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, TwoHeads, UNet

SETTINGS = {
    "mode": "two_heads",
    "batch_size": 256,
    "learning_rate": 3e-3,
    "warmup_steps": 20,
}


class Half(torch.nn.Module):
    def __init__(self, backbone, index):
        super().__init__()
        self.inner, self.index = backbone, index

    def forward(self, y, c_noise, **condition):
        return self.inner(y, c_noise, **condition).chunk(2, 1)[self.index]


def two_heads(width=48, depth=3, seed=0):
    torch.manual_seed(seed)
    backbone = ResidualMLP(2, width, depth, embedding_width=8, out_dim=4)
    return TwoHeads(backbone, sigma_data=0.9)


def randomised(model):
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch_of(shape, size=8, classes=False):
    draw = torch.Generator().manual_seed(3)
    batch = {
        "x": torch.randn(size, *shape, generator=draw),
        "target": torch.randn(size, *shape, generator=draw),
        "sigma": torch.rand(size, generator=draw) * 2 + 0.05,
    }
    return batch | ({"class_label": torch.arange(size) % 3} if classes else {})


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_loss_is_that_of_the_denoiser_plus_that_of_the_energy(kind):
    torch.manual_seed(1)
    if kind == "mlp":
        backbone, shape = ResidualMLP(2, 8, 1, num_classes=3, out_dim=4), (2,)
    else:
        backbone, shape = UNet(1, (4, 4), groups=2, num_classes=3, out_channels=2), (1, 4, 4)
    model = randomised(TwoHeads(backbone, sigma_data=0.9))
    batch = batch_of(shape, classes=True)
    denoiser = Denoiser(Half(model.backbone, 0), sigma_data=0.9)
    energy = EnergyModel(Half(model.backbone, 1), sigma_data=0.9)
    scores = denoising_loss(denoiser, batch)
    with torch.no_grad():
        own = denoiser(batch["x"], batch["sigma"], class_label=batch["class_label"])
    # the second term is the distillation of the energy from the denoiser of the same weights
    energies = denoising_loss(energy, {**batch, "target": own})
    expected = scores + 0.7 * energies
    actual = two_heads_loss(model, batch, 0.7)
    torch.testing.assert_close(actual, expected)
    parameters = [*model.parameters()]
    for a, b in zip(
        torch.autograd.grad(actual, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def score_error(model, teacher, sigma):
    x = teacher.sample(1000, sigma, seed=9).float()
    exact = teacher.energy_and_score(x, sigma)[1]
    score = (model(x, sigma) - x).detach() / sigma**2
    return float((score - exact).norm() / exact.norm())


@pytest.mark.parametrize("taught", [False, True])
def test_denoiser_and_energy_are_learned_together(taught, teacher, data):
    model = two_heads()
    config = DistillConfig(steps=400, **SETTINGS)
    result = distill(teacher if taught else None, model, data, config=config, progress=False)
    assert result.model is model
    assert not model.training
    for sigma in (0.3, 1.0):
        # clean samples as targets have noise, which a teacher has not
        assert score_error(model, teacher, sigma) < (0.12 if taught else 0.2)
        assert score_error(two_heads(), teacher, sigma) > 0.3
    x = teacher.sample(1000, 0.5, seed=10).float()
    energy, score = model.energy_and_score(x.requires_grad_(), 0.5)
    error = energy.detach() - teacher.energy_and_score(x, 0.5)[0].detach()
    assert error.std() < (0.1 if taught else 0.3)
    # the score is nearly that of the energy
    (slope,) = torch.autograd.grad(energy.sum(), x)
    score = score.detach()
    assert float((slope + score).norm() / slope.norm()) < 0.12


def test_energies_of_a_teacher_are_regressed_too(teacher, data):
    model = randomised(two_heads(16, 1))
    weights = {"value_weight": 0.3, "difference_weight": 0.2, "energy_weight": 0.7}
    weights["fokker_planck_weight"] = 0.1
    config = DistillConfig(value_sigmas=(0.1, 10.0), **weights, **SETTINGS)
    batch = BatchMaker(TensorData(data, None, 0), teacher, config)()
    expected = (
        two_heads_loss(model, batch, 0.7)
        + 0.2 * difference_loss(model, batch)
        + 0.3 * value_loss(model, batch)
        + 0.1 * fokker_planck_loss(model, batch)
    )
    torch.testing.assert_close(TwoHeadsLoss(model, config)(batch), expected)
    assert torch.equal(batch["target"], teacher(batch["x"], batch["sigma"]))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_compiled_step_equals_the_eager_one(weight):
    model = randomised(two_heads(8, 1))
    config = DistillConfig(mode="two_heads", energy_weight=0.5, time_score_weight=weight)
    loss = TwoHeadsLoss(model, config)
    named = {f"student.{name}": p for name, p in model.named_parameters()}
    batch = batch_of((2,), 16)
    batch["noise_excess"] = torch.randn(16, generator=torch.Generator().manual_seed(4))
    eager, compiled = (gradient_function(loss, named, compile=c)(batch) for c in (False, True))
    torch.testing.assert_close(compiled[0], eager[0])
    for a, b in zip(compiled[1], eager[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    def run(steps, **options):
        model = two_heads(8, 1)
        config = DistillConfig(
            steps=steps, schedule="constant", checkpoint=tmp_path / "run.safetensors", **SETTINGS
        )
        distill(None, model, data, config=config, progress=False, **options)
        return model

    whole = run(8)
    run(4, overwrite=True)
    resumed = run(8, resume_from=tmp_path / "run.safetensors")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weight_of_the_energy_belongs_to_the_run_of_two_heads_alone():
    assert DistillConfig(mode="two_heads").trajectory()["energy_weight"] == 0.1
    assert "energy_weight" not in DistillConfig().trajectory()


@pytest.mark.parametrize(
    ("mode", "build"),
    [
        ("two_heads", lambda: EnergyModel(ResidualMLP(2))),
        ("dsm", two_heads),
        ("distill", two_heads),
    ],
)
def test_mode_and_student_must_fit(mode, build, teacher, data):
    with pytest.raises(ValueError, match='mode="two_heads" and a student TwoHeads need each other'):
        distill(teacher, build(), data, config=DistillConfig(mode=mode), progress=False)


def test_values_need_a_teacher(data):
    with pytest.raises(ValueError, match="training without a teacher"):
        config = DistillConfig(mode="two_heads", value_weight=0.1)
        distill(None, two_heads(), data, config=config, progress=False)
