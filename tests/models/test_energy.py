"""EnergyModel and Denoiser have their closed forms, agree with each other, and raise the documented errors."""

import math

import pytest
import torch
from torch.func import functional_call

from edmfast.models import Denoiser, EnergyModel, ResidualMLP, UNet
from edmfast.models.potentials import POTENTIALS

F64 = torch.float64


def randomised(model, seed=0):
    """Return the model in float64 with a last layer that is not zero."""
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.backbone.output.weight, std=0.3)
    return model.double()


def small(potential="inner", **options):
    torch.manual_seed(0)
    backbone = ResidualMLP(3, width=8, depth=2, embedding_width=4, **options)
    return randomised(EnergyModel(backbone, potential=potential, sigma_data=0.7))


def states(rows=6, seed=1):
    draw = torch.Generator().manual_seed(seed)
    sigma = torch.logspace(-1.5, 1, rows, dtype=F64)
    return torch.randn(rows, 3, generator=draw, dtype=F64) * (0.7 + sigma[:, None]), sigma


@pytest.mark.parametrize("backbone", [ResidualMLP(16), UNet(1, (8, 8), groups=4)])
def test_untrained_inner_energy_is_the_exact_gaussian_one(backbone):
    model = EnergyModel(backbone, sigma_data=0.7).double()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 4, 4, generator=draw, dtype=F64)
    sigma = torch.logspace(-2, 1, 5, dtype=F64)
    variance = 0.7**2 + sigma.square()
    energy, score = model.energy_and_score(x, sigma)
    torch.testing.assert_close(energy, x.square().flatten(1).sum(1) / (2 * variance))
    torch.testing.assert_close(score, -x / variance[:, None, None, None])
    torch.testing.assert_close(model(x, sigma), x * (0.7**2 / variance)[:, None, None, None])


@pytest.mark.parametrize("potential", sorted(POTENTIALS))
def test_score_is_minus_the_gradient_of_the_energy(potential):
    model = small(potential)
    x, sigma = states()
    leaf = x.clone().requires_grad_()
    energy = model.energy(leaf, sigma)
    (gradient,) = torch.autograd.grad(energy.sum(), leaf)
    computed, score = model.energy_and_score(x, sigma)
    torch.testing.assert_close(computed, energy.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(score, -gradient, rtol=1e-11, atol=1e-11)
    tweedie = x + sigma.square()[:, None] * score
    torch.testing.assert_close(model(x, sigma), tweedie, rtol=1e-11, atol=1e-11)


def test_energy_has_the_stated_form():
    model = small()
    model.scale.values.copy_(torch.linspace(0.5, 1, len(model.scale.values)))
    x, sigma = states()
    y = x / (sigma.square() + 0.49).sqrt()[:, None]
    h = model.backbone(y, sigma.log() / 4)
    f = model.scale(sigma.log() / 4) * (h * y).sum(1)
    expected = x.square().sum(1) / (2 * (sigma.square() + 0.49)) - 0.7 / sigma * f
    torch.testing.assert_close(model.energy(x, sigma), expected)
    torch.testing.assert_close(model.potential(y, sigma.log() / 4), f)


def test_denoiser_has_the_stated_form():
    model = randomised(Denoiser(ResidualMLP(3, width=8, depth=1), sigma_data=0.7))
    x, sigma = states()
    s = sigma[:, None]
    output = model.backbone(x / (s**2 + 0.49).sqrt(), sigma.log() / 4)
    expected = 0.49 / (s**2 + 0.49) * x + 0.7 * s / (s**2 + 0.49).sqrt() * output
    torch.testing.assert_close(model(x, sigma), expected)


@pytest.mark.parametrize("potential", sorted(POTENTIALS))
def test_second_and_third_derivatives(potential):
    model = small(potential)
    x, sigma = states(2)
    names, values = zip(*model.named_parameters(), strict=True)

    def denoise(x, *parameters):
        return functional_call(model, dict(zip(names, parameters, strict=True)), (x, sigma))

    inputs = (x.requires_grad_(), *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(denoise, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(denoise, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda y: model.energy_and_score(y, sigma), x)


def test_first_gradients_require_grad_and_hutchinson_matches_the_jacobian():
    model = small()
    x, _ = states(1)
    x.requires_grad_()
    _, score = model.energy_and_score(x, 0.5)
    (first,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    assert first.requires_grad
    jacobian = torch.autograd.functional.jacobian(lambda y: model.energy_and_score(y, 0.5)[1], x)
    square = jacobian.reshape(3, 3)
    torch.testing.assert_close(square, square.T, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(first[0], square.sum(0).detach(), rtol=1e-11, atol=1e-11)


def test_results_are_detached_unless_an_input_requires_grad():
    model = small()
    x, sigma = states()
    assert not any(part.requires_grad for part in model.energy_and_score(x, sigma))
    assert not model(x, sigma).requires_grad
    with torch.no_grad():
        results = model.energy_and_score(x.clone().requires_grad_(), sigma)
    assert not any(part.requires_grad for part in results)


@pytest.mark.parametrize("potential", sorted(POTENTIALS))
@pytest.mark.parametrize("recorded", [False, True])
def test_a_sigma_with_a_graph_is_recorded_whether_x_is_or_not(potential, recorded):
    model = small(potential)
    x, _ = states(3)
    sigma = torch.tensor(0.6, dtype=F64, requires_grad=True)
    leaf = x.clone().requires_grad_(recorded)
    for function in (lambda s: model.energy_and_score(leaf, s)[1], lambda s: model(leaf, s)):
        (slope,) = torch.autograd.grad(function(sigma).sum(), sigma)
        step = 1e-5
        ends = [function(sigma.detach() + h).sum() for h in (step, -step)]
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_torchs_compiler_takes_its_functional_gradient_without_a_break():
    model, (x, _) = small(), states(3)
    sigma = torch.tensor(0.5, dtype=F64)
    gradient = torch.func.grad(lambda x, sigma: model.energy(x, sigma).sum())
    compiled = torch.compile(gradient, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, sigma), -model.energy_and_score(x, sigma)[1])


def test_forward_mode_takes_the_plain_formulas():
    model, (x, _) = small(), states(3)
    _, slope = torch.func.jvp(lambda x: model.energy(x, 0.5), (x,), (torch.ones_like(x),))
    score = model.energy_and_score(x, 0.5)[1]
    torch.testing.assert_close(slope.detach(), -score.sum(1), rtol=1e-10, atol=1e-10)


def test_sigma_as_number_scalar_and_batch_agree():
    model = small()
    x, _ = states()
    batch = model.energy_and_score(x, torch.full((6,), 0.5, dtype=F64))
    for sigma in (0.5, torch.tensor(0.5)):
        results = model.energy_and_score(x, sigma)
        assert all(torch.equal(a, b) for a, b in zip(results, batch, strict=True))


def test_empty_batch():
    energy, score = small().energy_and_score(torch.zeros(0, 3, dtype=F64), 0.5)
    assert energy.shape == (0,)
    assert score.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"potential": "scalar"}, r"\['inner', 'norm', 'residual'\], given 'scalar'"),
        ({"sigma_data": 0.0}, "sigma_data must be positive"),
        ({"sigma_data": math.nan}, "sigma_data must be positive"),
    ],
)
def test_bad_models(arguments, message):
    with pytest.raises(ValueError, match=message):
        EnergyModel(ResidualMLP(2), **arguments)


def test_backbone_of_the_wrong_shape():
    class Wrong(torch.nn.Module):
        def forward(self, y, c_noise):
            return y[:, :1]

    with pytest.raises(
        ValueError, match=r"must return \[B, 2\] like its input: .*Wrong returned \[B, 1\]"
    ):
        EnergyModel(Wrong()).energy(torch.zeros(3, 2), 1.0)


def test_inference_mode_is_refused_with_advice():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        small().energy_and_score(torch.zeros(3, 3, dtype=F64), 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_energies_on_the_gpu():
    model = small(num_classes=3)
    x, sigma = states()
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = model.energy_and_score(x, sigma, class_label=label)
    result = model.cuda().energy_and_score(x.cuda(), sigma.cuda(), class_label=label.cuda())
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-10, atol=1e-10)
