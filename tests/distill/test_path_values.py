"""Path values are the teacher's log-densities up to a constant per level, and training on them resumes exactly."""

from __future__ import annotations

import dataclasses
import sys
import warnings

import pytest
import torch

from edmfast.analytic import GaussianMixture, MixtureOfGaussians
from edmfast.diagnostics import energy_error
from edmfast.distill import DistillConfig, distill
from edmfast.distill.batch import VALUE_LEVELS, BatchMaker
from edmfast.distill.data import DataScaleWarning, TensorData
from edmfast.distill.frozen_teacher import FrozenTeacher
from edmfast.distill.loss import value_loss
from edmfast.distill.path_values import make_pool, reversal_log_ratio
from edmfast.distill.run import TrainingRun
from edmfast.models import EnergyModel, ResidualMLP

GAUSSIAN = GaussianMixture([[0.5] * 8], [0.7])
PAIR = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.15, 0.25], [0.3, 0.7])


class DenoiserOf(torch.nn.Module):
    """The denoiser of an exact density, without its energy."""

    def __init__(self, density):
        super().__init__()
        self.density = density

    def forward(self, x, sigma):
        return self.density(x, sigma)


def pool_of(teacher, samples, labels=None, num_classes=0, **settings):
    config = DistillConfig(value_weight=1.0, **settings)
    data = TensorData(samples, labels, num_classes)
    return make_pool(data, FrozenTeacher(teacher, config, num_classes), config, 0, lambda: None)


def errors(pool, density):
    """Return the error of the values at each level without its mean, [L, n]."""
    levels = zip(pool.values, pool.sigmas, strict=True)
    rows = [values + density.energy(pool.states(sigma), float(sigma)) for values, sigma in levels]
    return torch.stack(rows) - torch.stack(rows).mean(1, keepdim=True)


def test_values_are_exact_for_a_gaussian():
    samples = GAUSSIAN.sample(500, seed=0)
    # far above the data the estimated mean and variance do not matter
    settings = {"value_paths": 100, "value_sigmas": (0.05, 1e5), "batch_size": 33}
    pool = pool_of(DenoiserOf(GAUSSIAN), samples, **settings)
    assert errors(pool, GAUSSIAN).abs().max() < 1e-5
    assert pool.values.std(1).min() > 1
    assert pool.values.mean(1).abs().max() < 1e-9
    assert pool.sigmas[0] == pytest.approx(0.05)
    assert pool.sigmas[-1] == pytest.approx(1e5)


def test_states_are_noised_data():
    samples = torch.full((50, 4), 3.0, dtype=torch.float64)
    pool = pool_of(
        DenoiserOf(PAIR),
        samples[:, :2],
        value_paths=4000,
        batch_size=4000,
        value_levels=5,
        value_sigmas=(0.1, 50.0),
    )
    moves = torch.stack([pool.states(sigma) - 3 for sigma in pool.sigmas])
    spread = moves.square().mean((1, 2)).sqrt()
    torch.testing.assert_close(spread / pool.sigmas, torch.ones_like(spread), rtol=0.03, atol=0)
    # a path is straight: its noise is the same at all levels but for its size
    torch.testing.assert_close(moves[0] / pool.sigmas[0], moves[-1] / pool.sigmas[-1])
    chosen = torch.tensor([5, 0, 5])
    torch.testing.assert_close(
        pool.states(pool.sigmas[[0, 4, 4]], chosen), moves[[0, 4, 4], chosen] + 3
    )


def stiff_mixture():
    """Return a mixture of 6 Gaussians in 16 dimensions, whose covariances have eigenvalues between .01 and 1."""
    draws = torch.Generator().manual_seed(4)
    means = 1.2 * torch.randn(6, 16, dtype=torch.float64, generator=draws)
    axes = torch.linalg.qr(torch.randn(6, 16, 16, dtype=torch.float64, generator=draws))[0]
    variances = torch.logspace(-2, 0, 16, dtype=torch.float64)
    return MixtureOfGaussians(means, axes * variances @ axes.mT)


class ExactTrace(DenoiserOf):
    def jacobian_trace(self, x, sigma):
        return self.density.jacobian_trace(x, sigma)


def test_values_are_right_with_exact_traces_and_one_sided_values_are_not():
    exact = stiff_mixture()
    pool = pool_of(ExactTrace(exact), exact.sample(500, seed=0), value_paths=300, batch_size=300)
    assert errors(pool, exact).std(1).max() < 0.05
    # log-ratios from the upper ends alone, on the same states, miss the bound
    total, rows = pool.values[-1], []
    for level in range(len(pool.sigmas) - 1, 0, -1):
        s, u = pool.sigmas[level], pool.sigmas[level - 1]
        x = pool.states(s)
        trace = exact.jacobian_trace(x, s) / 16
        total = total + reversal_log_ratio(x, pool.states(u), s, u, exact(x, s), trace)
        rows.append(total)
    one_sided = pool._replace(values=torch.stack(rows[::-1]), sigmas=pool.sigmas[:-1])
    assert errors(one_sided, exact).std(1).max() > 0.05


def test_values_are_right_within_a_third_of_a_nat_with_probes():
    exact = stiff_mixture()
    pool = pool_of(DenoiserOf(exact), exact.sample(500, seed=0), value_paths=300, batch_size=300)
    found = errors(pool, exact)
    assert found.std(1).max() < 0.33
    # it is the noise of the probes, which averages out and has no bias
    labels = exact.responsibilities(pool.states(pool.sigmas[0]), float(pool.sigmas[0])).argmax(1)
    means = torch.stack([found[0][labels == k].mean() for k in range(6)])
    assert means.abs().max() < 0.15


@pytest.mark.parametrize("exact_trace", [False, True])
def test_values_of_a_mixture_improve_with_the_number_of_levels(exact_trace):
    teacher = DenoiserOf(PAIR)
    if exact_trace:

        def trace(x, sigma):
            x = x.clone().requires_grad_()
            with torch.enable_grad():
                denoised = PAIR(x, sigma)
                slopes = [
                    torch.autograd.grad(denoised[:, i].sum(), x, retain_graph=True)[0][:, i]
                    for i in range(2)
                ]
            return slopes[0] + slopes[1]

        teacher.jacobian_trace = trace
    samples, sizes = PAIR.sample(2000, seed=1), {"value_paths": 1000, "batch_size": 1000}
    coarse, fine = (
        errors(pool_of(teacher, samples, value_levels=levels, **sizes), PAIR)
        for levels in (16, 128)
    )
    assert fine.std(1).max() < 0.02 < 0.2 * float(coarse.std(1).max())
    # the modes are right against each other
    pool = pool_of(teacher, samples, value_levels=128, **sizes)
    right = pool.states(pool.sigmas[0])[:, 0] > 0
    gap = fine[0][right].mean() - fine[0][~right].mean()
    assert abs(float(gap)) < 0.005


def test_values_of_classes_and_of_no_class():
    parts = [GaussianMixture([[-2.0] * 3], [0.3]), GaussianMixture([[2.0] * 3], [0.6])]
    whole = GaussianMixture([[-2.0] * 3, [2.0] * 3], [0.3, 0.6])
    densities = [*parts, whole]

    class Conditional(torch.nn.Module):
        def forward(self, x, sigma, class_label):
            answers = torch.stack([density(x, sigma) for density in densities])
            return answers[class_label, torch.arange(len(x))]

    samples = torch.cat([part.sample(300, seed=i) for i, part in enumerate(parts)])
    labels = torch.arange(600) // 300
    pool = pool_of(
        Conditional(),
        samples,
        labels,
        2,
        label_dropout=0.3,
        value_paths=1500,
        batch_size=1500,
        value_levels=128,
        value_sigmas=(0.1, 300.0),
    )
    assert set(pool.labels.unique().tolist()) == {0, 1, 2}
    for label, density in enumerate(densities):
        rows = pool.labels == label
        part = pool._replace(
            clean=pool.clean[rows], noise=pool.noise[rows], values=pool.values[:, rows]
        )
        limit = 0.02 if label < 2 else 0.5
        assert errors(part, density).std(1).max() < limit


def batch_of(teacher, samples, step=0, **settings):
    config = DistillConfig(value_weight=1.0, **{"batch_size": 40, "value_paths": 64} | settings)
    return BatchMaker(TensorData(samples, None, 0), teacher, config)(step)


def test_a_teacher_with_an_energy_needs_no_paths(monkeypatch):
    monkeypatch.setattr(sys.modules["edmfast.distill.batch"], "make_pool", None)
    batch = batch_of(PAIR, PAIR.sample(100, seed=0))
    assert batch["value_target"].shape == (VALUE_LEVELS, 10)
    expected = -PAIR.energy(batch["value_x"], batch["value_sigma"])
    torch.testing.assert_close(batch["value_target"].flatten(), expected)
    # the exact energy in another gauge has no loss, and a wrong one has some
    right = EnergyModel(ResidualMLP(8), sigma_data=0.7).double()
    centred = GaussianMixture([[0.0] * 8], [0.7])
    batch = batch_of(centred, centred.sample(100, seed=0))
    assert value_loss(right, batch) < 1e-20
    wrong = EnergyModel(ResidualMLP(8), sigma_data=0.5).double()
    assert value_loss(wrong, batch) > 1e-3


def test_the_energy_of_another_exponent_is_not_that_of_the_denoiser():
    class Squared(DenoiserOf):
        exponent = 2.0

        def energy_and_score(self, x, sigma):
            raise AssertionError("the denoised states belong to the density itself")

    batch = batch_of(Squared(PAIR), PAIR.sample(100, seed=0))
    assert bool(batch["value_target"].isfinite().all())


def test_the_levels_of_a_batch_take_different_paths_and_their_own_labels():
    samples, labels = torch.arange(64.0)[:, None] * 1e3, torch.arange(64)

    class Constant(torch.nn.Module):
        def forward(self, x, sigma, class_label):
            return samples[class_label]

    config = DistillConfig(
        value_weight=1.0, batch_size=64, value_paths=64, value_levels=4, value_sigmas=(0.1, 1.0)
    )
    batch = BatchMaker(TensorData(samples, labels, 64), Constant(), config)(0)
    found = batch["value_label"]
    assert found.shape == (VALUE_LEVELS, 16)
    assert not torch.equal(found[0], found[1])
    # every state lies near the sample of its own label
    assert (batch["value_x"][:, 0] / 1e3).round().long().tolist() == found.flatten().tolist()


def test_a_new_pool_comes_when_it_is_due():
    samples = PAIR.sample(100, seed=0)
    config = DistillConfig(value_weight=1.0, value_paths=16, value_levels=4, value_refresh=3)
    make = BatchMaker(TensorData(samples, None, 0), DenoiserOf(PAIR), config)
    pools = [make._pool_at(step).noise for step in range(7)]
    assert pools[0] is pools[2]
    assert pools[3] is pools[5]
    assert not torch.equal(pools[2], pools[3])
    assert not torch.equal(pools[5], pools[6])
    fresh = BatchMaker(TensorData(samples, None, 0), DenoiserOf(PAIR), config)
    assert torch.equal(fresh._pool_at(4).values, make._pool_at(3).values)


@pytest.mark.parametrize("refresh", [0, 5])
def test_training_on_path_values_resumes_exactly(refresh, data, student, tmp_path):
    teacher = DenoiserOf(PAIR)
    config = DistillConfig(
        steps=13,
        batch_size=16,
        value_weight=0.1,
        value_paths=32,
        value_levels=8,
        value_refresh=refresh,
    )
    whole = distill(teacher, student(), data, config=config, progress=False)
    path = tmp_path / "run.safetensors"
    saving = dataclasses.replace(config, checkpoint=path, checkpoint_every=7)

    class Stop(Exception):
        pass

    saved = TrainingRun._save

    def save_and_stop(self, *arguments, **options):
        if options["last"]:  # the exception makes the run write another checkpoint
            return
        saved(self, *arguments, **options)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_save", save_and_stop)
        with pytest.raises(Stop), pytest.warns(RuntimeWarning, match="stopped by"):
            distill(teacher, student(), data, config=saving, progress=False)
    resumed = distill(teacher, student(), data, config=config, resume_from=path, progress=False)
    assert torch.equal(resumed.losses, whole.losses)


def test_an_interrupt_does_not_wait_for_the_pool(data, student, tmp_path):
    calls = 0

    def teacher(x, sigma):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return PAIR(x, sigma)

    config = DistillConfig(value_weight=0.1, value_paths=8, checkpoint=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt, match="interrupted at step 0"):
        distill(teacher, student(), data, config=config, progress=False)
    assert (tmp_path / "run").exists()


def test_values_make_the_energy_right_between_modes(data, student):
    far = GaussianMixture([[-2.5, 0.0], [2.5, 0.5]], [0.2, 0.5], [0.2, 0.8])
    samples = far.sample(2000, seed=1).float()
    found = {}
    for weight in (0.0, 0.3):
        config = DistillConfig(
            steps=250,
            batch_size=64,
            learning_rate=3e-3,
            betas=(0.9, 0.99),
            ema_decay=0.98,
            value_weight=weight,
            value_paths=512,
        )
        torch.manual_seed(0)
        energy = EnergyModel(ResidualMLP(2, 32, 2), sigma_data=2.0)
        distill(DenoiserOf(far), energy, samples, config=config, progress=False)
        error = energy_error(
            energy,
            far,
            [0.1, 0.5],
            responsibilities=lambda x, sigma: torch.stack([x[:, 0] < 0, x[:, 0] >= 0], 1).double(),
        )
        found[weight] = error.between
    assert bool((found[0.3] < 0.5 * found[0.0]).all())


@pytest.mark.parametrize(
    ("samples", "sigmas"), [(torch.ones(50, 2), None), (torch.randn(50, 2), (1.0, 1.0000001))]
)
def test_levels_that_are_equal_are_refused(samples, sigmas, student):
    config = DistillConfig(
        steps=2, batch_size=8, value_weight=0.1, value_paths=8, value_levels=8, value_sigmas=sigmas
    )
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"equal in torch.float32: take fewer value_levels"),
    ):
        # constant data have no scale
        warnings.simplefilter("ignore", DataScaleWarning)
        distill(lambda x, sigma: x, student(), samples, config=config, progress=False)
