"""Every model agrees with central differences in float64, in every way to take a derivative."""

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from torch.func import functional_call, jacfwd, jacrev, jvp, vmap

from edmfast.analytic import (
    DoubleWellPairs,
    GaussianMixture,
    LennardJones,
    ManyWell,
    MixtureOfGaussians,
)
from edmfast.models import Denoiser, DiT, EnergyModel, PairwiseMLP, ResidualMLP, TwoHeads, UNet
from edmfast.targets import (
    Conditioned,
    Constrained,
    Guided,
    LinearInverse,
    Mixture,
    Product,
    Tempered,
    Tilted,
)
from edmfast.targets.constrained import box
from edmfast.targets.measurements import deblurring
from tests.small_models import dhariwal, edm2, song

F64 = torch.float64
STEP = 1e-5
BATCH = 3


def randomised(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw, dtype=F64))
    return model


def mlp(**options):
    return EnergyModel(ResidualMLP(2, width=8, depth=2, num_classes=3), **options)


BASE = randomised(mlp())
OTHER = randomised(mlp(), 1)
WHITE = GaussianMixture([[0.5, -1.0], [1.0, 0.5]], [0.4, 0.6])
OFFSETS = ([0.1, 0.5, 3.0], [[0.0, 1.0], [0.5, -1.0], [0.0, 2.0]])


def reward(x):
    return x.square().sum(1).cos()


def matrix_and_adjoint():
    matrix = torch.tensor([[1.0, -0.5]], dtype=F64)
    return (lambda x: x @ matrix.T), (lambda y: y @ matrix)


ENERGIES = {
    "mlp": (BASE, (2,)),
    "residual": (randomised(mlp(potential="residual")), (2,)),
    "norm": (randomised(mlp(potential="norm")), (2,)),
    "odd mlp": (randomised(EnergyModel(ResidualMLP(3, width=5, depth=1))), (3,)),
    "pairs": (randomised(EnergyModel(PairwiseMLP(3, 2, width=4, depth=1))), (3, 2)),
    "unet": (randomised(EnergyModel(UNet(1, (4,), groups=2))), (1, 4, 4)),
    "dit": (randomised(EnergyModel(DiT(1, (3, 5), 1, width=8, depth=1, heads=2))), (1, 3, 5)),
    "song": (randomised(EnergyModel(song())), (1, 4, 4)),
    "song skip": (
        randomised(
            EnergyModel(
                song(
                    embedding_type="fourier",
                    encoder_type="skip",
                    decoder_type="skip",
                    resample_filter=(1, 3, 3, 1),
                )
            )
        ),
        (1, 4, 4),
    ),
    "dhariwal": (randomised(EnergyModel(dhariwal())), (1, 4, 4)),
    "edm2": (randomised(EnergyModel(edm2())), (1, 4, 4)),
    "dit norm": (
        randomised(EnergyModel(DiT(1, 4, width=4, depth=1, heads=1), potential="norm")),
        (1, 4, 4),
    ),
    "two heads": (randomised(TwoHeads(ResidualMLP(2, width=8, depth=1, out_dim=4))), (2,)),
    "conditioned": (Conditioned(BASE, class_label=1), (2,)),
    "product": (Product([Conditioned(BASE, class_label=1), OTHER], [1.0, -0.3]), (2,)),
    "product of two": (Product([BASE, WHITE]), (2,)),
    "tempered": (Tempered(BASE, 2.0), (2,)),
    "guided": (Guided(BASE, OTHER, 1.5), (2,)),
    "mixture": (Mixture([BASE, OTHER], [0.3, 0.7], OFFSETS), (2,)),
    "tilted": (Tilted(BASE, reward, 1.0), (2,)),
    "tilted state": (Tilted(BASE, reward, 1.0, of="state", gradient="exact"), (2,)),
    "approximate": (Tilted(BASE, reward, 1.0, gradient="approximate"), (2,)),
    "exact": (Tilted(BASE, reward, 1.0, gradient="exact"), (2,)),
    "constrained": (Constrained(WHITE, box(-0.3, 0.4), 1.0), (2,)),
    "constrained exact": (Constrained(BASE, box(-0.3, 0.4), 1.0, gradient="exact"), (2,)),
    "inverse": (
        LinearInverse(BASE, torch.tensor([[1.0, -0.5]], dtype=F64), torch.ones(1), 0.5),
        (2,),
    ),
    "inverse by functions": (
        LinearInverse(WHITE, matrix_and_adjoint(), torch.ones(1), 0.5, of="denoised"),
        (2,),
    ),
    "gaussians": (WHITE, (2,)),
    "many gaussians": (GaussianMixture(torch.randn(80, 2, dtype=F64), [0.5] * 80), (2,)),
    "full covariances": (
        MixtureOfGaussians(
            [[0.5, -1.0], [1.0, 0.5]], [[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0], [0, 1]]]
        ),
        (2,),
    ),
    "many wells": (ManyWell(4), (4,)),
}
DENOISERS = {
    "denoiser": (randomised(Denoiser(ResidualMLP(2, width=8, depth=1, num_classes=3))), (2,)),
    "unet denoiser": (randomised(Denoiser(UNet(1, (4,), groups=2))), (1, 4, 4)),
    "dit denoiser": (randomised(Denoiser(DiT(1, 4, width=4, depth=1, heads=1))), (1, 4, 4)),
    "tempered denoiser": (
        Tempered(randomised(Denoiser(ResidualMLP(2, width=8, depth=1))), 2.0),
        (2,),
    ),
    "tilted denoiser": (
        Tilted(
            randomised(Denoiser(ResidualMLP(2, width=8, depth=1))), reward, 1.0, gradient="exact"
        ),
        (2,),
    ),
    "deblurring": (
        LinearInverse(
            randomised(Denoiser(UNet(1, (4,), groups=2))),
            deblurring(torch.ones(3, 3, dtype=F64) / 9),
            torch.zeros(1, 4, 4),
            0.5,
            of="denoised",
        ),
        (1, 4, 4),
    ),
}


def cases():
    for name, (model, shape) in ENERGIES.items():
        yield pytest.param(lambda x, s, m=model: m.energy_and_score(x, s)[0], shape, id=f"{name}-E")
        yield pytest.param(lambda x, s, m=model: m.energy_and_score(x, s)[1], shape, id=f"{name}-S")
        yield pytest.param(lambda x, s, m=model: m(x, s), shape, id=f"{name}-D")
        if hasattr(model, "energy"):
            yield pytest.param(lambda x, s, m=model: m.energy(x, s), shape, id=f"{name}-energy")
    for name, (model, shape) in DENOISERS.items():
        yield pytest.param(lambda x, s, m=model: m(x, s), shape, id=f"{name}-D")


def point(shape, seed=2):
    draw = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, BATCH, *shape, generator=draw, dtype=F64)
    sigma, along = torch.tensor([0.7, 0.4, 1.1], dtype=F64), torch.tensor([0.3, -0.2, 0.1])
    return x, sigma, v, along.double()


def central(function, x, sigma, v, along):
    with torch.no_grad():
        ahead, behind = (function(x + h * v, sigma + h * along) for h in (STEP, -STEP))
    return (ahead - behind) / (2 * STEP)


def close(actual, expected):
    assert actual is not None, "no tangent"
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=1e-6 * size)


def along_dual(function, x, sigma, v, along):
    with forward_mode.dual_level():
        x = x if v is None else forward_mode.make_dual(x, v)
        sigma = sigma if along is None else forward_mode.make_dual(sigma, along)
        return forward_mode.unpack_dual(function(x, sigma)).tangent


def contracted(jacobians, v, along):
    return torch.tensordot(jacobians[0], v, v.dim()) + torch.tensordot(jacobians[1], along, 1)


@pytest.mark.parametrize(("function", "shape"), [*cases()])
def test_derivatives_by_states_and_noise_levels(function, shape):
    x, sigma, v, along = point(shape)
    wanted = central(function, x, sigma, v, along)
    close(along_dual(function, x, sigma, v, along), wanted)
    close(along_dual(function, x.clone().requires_grad_(), sigma, v, along), wanted)
    with torch.no_grad():
        close(along_dual(function, x, sigma, v, along), wanted)
    by_x = central(function, x, sigma, v, 0 * along)
    by_sigma = central(function, x, sigma, 0 * v, along)
    close(along_dual(function, x, sigma, v, None), by_x)
    close(along_dual(function, x, sigma, None, along), by_sigma)
    close(jvp(function, (x, sigma), (v, along))[1], wanted)
    close(jvp(lambda s: function(x, s), (sigma,), (along,))[1], by_sigma)
    close(contracted(jacrev(function, (0, 1))(x, sigma), v, along), wanted)

    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    for both in (True, False):  # it is enough that sigma requires grad
        leaf, level = x.clone().requires_grad_(both), sigma.clone().requires_grad_()
        total = (function(leaf, level) * weights).sum()
        gradients = torch.autograd.grad(total, (leaf, level) if both else (level,))
        slope = sum((g * t).sum() for g, t in zip(gradients[::-1], (along, v), strict=False))
        close(slope, ((wanted if both else by_sigma) * weights).sum())


@pytest.mark.parametrize("name", ENERGIES)
def test_batches_of_single_samples_by_vmap(name):
    model, shape = ENERGIES[name]
    x, sigma, v, along = point(shape)

    def single(x, s):
        return model.energy_and_score(x[None], s[None])[1][0]

    wanted = central(lambda x, s: model.energy_and_score(x, s)[1], x, sigma, v, along)
    close(vmap(single)(x, sigma), model.energy_and_score(x, sigma)[1].detach())
    close(
        vmap(lambda x, s, v, a: jvp(single, (x, s), (v, a))[1])(x, sigma, v, along),
        wanted,
    )
    leaf, level = x.clone().requires_grad_(), sigma.clone().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    gradients = torch.autograd.grad((vmap(single)(leaf, level) * weights).sum(), (leaf, level))
    close((gradients[0] * v).sum() + (gradients[1] * along).sum(), (wanted * weights).sum())
    energy = lambda x: model.energy_and_score(x[None], sigma[0])[0][0]  # noqa: E731, it is one formula
    hessian = jacfwd(jacrev(energy))(x[0]).reshape(x[0].numel(), -1)
    slope = central(
        lambda x, s: torch.func.grad(lambda z: model.energy_and_score(z, sigma[:1])[0].sum())(x),
        x[:1],
        sigma[:1],
        v[:1],
        0 * along[:1],
    )
    close(hessian @ v[0].flatten(), slope.flatten())


@pytest.mark.parametrize("system", [DoubleWellPairs(), LennardJones(4, 2)])
def test_particle_systems(system):
    count, dimensions = system.particles, system.dimensions
    x, _, v, _ = point((count, dimensions))
    x = x + torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0)).double()[:count] * 2
    for part in (0, 1):

        def function(x, part=part):
            return system.energy_and_score(x)[part]

        wanted = (function(x + STEP * v) - function(x - STEP * v)) / (2 * STEP)
        close(along_dual(lambda x, _, f=function: f(x), x, None, v, None), wanted)
        close(jvp(function, (x,), (v,))[1], wanted)
        close(vmap(lambda x, f=function: f(x[None])[0])(x), function(x))


@pytest.mark.parametrize("name", ["mlp", "norm", "pairs", "unet", "dit"])
@pytest.mark.parametrize("method", ["energy", "score", "forward"])
def test_derivatives_by_parameters(name, method):
    model, shape = ENERGIES[name]
    x, sigma, _, _ = point(shape)
    values = {key: value.detach() for key, value in model.named_parameters()}
    draw = torch.Generator().manual_seed(3)
    tangents = {
        key: torch.randn(value.shape, generator=draw, dtype=F64) for key, value in values.items()
    }

    class Method(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, sigma):
            if method == "forward":
                return self.model(x, sigma)
            return self.model.energy_and_score(x, sigma)[method == "score"]

    module = Method()

    def function(values):
        return functional_call(module, {f"model.{k}": v for k, v in values.items()}, (x, sigma))

    def moved(step):
        return function({key: value + step * tangents[key] for key, value in values.items()})

    with torch.no_grad():
        wanted = (moved(STEP) - moved(-STEP)) / (2 * STEP)
    close(jvp(function, (values,), (tangents,))[1], wanted)
    weights = torch.randn(wanted.shape, generator=draw, dtype=F64)
    slopes = torch.func.grad(lambda values: (function(values) * weights).sum())(values)
    total = sum((slopes[key] * tangents[key]).sum() for key in values)
    close(total, (wanted * weights).sum())


class Prompted(torch.nn.Module):
    """A backbone with a real-valued condition for each sample."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, y, c_noise, prompt):
        return torch.tanh(self.layer(torch.cat([y, prompt], 1)))


def test_derivatives_by_conditions():
    model = randomised(EnergyModel(Prompted()))
    x, sigma, prompt, v = *point((2,))[:2], *point((2,), 7)[::2]

    def function(prompt, _):
        return model.energy_and_score(x, sigma, prompt=prompt)[1]

    wanted = central(function, prompt, sigma, v, 0.0)
    close(along_dual(function, prompt, None, v, None), wanted)
    close(jvp(lambda p: function(p, None), (prompt,), (v,))[1], wanted)
    leaf = prompt.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf, None).sum(), leaf)
    close((slope * v).sum(), wanted.sum())


def test_a_compiled_model_leaves_derivatives_to_the_formulas():
    model = randomised(mlp())
    model.compile()
    x, sigma, v, along = point((2,))
    for method in (model, model.energy, lambda x, s: model.energy_and_score(x, s)[1]):
        with torch.no_grad():
            wanted = central(method, x, sigma, v, along)
            close(along_dual(method, x, sigma, v, along), wanted)
            close(jvp(method, (x, sigma), (v, along))[1], wanted)


def test_results_stay_detached_unless_an_input_requires_grad():
    x, sigma, _, _ = point((2,))
    for model, shape in ENERGIES.values():
        if shape != (2,):
            continue
        recorded = [part.requires_grad for part in model.energy_and_score(x, sigma)]
        # a score that is no derivative is recorded like the output of any network
        assert recorded == [isinstance(model, TwoHeads)] * 2


def test_a_tangent_of_a_second_derivative_through_a_transformer():
    """The derivative is right here, while that of torch's layer norm is wrong by 20 %."""
    torch.manual_seed(0)
    model = EnergyModel(DiT(1, 8, width=24, depth=1, heads=2), sigma_data=0.5).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    target = Tilted(model, lambda x: x.flatten(1).sum(1) ** 2, 0.3, gradient="exact")

    def score(x):
        return target.energy_and_score(x, 1.3)[1]

    x, v = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
    x, v = x[:, None].reshape(2, 1, 8, 8), v[:, None].reshape(2, 1, 8, 8)
    tangent = torch.func.jvp(score, (x,), (v,))[1]
    central = (score(x + 1e-5 * v) - score(x - 1e-5 * v)).detach() / 2e-5
    assert (tangent - central).abs().max() < 1e-5 * central.abs().max()
