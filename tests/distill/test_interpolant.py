"""Test the training of the networks of an interpolant against exact fields, and that runs resume exactly."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from edmfast import analytic
from edmfast.distill import DistillConfig, InterpolantLoss, load_ema, train_interpolant
from edmfast.interpolants import (
    GaussianMixtureInterpolant,
    Interpolant,
    InterpolantModel,
    solve_ode,
    solve_sde,
)
from tests.interpolants.two_mixtures import BASE, DATA

NARROW = analytic.GaussianMixture([[-1.0]], [1.0])
WIDE = analytic.GaussianMixture([[1.5]], [0.5])
FIELDS = ("drift", "velocity", "noise", "score")
SETTINGS = {"steps": 14, "batch_size": 16, "warmup_steps": 3, "checkpoint_every": 5}


class Affine(nn.Module):
    """A field that is affine in x, with Chebyshev polynomials of the time as coefficients."""

    def __init__(self, degree=5):
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(degree, 2))

    def forward(self, x, t, class_label=None):
        angle = torch.acos((2 * t - 1).clamp(-1, 1))[:, None]
        polynomials = torch.cos(angle * torch.arange(len(self.coefficients)))
        slope, offset = (polynomials @ self.coefficients).split(1, 1)
        return slope * x + offset


class Perceptron(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        layers = (nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x, t):
        return self.layers(torch.cat([x / 4, 2 * t[:, None] - 1], 1))


def relative_errors(network, exact, field):
    """Return the mean squared errors of a field over its mean square, at times from .1 to .9."""
    errors = []
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        x = exact.sample(1000, t, seed=5)
        expected = getattr(exact, field)(x, t)
        with torch.no_grad():
            error = network(x.float(), torch.full((1000,), t)) - expected
        errors.append(float(error.square().mean() / expected.square().mean()))
    return errors


@pytest.mark.parametrize("path", [Interpolant("linear", "bsquared"), Interpolant("one-sided-trig")])
def test_training_finds_the_exact_fields(path):
    base = None if path.one_sided else NARROW
    exact = GaussianMixtureInterpolant(base, WIDE, path)
    model = InterpolantModel(path, **{field: Affine() for field in FIELDS})
    config = DistillConfig(
        steps=300,
        batch_size=512,
        learning_rate=0.1,
        warmup_steps=10,
        ema_decay=0.98,
        clip_norm=None,
    )
    samples = None if base is None else base.sample(20_000, seed=2).float()
    data = WIDE.sample(20_000, seed=1).float()
    result = train_interpolant(model, data, base=samples, config=config, progress=False)
    assert result.model is model
    assert result.losses[-50:].mean() < result.losses[:20].mean()
    for field, network in model.networks().items():
        assert max(relative_errors(network, exact, field)) < 0.01, field


@pytest.mark.slow
def test_a_pair_of_perceptrons_carries_two_modes_into_three():
    torch.manual_seed(0)
    path = Interpolant()
    model = InterpolantModel(path, drift=Perceptron(), noise=Perceptron())
    config = DistillConfig(
        steps=2000, batch_size=1024, learning_rate=1e-2, ema_decay=0.99, clip_norm=None
    )
    data, base = DATA.sample(20_000, seed=1).float(), BASE.sample(20_000, seed=2).float()
    train_interpolant(model, data, base=base, config=config, progress=False)
    exact = GaussianMixtureInterpolant(BASE, DATA, path)
    assert max(relative_errors(model.networks()["drift"], exact, "drift")) < 0.06
    x, times = BASE.sample(4000, seed=9).float(), torch.linspace(1e-3, 1 - 1e-3, 101)
    for end in (solve_ode(model, x, times), solve_sde(model, x, times, epsilon=1.0, seed=1)):
        for low, high in ((-99, -3), (-3, 3), (3, 99)):
            # four standard errors are .03, and the rest is for the error of the networks
            assert abs(float(((end > low) & (end <= high)).float().mean()) - 1 / 3) < 0.06


def pair():
    torch.manual_seed(1)
    return InterpolantModel(Interpolant(), drift=Perceptron(8), noise=Perceptron(8))


def stopping_after(model, calls):
    """Make the drift network raise KeyboardInterrupt at call number `calls`."""
    forward, count = model.drift_network.forward, 0

    def call(x, t):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return forward(x, t)

    model.drift_network.forward = call
    return model


@pytest.mark.parametrize("paired", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(paired, tmp_path):
    data, base = DATA.sample(50, seed=1).float(), BASE.sample(50, seed=2).float()
    options = {"base": base, "paired": paired, "progress": False}
    config = DistillConfig(checkpoint=tmp_path / "run.safetensors", **SETTINGS)
    with pytest.raises(KeyboardInterrupt, match="step 7"):
        train_interpolant(stopping_after(pair(), 7), data, config=config, **options)
    resumed = train_interpolant(
        pair(), data, config=config, resume_from=config.checkpoint, **options
    )
    plain = dataclasses.replace(config, checkpoint=None)
    whole = train_interpolant(pair(), data, config=plain, **options)
    assert torch.equal(resumed.losses, whole.losses)
    expected = whole.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())
    averaged = load_ema(config.checkpoint, pair()).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in averaged.items())
    with pytest.raises(ValueError, match="belongs to another run"):
        options["base"] = base + 1
        train_interpolant(pair(), data, config=config, resume_from=config.checkpoint, **options)
    other = InterpolantModel(Interpolant("trig"), drift=Perceptron(8), noise=Perceptron(8))
    with pytest.raises(ValueError, match=r"student\.interpolant"):
        load_ema(config.checkpoint, other)


def test_labels_reach_the_networks_and_the_loss_serves_other_loops():
    seen = []

    class Labelled(Affine):
        def forward(self, x, t, class_label):
            seen.append(class_label)
            return super().forward(x, t)

    model = InterpolantModel(Interpolant("one-sided-linear"), drift=Labelled())
    data = WIDE.sample(40, seed=1).float(), torch.arange(40) % 3
    config = DistillConfig(**(SETTINGS | {"steps": 2}))
    train_interpolant(model, data, config=config, progress=False)
    assert [len(label) for label in seen] == [32, 32]
    assert torch.equal(seen[0][:16], seen[0][16:])
    batch = {"x1": data[0], "z": torch.ones(40, 1), "t": torch.full((40,), 0.5)}
    loss = InterpolantLoss(InterpolantModel(Interpolant("one-sided-linear"), drift=Affine()))
    assert loss(batch).shape == ()
    loss(batch).backward()
    assert loss.model.drift_network.coefficients.grad.abs().sum() > 0
    plain = InterpolantModel(Interpolant("one-sided-linear"), drift=Perceptron())
    with pytest.raises(TypeError, match="the network of the drift accepts no conditions"):
        train_interpolant(plain, data, config=config)


@pytest.mark.slow
def test_a_compiled_run_equals_an_eager_one(recwarn):
    data, base = DATA.sample(50, seed=1).float(), BASE.sample(50, seed=2).float()
    runs = [
        train_interpolant(
            pair(),
            data,
            base=base,
            config=DistillConfig(compile=compiled, **(SETTINGS | {"steps": 3})),
            progress=False,
        )
        for compiled in (False, True)
    ]
    torch.testing.assert_close(runs[0].losses, runs[1].losses)
    assert not [warning for warning in recwarn if "eagerly" in str(warning.message)]


def test_bad_arguments_are_named():
    data = DATA.sample(10, seed=1).float()
    with pytest.raises(TypeError, match="model must be an InterpolantModel, given Perceptron"):
        train_interpolant(Perceptron(), data)
    with pytest.raises(ValueError, match="label_dropout must be 0"):
        train_interpolant(pair(), data, config=DistillConfig(label_dropout=0.1))
    with pytest.raises(ValueError, match="paired=True needs samples of the base"):
        train_interpolant(pair(), data, paired=True)
    with pytest.raises(
        ValueError, match=r"as many rows as the data, 10, with paired=True, given 3"
    ):
        train_interpolant(pair(), data, base=data[:3], paired=True)
    with pytest.raises(TypeError, match=r"base must be a tensor of torch\.float32"):
        train_interpolant(pair(), data, base=data.double())
    with pytest.raises(ValueError, match=r"the shape of the data, \[1\], given \[10, 2\]"):
        train_interpolant(pair(), data, base=data.expand(10, 2))
    one_sided = InterpolantModel(Interpolant("mirror"), drift=Perceptron())
    with pytest.raises(ValueError, match="base must be None for the path 'mirror'"):
        train_interpolant(one_sided, data, base=data)
    with pytest.raises(TypeError, match="paired must be True or False"):
        train_interpolant(pair(), data, base=data, paired=1)
