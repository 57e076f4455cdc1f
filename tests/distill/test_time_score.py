"""The loss of time scores: least at the exact energy, with opposite draws of the right law, in every training."""

import math
import shutil

import pytest
import torch
from torch import nn

from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill
from edmfast.distill.batch import BatchMaker
from edmfast.distill.data import TensorData
from edmfast.distill.gradients import gradient_function
from edmfast.distill.loss import TrainingLoss, both_scores_loss, denoising_loss
from edmfast.distill.time_score import (
    opposite_draws,
    opposite_square,
    slope_and_denoised,
    time_score_loss,
)
from edmfast.distill.two_heads import two_heads_loss
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, TwoHeads
from tests.small_models import Wide


def randomised(model):
    torch.manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def batches(samples, labels=None, classes=0, **settings):
    config = DistillConfig(mode="dsm", time_score_weight=1.0, **settings)
    return BatchMaker(TensorData(samples, labels, classes), None, config)


@pytest.mark.parametrize("elements", [1, 2, 64, 3072])
def test_an_opposite_square_is_exceeded_as_often_as_the_other_one_is_not(elements):
    draws = torch.Generator().manual_seed(0)
    likely = torch.rand(2000, dtype=torch.float64, generator=draws)
    normal = torch.special.ndtri(likely)
    # squares at all parts of the law, and far out
    square = elements * (1 + normal * math.sqrt(2 / elements)).clamp_min(0.01).square()
    opposite = opposite_square(square, elements)
    shape = torch.full_like(square, elements / 2)
    above = torch.special.gammaincc(shape, square / 2)
    below = torch.special.gammainc(shape, opposite / 2)
    torch.testing.assert_close(below, above, rtol=1e-9, atol=1e-12)
    if elements == 2:
        torch.testing.assert_close(opposite, -2 * torch.log(-torch.expm1(-square / 2)))


def test_opposite_draws_are_standard_normal_and_nearly_fix_the_sum_of_squares():
    noise = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(1))
    draws = opposite_draws(noise)
    first, second = draws[::2], draws[1::2]
    assert torch.equal(first, noise[::2])
    squares = torch.stack([first.square().sum(1), second.square().sum(1)])
    assert float(squares[1].mean()) == pytest.approx(64, rel=0.01)
    assert float(squares[1].var()) == pytest.approx(128, rel=0.05)
    assert float(torch.corrcoef(squares)[0, 1]) < -0.98
    cosine = nn.functional.cosine_similarity(first, second)
    torch.testing.assert_close(cosine, torch.full_like(cosine, -1.0))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_rows_share_level_sample_and_label(dropout):
    samples, labels = 10.0 * torch.arange(50)[:, None].expand(50, 3), torch.arange(50)
    maker = batches(samples, labels, 50, batch_size=64, label_dropout=dropout, p_mean=-3.0)
    drawn = maker.draw(0)
    batch = maker.part(drawn, slice(0, 64))
    levels = batch["sigma"].view(8, 8)
    assert torch.equal(levels, levels[:, :1].expand(8, 8))
    assert len(levels[:, 0].unique()) == 8
    clean, label = batch["target"], batch["class_label"]
    assert torch.equal(clean[::2], clean[1::2])
    assert torch.equal(label[::2], label[1::2])
    assert len(clean[:, 0].unique()) > 20
    kept = label < 50
    assert torch.equal(label[kept], (clean[kept, 0] / 10).round().long())
    assert bool(kept.all()) == (dropout == 0)
    noise = (batch["x"] - clean) / batch["sigma"][:, None]
    excess = noise.square().sum(1) - 3
    torch.testing.assert_close(batch["noise_excess"], excess, rtol=0.1, atol=0.2)
    parts = [maker.part(drawn, rows) for rows in (slice(0, 24), slice(24, 64))]
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


def time_score_of(student, batch):
    slope, _ = slope_and_denoised(student, batch["x"], batch["sigma"], {})
    return time_score_loss(slope, batch["noise_excess"])


def test_the_exact_energy_has_the_least_loss_in_every_gauge():
    samples = torch.randn(
        40_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    batch = batches(samples, batch_size=80_000, p_mean=0.0, p_std=0.7)()
    losses = {e: float(time_score_of(Wide(e), batch).detach()) for e in (0.9, 1.0, 1.1)}
    assert losses[1.0] < min(losses[0.9], losses[1.1])
    # the parabola through the three losses has its minimum at 1
    slope, curve = losses[1.1] - losses[0.9], losses[1.1] - 2 * losses[1.0] + losses[0.9]
    assert abs(-0.1 * slope / (2 * curve)) < 0.03
    shifted = float(time_score_of(Wide(gauge=3.0), batch).detach())
    assert shifted == pytest.approx(losses[1.0], rel=1e-12)


@pytest.mark.parametrize("potential", ["inner", "residual"])
def test_slope_and_denoised_states_are_those_of_the_energy(potential):
    model = randomised(EnergyModel(ResidualMLP(2, 8, 1), potential=potential, sigma_data=0.7))
    draws = torch.Generator().manual_seed(4)
    x, sigma = torch.randn(2, 16, 2, dtype=torch.float64, generator=draws)
    sigma = sigma[:, 0].abs() + 0.1
    slope, denoised = slope_and_denoised(model, x, sigma, {})
    torch.testing.assert_close(denoised, model(x, sigma))
    step = 1e-5
    above, below = (model.energy(x, sigma * math.exp(s)) for s in (step, -step))
    torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-7)


def test_both_losses_of_an_energy_are_those_that_are_stated():
    model = randomised(EnergyModel(ResidualMLP(2, 8, 1), sigma_data=0.7))
    samples = torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    batch = batches(samples, batch_size=32)()
    expected = denoising_loss(model, batch) + 0.3 * time_score_of(model, batch)
    torch.testing.assert_close(both_scores_loss(model, batch, 0.3), expected)


class Apart(nn.Module):
    """Two heads that share no weights."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([ResidualMLP(2, 8, 1), ResidualMLP(2, 8, 1)])

    def forward(self, y, c_noise):
        return torch.cat([part(y, c_noise) for part in self.parts], 1)


def test_two_heads_have_the_slope_of_their_energy_which_leaves_their_scores_alone():
    model = randomised(TwoHeads(Apart(), sigma_data=0.7))
    energy = EnergyModel(model.backbone.parts[1], sigma_data=0.7)
    samples = torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    batch = batches(samples, batch_size=32)()
    losses = [two_heads_loss(model, batch, 0.1, weight) for weight in (0.0, 0.3)]
    torch.testing.assert_close(losses[1], losses[0] + 0.3 * time_score_of(energy, batch))
    scores, energies = model.backbone.parts
    for part, same in ((scores, True), (energies, False)):
        plain, joined = (
            torch.autograd.grad(loss, [*part.parameters()], retain_graph=True) for loss in losses
        )
        assert all(map(torch.equal, plain, joined)) == same


FAR = GaussianMixture([[-2.5, 0.0], [2.5, 0.5]], [0.2, 0.5], [0.2, 0.8])


class Lifted(nn.Module):
    """The exact energy of FAR, with one mode lifted by `lift` nats at low noise, where no gradient shows it."""

    sigma_data = 2.0

    def __init__(self):
        super().__init__()
        self.lift = nn.Parameter(torch.tensor(2.0))

    def energy(self, x, sigma):
        right = torch.sigmoid(20 * x[:, 0])
        lifted = self.lift * right * torch.exp(-sigma.square() / 0.32)
        return FAR.energy(x.double(), sigma.double()).to(x.dtype) + lifted

    def forward(self, x, sigma):
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            energy = self.energy(x, sigma).sum()
            (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
        return x - sigma.square()[:, None] * gradient


def test_slopes_show_how_probable_modes_are_and_scores_do_not():
    samples, lifts = FAR.sample(2000, seed=1).float(), {}
    for weight in (0.0, 1.0):
        student = Lifted()
        config = DistillConfig(
            mode="dsm",
            steps=150,
            warmup_steps=10,
            learning_rate=0.05,
            p_mean=-1.2,
            p_std=0.4,
            ema_decay=0.95,
            time_score_weight=weight,
        )
        distill(None, student, samples, config=config, progress=False)
        lifts[weight] = float(student.lift.detach())
    assert lifts[0.0] > 1.5
    assert abs(lifts[1.0]) < 0.2


def test_a_resumed_run_and_rounds_of_a_step_give_the_same(data, student, tmp_path):
    def run(steps=8, accumulate=1, **options):
        config = DistillConfig(
            mode="dsm",
            steps=steps,
            batch_size=32,
            schedule="constant",
            time_score_weight=0.05,
            accumulate=accumulate,
            checkpoint=tmp_path / "run.safetensors",
        )
        return distill(
            None, student(), data, config=config, progress=False, overwrite=True, **options
        )

    whole = run()
    torch.testing.assert_close(run(accumulate=4).losses, whole.losses, rtol=1e-5, atol=1e-5)
    run(4)
    resumed = run(resume_from=tmp_path / "run.safetensors")
    assert torch.equal(resumed.losses, whole.losses)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_step_equals_the_eager_one(data, student):
    model = student()
    nn.init.normal_([*model.parameters()][-1], std=0.3)
    loss = TrainingLoss(model, 0.0, time_score_weight=0.3)
    named = {f"student.{name}": p for name, p in model.named_parameters()}
    batch = batches(data, batch_size=16)()
    eager, compiled = (gradient_function(loss, named, compile=c)(batch) for c in (False, True))
    torch.testing.assert_close(compiled[0], eager[0])
    for a, b in zip(compiled[1], eager[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_errors(data, student, teacher):
    with pytest.raises(ValueError, match="a multiple of 8, given 20"):
        DistillConfig(time_score_weight=0.1, batch_size=20)
    with pytest.raises(ValueError, match="time_score_weight > 0 needs Gaussian noise"):
        DistillConfig(time_score_weight=0.1, noise_dof=3.0)
    config = DistillConfig(steps=1, batch_size=24, time_score_weight=0.1, accumulate=2)
    with pytest.raises(ValueError, match="batch_size must be a multiple of 8 for each of the 2"):
        distill(teacher, student(), data, config=config, progress=False)
    config = DistillConfig(steps=1, time_score_weight=0.1, mode="dsm")
    with pytest.raises(ValueError, match="a student for time_score_weight > 0 needs an energy"):
        distill(None, Denoiser(ResidualMLP(2)), data, config=config, progress=False)

    class Fixed(Wide):
        def energy(self, x, sigma):
            return self.excess.to(x.dtype) * x.square().sum(1)

    with pytest.raises(ValueError, match="the one of Fixed has not"):
        distill(None, Fixed().float(), data, config=config, progress=False)


def test_the_weight_belongs_to_runs_that_have_the_loss():
    assert "time_score_weight" not in DistillConfig().trajectory()
    assert DistillConfig(time_score_weight=0.5).trajectory()["time_score_weight"] == 0.5
