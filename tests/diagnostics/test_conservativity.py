"""Test the asymmetry of linear fields with a known Jacobian, and of nonlinear gradients."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.diagnostics import conservativity_report, field_asymmetry, score_asymmetry
from edmfast.models import EnergyModel
from tests.small_models import dhariwal, dit, edm2, song, unet

D = 5


def matrix(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(D, D, dtype=torch.float64, generator=generator)


def points(n):
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def test_symmetric_jacobian_is_zero_for_every_probe():
    symmetric = matrix() + matrix().T
    result = field_asymmetry(lambda x: x @ symmetric, points(10))
    assert result.normalised.max() < 1e-28
    assert result.overall < 1e-28


def test_rotation_is_one_for_every_probe():
    rotation = matrix() - matrix().T
    result = field_asymmetry(lambda x: x @ rotation, points(10))
    torch.testing.assert_close(result.normalised, torch.ones(10).double(), rtol=1e-12, atol=0)


def test_estimates_are_unbiased():
    jacobian = matrix()
    result = field_asymmetry(lambda x: x @ jacobian.T, points(4000), probes=2, seed=1)
    asymmetry = float((jacobian - jacobian.T).square().sum() / 2)
    squared_norm = float(jacobian.square().sum())
    for estimate, truth in ((result.asymmetry, asymmetry), (result.squared_norm, squared_norm)):
        assert abs(float(estimate.mean()) - truth) < 4 * float(estimate.std()) / math.sqrt(4000)
        assert float(estimate.std()) / math.sqrt(4000) < 0.02 * truth
    assert result.overall == pytest.approx(asymmetry / (2 * squared_norm), rel=0.03)
    assert (result.normalised >= 0).all()
    assert (result.normalised <= 1).all()


def test_nonlinear_gradient_field_is_conservative_and_its_twist_is_not():
    weight = matrix()

    def gradient(x):
        return torch.tanh(x @ weight) @ weight.T

    def twisted(x):
        return torch.tanh(x @ weight) @ weight

    assert field_asymmetry(gradient, points(20)).overall < 1e-25
    assert field_asymmetry(twisted, points(20)).overall > 0.05


def test_score_of_a_denoiser():
    jacobian = matrix()

    def model(x, sigma, *, scale):
        assert sigma.shape == (len(x),)
        return x + scale * sigma[:, None] ** 2 * (x @ jacobian.T)

    expected = field_asymmetry(lambda x: 3.0 * x @ jacobian.T, points(6), seed=4)
    result = score_asymmetry(model, points(6), 0.3, seed=4, scale=3.0)
    torch.testing.assert_close(result.asymmetry, expected.asymmetry, rtol=1e-10, atol=0)
    torch.testing.assert_close(result.squared_norm, expected.squared_norm, rtol=1e-10, atol=0)


def test_an_exact_model_is_conservative():
    model = GaussianMixture(matrix(), torch.full((D,), 0.4))
    for sigma in (0.2, 1.0, 5.0):
        assert score_asymmetry(model, points(6), sigma).overall < 1e-20


def test_zero_jacobian_counts_as_conservative():
    result = field_asymmetry(lambda x: 0 * x, points(3))
    assert result.overall == 0
    assert torch.equal(result.normalised, torch.zeros(3).double())


def test_works_inside_no_grad():
    with torch.no_grad():
        assert field_asymmetry(lambda x: x.flip(1) * x, points(3)).squared_norm.min() > 0


@pytest.mark.parametrize(
    ("field", "arguments", "message"),
    [
        (lambda x: x, {"probes": 0}, "probes must be an integer of at least 1, got 0"),
        (lambda x: x[:, :1], {}, r"keep the shape \(3, 5\), got \(3, 1\)"),
        (lambda x: x.detach(), {}, "differentiably"),
    ],
)
def test_a_bad_field_is_refused(field, arguments, message):
    with pytest.raises(ValueError, match=message):
        field_asymmetry(field, points(3), **arguments)


def test_a_bad_sigma_is_refused():
    with pytest.raises(ValueError, match=r"sigma must be positive and finite, got 0\.0"):
        score_asymmetry(lambda x, sigma: x, points(3), 0.0)


class OnceDifferentiable(torch.autograd.Function):
    """The field tanh(x W) W^T + x A^T with one derivative in reverse mode, and none in forward mode."""

    @staticmethod
    def forward(ctx, x, weight, part):
        ctx.save_for_backward(x, weight, part)
        return torch.tanh(x @ weight) @ weight.T + x @ part.T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, weight, part = ctx.saved_tensors
        slope = 1 - torch.tanh(x @ weight).square()
        return ((gradient @ weight) * slope) @ weight.T + gradient @ part, None, None


def curved(x, part):
    return torch.tanh(x @ matrix().to(x)) @ matrix().T.to(x) + x @ part.T.to(x)


def once_curved(x, part):
    return OnceDifferentiable.apply(x, matrix().to(x), part.to(x))


ANTISYMMETRIC = 0.1 * (matrix(3) - matrix(3).T)


@pytest.mark.parametrize("method", ["forward", "difference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_other_methods_agree_with_reverse_mode(method, dtype):
    x = points(8).to(dtype)
    exact = field_asymmetry(lambda y: curved(y, ANTISYMMETRIC), x, probes=2, method="reverse")
    other = field_asymmetry(lambda y: curved(y, ANTISYMMETRIC), x, probes=2, method=method)
    assert (exact.method, other.method) == ("reverse", method)
    small = 1e-3 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(other.normalised, exact.normalised, rtol=small, atol=0)
    # the antisymmetric part is that of A alone, which is known
    truth = float((ANTISYMMETRIC - ANTISYMMETRIC.T).square().sum() / 2)
    many = field_asymmetry(
        lambda y: curved(y, ANTISYMMETRIC), points(1).expand(3000, D), method=method
    )
    noise = float(many.asymmetry.std()) / math.sqrt(3000)
    assert abs(float(many.asymmetry.mean()) - truth) < 4 * noise < 0.05 * truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_say_what_they_resolve(dtype):
    x = points(16).to(dtype)
    result = field_asymmetry(lambda y: curved(y, 0 * matrix()), x, method="difference")
    assert (result.asymmetry <= result.error).all()
    assert 0 < result.resolution < (1e-8 if dtype == torch.float32 else 1e-18)
    assert result.overall <= result.resolution


@pytest.mark.parametrize("scale", [None, 0.01, 100.0, torch.linspace(0.01, 10, 16)])
def test_the_step_adapts_to_any_scale(scale):
    def fast(x):
        return torch.sin(30 * x) + x.flip(1)

    result = field_asymmetry(fast, points(16), method="difference", scale=scale)
    assert (result.asymmetry <= result.error).all()
    assert result.resolution < 1e-14


def test_the_method_is_the_first_that_the_field_allows():
    part = ANTISYMMETRIC
    exact = field_asymmetry(lambda y: curved(y, part), points(6), probes=2)
    once = field_asymmetry(lambda y: once_curved(y, part), points(6), probes=2)
    assert (exact.method, once.method) == ("reverse", "difference")
    assert exact.resolution == 0 < once.resolution < 1e-15
    torch.testing.assert_close(once.normalised, exact.normalised, rtol=1e-7, atol=0)
    for method in ("reverse", "forward"):
        with pytest.raises(RuntimeError):
            field_asymmetry(lambda y: once_curved(y, part), points(6), method=method)


def test_lost_derivatives_are_noticed():
    def lost_in_reverse(x):
        return once_curved(x, 0 * matrix()) - x

    assert field_asymmetry(lost_in_reverse, points(6)).method == "difference"
    with pytest.raises(RuntimeError, match="loses a part of its second derivative in reverse mode"):
        field_asymmetry(lost_in_reverse, points(6), method="reverse")

    def loses(x):
        tangent_free = torch.autograd.forward_ad.unpack_dual(x)[0]
        return once_curved(tangent_free, 0 * matrix()) + 2 * x

    assert field_asymmetry(loses, points(6)).method == "difference"
    with pytest.raises(RuntimeError, match="loses a part of its second derivative in forward mode"):
        field_asymmetry(loses, points(6), method="forward")


NETWORKS = {
    "unet": (unet, (1, 4, 4)),
    "dit": (dit, (1, 4, 4)),
    "song": (song, (1, 4, 4)),
    "dhariwal": (dhariwal, (1, 4, 4)),
    "edm2": (edm2, (1, 4, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_energies_of_every_network(name):
    build, shape = NETWORKS[name]
    network = build()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    energy = EnergyModel(network).double().eval()
    x = torch.randn(3, *shape, dtype=torch.float64, generator=draw)
    with pytest.raises(RuntimeError, match="derivatives up to the second order"):
        score_asymmetry(energy, x, 0.5, method="reverse")
    assert score_asymmetry(energy, x, 0.5).method == "forward"
    assert score_asymmetry(energy, x, 0.5).overall < 1e-25
    by_differences = score_asymmetry(energy, x, 0.5, method="difference")
    assert by_differences.overall <= by_differences.resolution < 1e-14

    def turned(y, sigma):
        """The denoiser of the energy, whose score gains A y with an antisymmetric A."""
        flat = y.flatten(1)
        turn = torch.cat([flat[:, 8:], -flat[:, :8]], 1).reshape(y.shape)
        return energy(y, sigma) + 0.3 * sigma.reshape(-1, 1, 1, 1) ** 2 * turn

    result = score_asymmetry(turned, x, 0.5)
    # each of the 16 numbers of a probe contributes (2 · 0.3)² / 2
    torch.testing.assert_close(result.asymmetry, torch.full((3,), 16 * 0.18).double())
    other = score_asymmetry(turned, x, 0.5, method="difference")
    torch.testing.assert_close(other.normalised, result.normalised, rtol=1e-5, atol=0)


def test_a_report_of_an_energy_without_third_derivatives():
    def once(y, sigma):
        return once_curved(y, 0 * matrix())

    energy = EnergyModel(unet()).eval()
    x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    report = conservativity_report({"energy": energy}, [x, x], [1.0, 0.5])
    assert report.method == {"energy": "forward"}
    assert float(report.asymmetry["energy"].max()) < 1e-10
    assert "NAsym of energy: by forward mode, exact up to rounding" in str(report)
    report = conservativity_report({"once": once}, [points(4)], [0.5])
    assert report.method == {"once": "difference"}
    assert float(report.asymmetry["once"]) <= float(report.resolution["once"]) < 1e-15
    assert "NAsym of once: by differences, whose error leaves up to" in str(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "backward"}, "method must be 'auto' or one of 'reverse', 'forward'"),
        ({"scale": torch.zeros(3)}, r"scale must be .* got shape \[3\] with 0\.0"),
        ({"scale": torch.ones(2)}, r"a positive number or \[3\] positive numbers, got shape \[2\]"),
    ],
)
def test_a_bad_method_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        field_asymmetry(lambda x: x, points(3), **arguments)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite near x"):
        field_asymmetry(lambda x: x * torch.nan, points(3), method="difference")
