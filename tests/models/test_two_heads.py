"""The two heads are an EDM denoiser and an inner-product energy, which samplers, files and graphs take."""

import shutil

import pytest
import torch

from edmfast import sampling, smc
from edmfast.models import (
    Denoiser,
    DiT,
    EnergyModel,
    ResidualMLP,
    SongUNet,
    TwoHeads,
    UNet,
    load_model,
    save_model,
)
from edmfast.smc.feynman_kac.choose_reversal import is_learned
from edmfast.targets import Tempered


class Foreign(torch.nn.Module):
    """A network of a user, which takes its class under a name of its own."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.level = torch.nn.Linear(1, 4)
        self.table = torch.nn.Embedding(3, 4)

    def forward(self, y, c_noise, kind=None):
        shift = self.level(c_noise[:, None])
        if kind is not None:
            shift = shift + self.table(kind)
        return torch.tanh(self.layer(y) + shift[:, :, None, None])


BACKBONES = {
    "mlp": (
        lambda: ResidualMLP(6, width=16, depth=2, num_classes=3, out_dim=12),
        (6,),
        "class_label",
    ),
    "mlp images": (lambda: ResidualMLP(8, width=16, depth=1, out_dim=16), (2, 2, 2), None),
    "unet": (
        lambda: UNet(2, (4, 8), groups=2, num_classes=3, patch=2, out_channels=4),
        (2, 4, 4),
        "class_label",
    ),
    "dit": (
        lambda: DiT(2, (4, 6), 2, width=8, depth=1, heads=2, num_classes=3, out_channels=4),
        (2, 4, 6),
        "class_label",
    ),
    "song": (
        lambda: SongUNet(
            4,
            2,
            4,
            label_dim=3,
            model_channels=4,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(2,),
        ),
        (2, 4, 4),
        "class_label",
    ),
    "foreign": (Foreign, (2, 4, 4), "kind"),
}


class Half(torch.nn.Module):
    """One of the two halves of a network's output."""

    def __init__(self, backbone, index):
        super().__init__()
        self.inner, self.index = backbone, index

    def forward(self, y, c_noise, **condition):
        count = y.shape[1]
        return self.inner(y, c_noise, **condition)[:, count * self.index : count * (self.index + 1)]


def model_of(name, sigma_data=0.7):
    torch.manual_seed(0)
    build, shape, label = BACKBONES[name]
    model = TwoHeads(build(), sigma_data=sigma_data)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    condition = {} if label is None else {label: torch.arange(5) % 3}
    return model.eval(), torch.randn(5, *shape), condition


@pytest.mark.parametrize("name", BACKBONES)
def test_heads_are_a_denoiser_and_an_energy(name):
    model, x, condition = model_of(name)
    sigma = torch.tensor([0.03, 0.2, 0.7, 3.0, 40.0])
    denoiser = Denoiser(Half(model.backbone, 0), sigma_data=0.7)
    exact = EnergyModel(Half(model.backbone, 1), sigma_data=0.7)
    with torch.no_grad():
        energy, score = model.energy_and_score(x, sigma, **condition)
        denoised = model(x, sigma, **condition)
        torch.testing.assert_close(denoised, denoiser(x, sigma, **condition))
        torch.testing.assert_close(energy, exact.energy(x, sigma, **condition))
        torch.testing.assert_close(model.energy(x, sigma, **condition), energy)
        levels = sigma.reshape(-1, *[1] * (x.dim() - 1))
        torch.testing.assert_close(
            score * levels**2, denoised - x, rtol=1e-4, atol=2e-5 * float(x.abs().max())
        )


@pytest.mark.parametrize("name", ["mlp", "mlp images", "unet", "dit", "song"])
def test_new_networks_start_as_a_gaussian(name):
    build, shape, _ = BACKBONES[name]
    model, x = TwoHeads(build(), sigma_data=0.7), torch.randn(4, *shape)
    energy, score = model.energy_and_score(x, 0.3)
    variance = 0.3**2 + 0.7**2
    torch.testing.assert_close(energy, x.flatten(1).square().sum(1) / (2 * variance))
    torch.testing.assert_close(score, -x / variance)
    torch.testing.assert_close(model(x, 0.3), x * 0.7**2 / variance)


def test_a_sample_has_the_same_bits_alone_and_in_a_batch():
    model, x, condition = model_of("unet")
    with torch.no_grad():
        whole = model.energy_and_score(x, 0.4, **condition)
        alone = model.energy_and_score(x[3:4], 0.4, class_label=condition["class_label"][3:4])
    assert all(torch.equal(a[3:4], b) for a, b in zip(whole, alone, strict=True))


def test_derivatives():
    torch.manual_seed(0)
    model = TwoHeads(ResidualMLP(3, width=6, depth=1, out_dim=6)).double()
    torch.nn.init.normal_(model.backbone.output.weight)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.4, 1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.energy_and_score, (x, sigma))
    assert torch.autograd.gradgradcheck(lambda x: model(x, sigma), (x,))
    # the gradient of the energy is that of its own head, which differs from the score of an untrained model
    energy, score = model.energy_and_score(x, sigma)
    (slope,) = torch.autograd.grad(energy.sum(), x)
    exact = EnergyModel(Half(model.backbone, 1)).double().energy_and_score(x, sigma)[1]
    torch.testing.assert_close(-slope, exact.detach())
    assert (score - exact).abs().max() > 0.1
    assert not model.score_is_exact


@pytest.mark.parametrize("name", ["mlp", "unet", "dit", "song"])
def test_round_trip(name, tmp_path):
    model, x, condition = model_of(name)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert type(loaded) is TwoHeads
    assert loaded.sigma_data == 0.7
    with torch.no_grad():
        expected = model.energy_and_score(x, 0.4, **condition)
        actual = loaded.energy_and_score(x, 0.4, **condition)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("weights", [None, "energy", "reversal", "hybrid"])
def test_particles(weights):
    torch.manual_seed(0)
    model = TwoHeads(ResidualMLP(2, width=8, depth=1, out_dim=4), sigma_data=0.7)
    sigmas = torch.tensor([20.0, 6.0, 2.0, 0.8, 0.3, 0.1])
    options = {} if weights is None else {"weights": weights}
    run = smc.sample(Tempered(model, 2.0), (2,), sigmas, particles=400, populations=4, **options)
    # untrained heads are those of the Gaussian N(0, .49 I), whose square has half the variance
    variance = run.expectation(lambda x: x.square().mean(-1)).mean()
    expected = (0.7**2 + 0.1**2) / 2
    assert abs(float(variance) - expected) < 0.05


def test_learned_energies_are_weighed_by_hybrids():
    model = model_of("mlp")[0]
    assert is_learned(Tempered(model, 2.0))
    assert not is_learned(Denoiser(ResidualMLP(3)))


def test_solvers_take_the_denoiser():
    model, x, condition = model_of("unet")
    x, condition = 20 * torch.randn(3, *x.shape[1:]), {"class_label": torch.tensor([0, 1, 2])}
    sigmas = sampling.get_sigmas_karras(4, 0.05, 20.0)
    denoiser = Denoiser(Half(model.backbone, 0), sigma_data=0.7)
    for solve in (sampling.sample_heun, sampling.sample_dpmpp_2m):
        ours = solve(model, x, sigmas, extra_args=condition)
        torch.testing.assert_close(ours, solve(denoiser, x, sigmas, extra_args=condition))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_methods():
    model, x, condition = model_of("mlp")
    with torch.no_grad():
        expected = [*model.energy_and_score(x, 0.4, **condition), model(x, 0.4, **condition)]
        model.compile()
        actual = [*model.energy_and_score(x, 0.4, **condition), model(x, 0.4, **condition)]
        assert model._compiled is not None
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    x.requires_grad_()
    assert model.energy(x, 0.4, **condition).requires_grad


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TwoHeads(ResidualMLP(3)), r"must return \[B, 6\] for an input \[B, 3\], 2 heads"),
        (lambda: EnergyModel(ResidualMLP(3, out_dim=6)), r"must return \[B, 3\] like its input"),
        (lambda: Denoiser(ResidualMLP(3, out_dim=6)), r"must return \[B, 3\] like its input"),
    ],
)
def test_a_network_with_another_number_of_outputs_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.ones(2, 3), 0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResidualMLP(3, out_dim=7), "out_dim must be a multiple of 3"),
        (lambda: UNet(2, (4,), groups=2, out_channels=3), "out_channels must be a multiple of 2"),
        (
            lambda: DiT(2, 4, width=8, heads=2, out_channels=1),
            "out_channels must be a multiple of 2",
        ),
    ],
)
def test_outputs_are_multiples_of_inputs(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_arguments_are_refused():
    model = model_of("mlp")[0]
    with pytest.raises(ValueError, match="sigma must be positive"):
        model(torch.ones(2, 6), 0.0)
    with pytest.raises(ValueError, match="class_label"):
        model.energy(torch.ones(2, 6), 0.5, class_label=torch.zeros(3, dtype=torch.int64))
