"""Log-densities along paths: exact values, sums, conditions, errors, and bits that depend on the sample alone."""

import math

import pytest
import torch
from torch import nn

import edmfast
from edmfast import Conditioned, Denoiser, EnergyModel, Guided, Product, Tempered, analytic, models
from edmfast.sampling import get_sigmas_karras

SIGMAS = torch.logspace(1.3, -1, 24, dtype=torch.float64)


def mixture():
    means = [[-1.0, 0.0, 0.5], [1.0, 0.5, 0.0], [0.0, -1.0, -0.5]]
    return analytic.GaussianMixture(means, [0.3, 0.5, 0.2], [0.5, 0.3, 0.2])


def mlp(dim=3, **options):
    torch.manual_seed(0)
    backbone = models.ResidualMLP(dim, width=8, depth=2, **options)
    nn.init.normal_(backbone.output.weight, std=0.3)
    return backbone


class Exact(nn.Module):
    """A denoiser of N(0, diag(variances)) with its exact trace."""

    def __init__(self, variances):
        super().__init__()
        self.variances = torch.tensor(variances, dtype=torch.float64)

    def forward(self, x, sigma):
        return self.variances / (self.variances + sigma[:, None] ** 2) * x

    def jacobian_trace(self, x, sigma):
        return (self.variances / (self.variances + sigma[:, None] ** 2)).sum(1)

    def log_prob(self, x, sigma):
        spread = (self.variances + sigma**2).sqrt()
        return torch.distributions.Normal(0, spread).log_prob(x).sum(1)


def test_an_isotropic_gaussian_is_exact_at_any_levels():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # An untrained energy is the energy of N(0, sigma_data² I).
    for model in (
        analytic.GaussianMixture([[2.0, 0.0, -1.0]], [0.7]),
        EnergyModel(models.ResidualMLP(3, width=8)).double(),
        Denoiser(models.ResidualMLP(3, width=8)).double(),
    ):
        for sigmas in ([5.0, 0.1], [0.9, 0.5, 0.3]):
            result = edmfast.log_density(model, x, sigmas, paths=3)
            std, mean = (0.7, model.means) if hasattr(model, "means") else (0.5, 0.0)
            spread = math.sqrt(std**2 + sigmas[-1] ** 2)
            exact = torch.distributions.Normal(mean, spread).log_prob(x).sum(1)
            torch.testing.assert_close(result.mean, exact.double(), rtol=1e-6, atol=1e-6)
            assert float(result.standard_error.max()) < 1e-6


def test_a_mixture_comes_within_its_error_and_second_order():
    model, low = mixture(), float(SIGMAS[-1])
    x = model.sample(300, low, seed=0)
    exact = model.log_prob(x, low)
    errors = {}
    for levels in (9, 17, 33):
        sigmas = torch.logspace(1.3, -1, levels, dtype=torch.float64)
        # Three probes for three dimensions give the exact trace, which the mixture has too.
        result = edmfast.log_density(model.denoise, x, sigmas, paths=2, probes=3)
        exactly = edmfast.log_density(model, x, sigmas, paths=2)
        torch.testing.assert_close(result.paths, exactly.paths)
        error = result.mean - exact
        errors[levels] = float(error.square().mean().sqrt())
        assert result.paths.shape == (300, 2)
        torch.testing.assert_close(result.mean, result.paths.mean(1))
        torch.testing.assert_close(result.standard_error, result.paths.std(1) / 2**0.5)
        assert result.evaluations == 2 * levels
        assert (result.products, exactly.products) == (6 * levels, 0)
    assert errors[33] < 0.01
    # Second order divides the error by four where the levels are doubled.
    assert errors[17] < errors[9] / 4
    assert errors[33] < errors[17] / 4


def test_probes_add_noise_without_bias_that_the_standard_error_tells():
    model, low = mixture(), float(SIGMAS[-1])
    x = model.sample(400, low, seed=1)
    exact = model.log_prob(x, low)
    result = edmfast.log_density(model.denoise, x, SIGMAS, paths=8)
    error = result.mean - exact
    assert abs(float(error.mean())) < 0.03
    sd = float(error.std())
    assert 0.05 < sd < 0.5
    assert 0.8 < float(result.standard_error.square().mean().sqrt()) / sd < 1.25
    single = edmfast.log_density(model, x[:2], SIGMAS, paths=1)
    assert bool(single.standard_error.isnan().all())


def test_an_exact_trace_is_used_where_the_model_has_one():
    model = Exact([0.04, 0.3, 2.0])
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = edmfast.log_density(model, x, SIGMAS, paths=1)
    assert result.products == 0
    torch.testing.assert_close(result.mean, model.log_prob(x, 0.1), rtol=0, atol=0.02)
    by_probes = edmfast.log_density(model.forward, x, SIGMAS, paths=1)
    assert by_probes.products == 24
    # The Jacobian is diagonal, so one sign per element gives its trace.
    torch.testing.assert_close(by_probes.mean, result.mean)


def test_a_sum_has_the_sum_of_the_log_densities():
    a, b = mixture(), Exact([0.1, 0.3, 1.0])
    x = a.sample(4, 0.1, seed=0)
    single = [edmfast.log_density(model, x, SIGMAS, paths=2).paths for model in (a, b)]
    powers = torch.tensor([0.5, 2.0])
    rows = powers.double().repeat_interleave(2)[:, None]
    for target, expected in [
        (Tempered(a, 2.0), 2 * single[0]),
        (Product([a, b], [2.0, -0.5]), 2 * single[0] - 0.5 * single[1]),
        (Guided(a, Tempered(b, 3.0), 2.0), -single[0] + 6 * single[1]),
        (Tempered(a, powers), rows * single[0]),
    ]:
        result = edmfast.log_density(target, x, SIGMAS, paths=2)
        torch.testing.assert_close(result.paths, expected)
    assert edmfast.log_density(Product([a, b]), x, SIGMAS, paths=2).evaluations == 2 * 2 * 24


def test_conditions_belong_to_samples():
    model = EnergyModel(mlp(num_classes=4)).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3])
    expected = edmfast.log_density(model, x, SIGMAS, paths=3, class_label=labels).paths
    bound = Conditioned(model, class_label=labels)
    for size in (None, 1, 5):
        got = edmfast.log_density(bound, x, SIGMAS, paths=3, batch_size=size).paths
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for row, label in enumerate(labels.tolist()):
        alone = edmfast.log_density(Conditioned(model, class_label=label), x, SIGMAS, paths=3)
        torch.testing.assert_close(alone.paths[row], expected[row], rtol=1e-12, atol=1e-12)
    other = Conditioned(model, class_label=labels.flip(0))
    assert not torch.allclose(edmfast.log_density(other, x, SIGMAS, paths=3).paths, expected)


def foreign():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(17, 40), nn.SiLU(), nn.Linear(40, 17))
    return lambda x, sigma: 0.1 * net(x) + x / (1 + sigma[:, None] ** 2)


@pytest.mark.parametrize("kind", ["denoiser", "energy", "foreign", "product"])
def test_a_sample_has_its_bits_in_any_batch(kind):
    one = {"denoiser": lambda: Denoiser(mlp(17)), "energy": lambda: EnergyModel(mlp(17))}
    one |= {"foreign": foreign, "product": lambda: Product([Denoiser(mlp(17)), foreign()])}
    model = one[kind]()
    x = torch.randn(13, 17, generator=torch.Generator().manual_seed(0))
    sigmas = [10.0, 1.0, 0.3]
    whole = edmfast.log_density(model, x, sigmas, paths=3, probes=2, seed=5)
    assert whole.mean.dtype == torch.float64
    for rows, size in ((1, None), (4, None), (13, 7), (13, 64)):
        part = edmfast.log_density(
            model, x[:rows], sigmas, paths=3, probes=2, seed=5, batch_size=size
        )
        assert torch.equal(part.paths, whole.paths[:rows])
    # Further paths leave the first ones as they are, and another seed gives others.
    more = edmfast.log_density(model, x, sigmas, paths=5, probes=2, seed=5)
    assert torch.equal(more.paths[:, :3], whole.paths)
    other = edmfast.log_density(model, x, sigmas, paths=3, probes=2, seed=6)
    assert not torch.equal(other.paths, whole.paths)


def test_images_inference_mode_and_empty_batches():
    torch.manual_seed(0)
    unet = models.UNet(in_channels=1, channels=(4, 4), groups=2)
    nn.init.normal_(unet.output.weight, std=0.1)
    with torch.inference_mode():
        x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        inside = edmfast.log_density(Denoiser(unet), x, [5.0, 0.5], paths=2)
    outside = edmfast.log_density(Denoiser(unet), x.clone(), [5.0, 0.5], paths=2)
    assert torch.equal(inside.paths, outside.paths)
    assert edmfast.log_density(Denoiser(unet), x[:0], [5.0, 0.5]).mean.shape == (0,)


def test_what_has_no_log_density_is_refused():
    model, x = mixture(), torch.zeros(2, 3)
    tilted = edmfast.Tilted(model, lambda x: x[:, 0], 1.0)
    for target in (tilted, Tempered(tilted, 2.0), Product([model, tilted])):
        with pytest.raises(ValueError, match="densities of data with noise, given Tilted"):
            edmfast.log_density(target, x, SIGMAS)
    hot = edmfast.Mixture([Tempered(model, 2.0), Tempered(model, 2.0)])
    with pytest.raises(ValueError, match=r"own exponent is 1, given Mixture with 2"):
        edmfast.log_density(hot, x, SIGMAS)
    with pytest.raises(ValueError, match="jacobian_trace"):
        edmfast.log_density(torch.no_grad()(lambda x, sigma: x / 2), x, SIGMAS)
    for arguments, message in [
        ({"sigmas": [1.0, 0.0]}, "two positive levels"),
        ({"sigmas": [0.1, 1.0]}, "decrease strictly"),
        ({"paths": 0}, "paths must be"),
        ({"probes": 0}, "probes must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"x": torch.zeros(3)}, "at least 2 dimensions"),
    ]:
        with pytest.raises(ValueError, match=message):
            edmfast.log_density(**({"model": model, "x": x, "sigmas": [1.0, 0.1]} | arguments))
    with pytest.raises(TypeError, match="is no denoiser"):
        edmfast.log_density(3, x, SIGMAS)


def test_the_bias_at_64_levels_is_below_a_thousandth_of_a_nat():
    gaussian, low = Exact([0.01, 0.03, 0.1, 0.3, 1.0]), 0.01
    draw = torch.Generator().manual_seed(3)
    x = (gaussian.variances + low**2).sqrt() * torch.randn(64, 5, generator=draw).double()
    biases = []
    for levels in (16, 32, 64):
        sigmas = get_sigmas_karras(levels, low, 80.0)[:-1]
        difference = edmfast.log_density(gaussian, x, sigmas, seed=1).mean
        difference = difference - gaussian.log_prob(x, low)
        biases.append(abs(float(difference.mean())))
    assert biases[2] < 1e-3
    assert biases[2] < biases[1] < 0.01
