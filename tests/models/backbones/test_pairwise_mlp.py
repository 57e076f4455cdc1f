"""PairwiseMLP has its symmetries, initialisation, derivatives, files and compiled graphs, and learns."""

import itertools
import shutil
import warnings

import pytest
import torch
from torch.func import functional_call

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, PairwiseMLP, load_model, save_model
from edmfast.models.backbones.distance_features import DistanceFeatures

SYSTEMS = {"dw4": (4, 2), "lj13": (13, 3), "two on a line": (2, 1)}


def without_zeros(net):
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return net


def tiny(particles=4, dimensions=2, **arguments):
    torch.manual_seed(0)
    settings = {"width": 8, "depth": 2, "features": 8, "embedding_width": 6} | arguments
    return without_zeros(PairwiseMLP(particles, dimensions, **settings))


def centred(x):
    return x - x.mean(1, keepdim=True)


def test_follows_the_stated_formula():
    net = tiny(5, 3, num_classes=2).double()
    y, c_noise = torch.randn(3, 5, 3).double(), torch.randn(3).double()
    label = torch.tensor([0, 1, 2])
    shifts = net.shifts(net.embedding(c_noise, label)).reshape(3, 2, 8)
    pairs = [*itertools.combinations(range(5), 2)]
    width, centres = 6.0 / 8, torch.arange(1, 9).double() * 6.0 / 8
    expected = torch.zeros_like(y)
    for b in range(3):
        states = {}
        for i, j in pairs:
            r = (((y[b, i] - y[b, j]) ** 2).sum() + width**2).sqrt()
            states[i, j] = net.input(torch.exp(-((r - centres) ** 2) / (2 * width**2)))
        for layer, mixing, shift in zip(net.layers, net.mixing, shifts[b], strict=True):
            mean = [sum(s for pair, s in states.items() if k in pair) / 4 for k in range(5)]
            states = {
                (i, j): s + torch.nn.functional.silu(layer(s) + mixing(mean[i] + mean[j]) + shift)
                for (i, j), s in states.items()
            }
        for (i, j), s in states.items():
            pull = net.output(s) * (y[b, i] - y[b, j]) / 5
            expected[b, i] += pull
            expected[b, j] -= pull
    torch.testing.assert_close(net(y, c_noise, label), expected)


@pytest.mark.parametrize("name", SYSTEMS)
def test_energy_is_invariant_and_score_equivariant(name):
    particles, dimensions = SYSTEMS[name]
    model = EnergyModel(tiny(particles, dimensions)).double()
    x = centred(torch.randn(6, particles, dimensions, dtype=torch.float64))
    sigma = torch.linspace(0.05, 2.0, 6, dtype=torch.float64)
    energy, score = model.energy_and_score(x, sigma)
    gaussian = x.square().sum((1, 2)) / (2 * (sigma.square() + 0.25))
    assert ((energy - gaussian).abs() > 1e-3).all()  # the network contributes to the energy
    turn = torch.linalg.qr(torch.randn(dimensions, dimensions, dtype=torch.float64)).Q
    mirror = torch.diag(torch.tensor([-1.0] + [1.0] * (dimensions - 1), dtype=torch.float64))
    for orthogonal in (turn, turn @ mirror):
        turned = model.energy_and_score(x @ orthogonal, sigma)
        torch.testing.assert_close(turned[0], energy, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(turned[1], score @ orthogonal, rtol=1e-10, atol=1e-10)
    order = torch.randperm(particles)
    permuted = model.energy_and_score(x[:, order], sigma)
    torch.testing.assert_close(permuted[0], energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(permuted[1], score[:, order], rtol=1e-10, atol=1e-10)


def test_only_the_gaussian_part_changes_under_a_translation():
    model = EnergyModel(tiny(5, 3)).double()
    x = centred(torch.randn(6, 5, 3, dtype=torch.float64))
    moved = x + torch.randn(6, 1, 3, dtype=torch.float64)
    variance = 0.3**2 + 0.5**2
    energy, score = model.energy_and_score(x, 0.3)
    energy_moved, score_moved = model.energy_and_score(moved, 0.3)
    centre = 5 * moved.mean(1).square().sum(1) / (2 * variance)
    torch.testing.assert_close(energy_moved, energy + centre, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(score_moved, score - (moved - x) / variance, rtol=1e-10, atol=1e-10)
    again = model.energy_and_score(centred(moved), 0.3)
    torch.testing.assert_close(again[0], energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(again[1], score, rtol=1e-10, atol=1e-10)


def triangle(a, b, c):
    """Return three particles [1, 3, 2] with sides a = |12|, b = |13|, c = |23|."""
    x = (a * a + b * b - c * c) / (2 * a)
    height = (b * b - x * x) ** 0.5
    return torch.tensor([[[0.0, 0.0], [a, 0.0], [x, height]]], dtype=torch.float64)


def test_the_energy_is_more_than_a_sum_over_pairs():
    """The energy of a longer first side depends on the second side, but only through the mixing layers."""
    model = EnergyModel(tiny(3, 2)).double()

    def interaction():
        with torch.no_grad():
            f = {
                (a, b): model.potential(triangle(a, b, 1.2), torch.zeros(1, dtype=torch.float64))
                for a in (1.0, 1.4)
                for b in (0.9, 1.3)
            }
        return (f[1.0, 0.9] - f[1.4, 0.9] - f[1.0, 1.3] + f[1.4, 1.3]).abs()

    assert interaction() > 1e-4
    for mixing in model.backbone.mixing:
        torch.nn.init.zeros_(mixing.weight)
    assert interaction() < 1e-12


@pytest.mark.parametrize("shape", [(4, 2), (8,), (2, 4)])
def test_any_shape_of_the_right_numbers_and_the_start(shape):
    torch.manual_seed(0)
    net = PairwiseMLP(4, 2, width=8, depth=1)
    model = EnergyModel(net, sigma_data=0.7)
    y = torch.randn(5, *shape)
    assert (net(y, torch.zeros(5)) == 0).all()
    sigma = torch.tensor([0.01, 0.1, 1.0, 5.0, 50.0])
    energy, score = model.energy_and_score(y, sigma)
    variance = sigma.square() + 0.49
    torch.testing.assert_close(energy, y.flatten(1).square().sum(1) / (2 * variance))
    torch.testing.assert_close(score, -y / variance.reshape(5, *[1] * len(shape)))
    without_zeros(net)
    flat = net(y.reshape(5, 4, 2), torch.zeros(5))
    assert torch.equal(net(y, torch.zeros(5)), flat.reshape(y.shape))


def test_derivatives_of_its_energy():
    model = EnergyModel(tiny(3, 2, num_classes=2)).double()
    names, values = zip(*model.named_parameters(), strict=True)
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    condition = {"class_label": torch.tensor([0, 2])}

    def energy(x):
        return model.energy(x, 0.5, **condition)

    def score(x):
        return model.energy_and_score(x, 0.5, **condition)[1]

    def denoise(x, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return functional_call(model, named, (x, 0.5), condition)

    assert torch.autograd.gradcheck(energy, x)
    assert torch.autograd.gradcheck(score, x)
    assert torch.autograd.gradgradcheck(score, x, fast_mode=True)
    inputs = (x, *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(denoise, inputs, fast_mode=True)


def test_all_derivatives_are_finite_and_right_where_particles_coincide():
    model = EnergyModel(tiny(4, 2)).double()
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    x[0, 1] = x[0, 0]
    x[1] = 0.0
    leaf = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.energy_and_score(x, 0.4)[1], leaf)
    slope = model.energy_and_score(leaf, 0.4)[1]
    for _ in range(3):
        assert slope.isfinite().all()
        (slope,) = torch.autograd.grad(slope.square().sum(), leaf, create_graph=True)
    assert slope.isfinite().all()


def test_every_parameter_and_condition_matters():
    net = tiny(num_classes=3)
    y, label = torch.randn(4, 4, 2), torch.tensor([0, 1, 2, 3])
    output = net(y, torch.zeros(4), label)
    gradients = torch.autograd.grad(output.square().sum(), [*net.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not torch.allclose(net(y, torch.ones(4), label), output)
    assert not torch.allclose(net(y, torch.zeros(4), label.flip(0)), output)
    torch.testing.assert_close(net(y, torch.zeros(4))[3], output[3], rtol=1e-4, atol=1e-5)


def test_save_and_load(tmp_path):
    model = EnergyModel(tiny(num_classes=3, longest=5.0), sigma_data=0.9).eval()
    save_model(model, tmp_path / "pairs.safetensors")
    loaded = load_model(tmp_path / "pairs.safetensors")
    assert loaded.backbone.config == model.backbone.config
    x, label = torch.randn(5, 4, 2), torch.tensor([0, 1, 2, 3, 0])
    result = loaded.energy_and_score(x, 0.3, class_label=label)
    for a, b in zip(result, model.energy_and_score(x, 0.3, class_label=label), strict=True):
        assert torch.equal(a, b)


def test_presets_fit_their_systems():
    for name, numbers in {"DW4": 8, "LJ13": 39}.items():
        net = PairwiseMLP(**PairwiseMLP.PRESETS[name])
        assert net(torch.randn(2, numbers), torch.zeros(2)).shape == (2, numbers)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_graphs_agree_with_eager_calls():
    model = EnergyModel(tiny(depth=1)).eval()
    x = torch.randn(40, 4, 2)
    with torch.no_grad():
        expected = model.energy_and_score(x, 0.5)
        model.compile()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="compile=True failed")
            result = model.energy_and_score(x, 0.5)
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def double_well_energy(x):
    """Return the energy DW4 of Köhler et al. 2020: half the sum over pairs of -4 (d - 4)² + 0.9 (d - 4)⁴."""
    first, second = torch.triu_indices(4, 4, 1)
    u = (x[:, first] - x[:, second]).norm(dim=2) - 4
    return 0.5 * (-4 * u**2 + 0.9 * u**4).sum(1)


def double_well_samples(chains, steps):
    """Return samples of DW4 by random-walk Metropolis, with the centres removed."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(chains, 4, 2, generator=generator)
    energy = double_well_energy(x)
    for _ in range(steps):
        moved = x + 0.4 * torch.randn(x.shape, generator=generator)
        there = double_well_energy(moved)
        accepted = torch.rand(chains, generator=generator).log() < energy - there
        x = torch.where(accepted[:, None, None], moved, x)
        energy = torch.where(accepted, there, energy)
    return centred(x)


def test_it_learns_double_wells_and_is_sampled():
    """The distances between sampled particles follow the distribution of the training data."""
    x = double_well_samples(2000, 600)
    sigma_data = (
        (x.square().sum() / (2000 * 6)).sqrt().item()
    )  # the centre is fixed, so that 6 of the 8 numbers vary
    generator = torch.Generator().manual_seed(1)
    data = x + sigma_data / 2 * torch.randn(2000, 1, 2, generator=generator)
    torch.manual_seed(0)
    student = EnergyModel(PairwiseMLP(4, 2, width=32, depth=2), sigma_data=sigma_data)
    config = DistillConfig(
        mode="dsm", steps=300, batch_size=256, learning_rate=5e-3, p_mean=0.0, ema_decay=0.98
    )
    distill(None, student, data, config=config, progress=False)
    last = 0.2
    # energies at all levels, because the test is of the energy that was learned
    sigmas = torch.logspace(1.3, -0.7, 33)
    particles = smc.sample(student, (4, 2), sigmas, particles=2000, weights="energy")
    assert (particles.ess > 800).all()
    first, second = torch.triu_indices(4, 4, 1)
    noisy = x + last * torch.randn(x.shape, generator=generator)

    def shares_below(x, weights):
        distance = (x[:, first] - x[:, second]).norm(dim=2)
        below = [(distance < limit).double().mean(1) @ weights for limit in range(2, 7)]
        return torch.stack(below)

    uniform = torch.full((2000,), 1 / 2000, dtype=torch.float64)
    truth = shares_below(noisy, uniform)
    gaussian = shares_below(sigma_data * torch.randn(2000, 4, 2, generator=generator), uniform)
    assert (gaussian - truth).abs().max() > 0.12  # the start of training fails the same comparison
    assert (shares_below(particles.x[0], particles.weights[0]) - truth).abs().max() < 0.04


def test_it_learns_from_an_invariant_teacher():
    """The teacher is the mixture over all orders and reflections of three particles on a line.

    It is exact at every noise level, and the centre of its data is shifted as the docstring of the module says.
    """
    place = torch.tensor([-1.0, 0.2, 0.8], dtype=torch.float64)
    means = torch.stack(
        [s * place[[*p]] for p in itertools.permutations(range(3)) for s in (1, -1)]
    )
    mixture = GaussianMixture(means, [0.15] * 12)
    sigma_data = 0.75

    def teacher(x, sigma):
        centre = x.mean(1, keepdim=True)
        share = sigma_data**2 / (sigma_data**2 + sigma[:, None].square())
        return centred(mixture.denoise(x, sigma)) + share * centre

    data = centred(mixture.sample(2000, seed=0).float())
    generator = torch.Generator().manual_seed(1)
    data = data + sigma_data / 3**0.5 * torch.randn(2000, 1, generator=generator)
    torch.manual_seed(0)
    student = EnergyModel(PairwiseMLP(3, 1, width=32, depth=2), sigma_data=sigma_data)
    config = DistillConfig(steps=200, batch_size=128, learning_rate=5e-3, warmup_steps=10)
    losses = distill(teacher, student, data, config=config, progress=False).losses
    assert losses[-20:].mean() < 0.1 * losses[:5].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"particles": 1}, "particles must be an integer of at least 2"),
        ({"dimensions": 0}, "dimensions must be an integer of at least 1"),
        ({"depth": 0}, "depth must be an integer of at least 1"),
        ({"features": 1}, "features must be an integer of at least 2"),
        ({"longest": 0.0}, "longest must be positive"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PairwiseMLP(**({"particles": 4, "dimensions": 2} | arguments))


def test_bad_states():
    with pytest.raises(ValueError, match=r"\[B, 4, 2\] or \[B, 8\], given \[B, 9\]"):
        tiny()(torch.zeros(2, 9), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\[B, 4, dimensions\], given \[B, 8\]"):
        DistanceFeatures(4)(torch.zeros(2, 8))
