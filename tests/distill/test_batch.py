"""Batches follow the stated distributions, and the difference target is exact for a Gaussian."""

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.distill.batch import BatchMaker
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TensorData
from edmfast.distill.loss import difference_loss
from edmfast.models import EnergyModel, ResidualMLP

GAUSSIAN = GaussianMixture([[0.0] * 8], [0.7], [1.0])


def maker(samples, teacher=None, labels=None, num_classes=0, **settings):
    data = TensorData(samples, labels, num_classes)
    return BatchMaker(data, teacher, DistillConfig(**settings))


def test_noise_levels_and_noise():
    samples = torch.zeros(10, 5, dtype=torch.float64)
    batch = maker(samples, mode="dsm", batch_size=20_000, p_mean=-0.5, p_std=0.8)()
    log_sigma = batch["sigma"].log()
    assert abs(log_sigma.mean() + 0.5) < 5 * 0.8 / math.sqrt(20_000)
    assert abs(log_sigma.std() / 0.8 - 1) < 5 / math.sqrt(2 * 20_000)
    noise = batch["x"] / batch["sigma"][:, None]
    assert abs(noise.mean()) < 5 / math.sqrt(100_000)
    assert abs(noise.var() - 1) < 5 * math.sqrt(2 / 100_000)
    assert torch.equal(batch["target"], samples.expand(-1, -1)[:1].expand(20_000, 5))


def test_target_is_the_teachers_output_and_labels_follow_the_data():
    samples = torch.arange(30.0)[:, None].expand(30, 2).contiguous()
    labels = torch.arange(30) % 3

    def teacher(x, sigma, class_label):
        return x + class_label[:, None]

    batch = maker(samples, teacher, labels, 3, batch_size=64, p_mean=-9.0, p_std=1e-6)()
    assert torch.equal(batch["target"], batch["x"] + batch["class_label"][:, None])
    assert torch.equal(batch["x"][:, 0].round().long() % 3, batch["class_label"])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_label_dropout(probability):
    labels = torch.zeros(10, dtype=torch.int64)
    make = maker(
        torch.zeros(10, 1), None, labels, 5, mode="dsm", batch_size=5000, label_dropout=probability
    )
    dropped = make()["class_label"] == 5
    spread = math.sqrt(probability * (1 - probability) / 5000)
    assert abs(dropped.double().mean() - probability) <= 4 * spread


def test_the_generator_state_is_all_that_is_remembered():
    make = maker(torch.randn(50, 8), GAUSSIAN, difference_weight=1.0, batch_size=8)
    make()
    state = make.generator.get_state()
    first = make()
    make.generator.set_state(state)
    again = make()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["x"], make()["x"])


def test_difference_target_is_exact_for_a_gaussian():
    samples = GAUSSIAN.sample(500, seed=0)
    make = maker(samples, GAUSSIAN, difference_weight=1.0, batch_size=128)
    exact = EnergyModel(ResidualMLP(8), sigma_data=0.7).double()
    wrong = EnergyModel(ResidualMLP(8), sigma_data=0.5).double()
    for _ in range(20):
        batch = make()
        assert difference_loss(exact, batch) < 1e-20
        assert difference_loss(wrong, batch) > 1e-6


def test_steps_come_from_log_spaced_schedules():
    settings = {"difference_sigmas": (0.1, 10.0), "difference_steps": (4, 6), "batch_size": 4}
    make = maker(torch.zeros(4, 8).double(), GAUSSIAN, difference_weight=1.0, **settings)
    ratios = set()
    for _ in range(60):
        batch = make()
        s, u = batch["pair_sigma_from"], batch["pair_sigma_to"]
        assert 0.1 * (1 - 1e-9) <= u < s <= 10.0
        steps = math.log(100) / math.log(s / u)
        assert abs(steps - round(steps)) < 1e-9
        place = math.log(10 / s) / math.log(s / u)
        assert abs(place - round(place)) < 1e-6
        ratios.add(round(steps))
    assert ratios == {4, 5, 6}


@pytest.mark.parametrize(
    ("answer", "error"),
    [(lambda x, sigma: x[:, :1], ValueError), (lambda x, sigma: None, TypeError)],
)
def test_a_teacher_of_the_wrong_shape(answer, error):
    with pytest.raises(error, match=r"must return .*lambda> returned"):
        maker(torch.zeros(4, 2), answer)()


def test_seeds_that_differ_by_two_to_the_32_train_on_other_batches():
    samples = torch.randn(50, 8)
    batches = [maker(samples, mode="dsm", seed=seed)()["x"] for seed in (5, 5 + 2**32, 5 + 2**33)]
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[1], batches[2])
    plain = torch.Generator().manual_seed(5)
    index = torch.randint(50, (128,), generator=plain)
    torch.randn((128,), generator=plain)
    noise = torch.randn((128, 8), generator=plain)
    batch = maker(samples, mode="dsm", seed=5)()
    assert torch.equal(batch["x"], samples[index] + batch["sigma"][:, None] * noise)


class Labelled(torch.nn.Module):
    """A teacher with three classes and none for "unconditional"."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(3, 1)

    def forward(self, x, sigma, class_label):
        return x + self.table(class_label)


def test_a_teacher_without_an_unconditional_class_is_named():
    labels = torch.zeros(10, dtype=torch.int64)
    make = maker(torch.zeros(10, 1), Labelled(), labels, 3, batch_size=8, label_dropout=1.0)
    with pytest.raises(ValueError, match=r"teacher Labelled.*label 3, which means unconditional"):
        make()
