"""The wrappers of k-diffusion and the UNets of diffusers work in the entry points, where they are installed."""

import pytest
import torch

import edmfast
import edmfast.k_diffusion as K
from edmfast import Conditioned, DistillConfig, EnergyModel, smc
from edmfast.models import ResidualMLP, patch_attention
from edmfast.targets import Renamed
from tests.foreign.entries import COMPILED, DATA, DENOISERS, LEVELS
from tests.foreign.wrappers import SHAPE, like_states

# in the entry points left out, an untrained network or its second derivative overflows
QUIET = [name for name in DENOISERS if name not in ("score_asymmetry", "conservativity_report")]


class Small(torch.nn.Module):
    """A network of another package, called with (y, t or sigma [B]), that returns a tensor like y."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.alphas_cumprod = torch.linspace(0.9999, 0.001, 100)

    def forward(self, y, t):
        return 0.1 * self.layer(y) + 0 * like_states(t.to(y.dtype), y)

    apply_model = forward


def wrapped(kind):
    external = pytest.importorskip("k_diffusion.external", exc_type=ImportError)
    layers = pytest.importorskip("k_diffusion.layers", exc_type=ImportError)
    builders = {
        "VDenoiser": lambda: external.VDenoiser(Small()),
        "CompVisDenoiser": lambda: external.CompVisDenoiser(Small()),
        "CompVisDenoiser quantised": lambda: external.CompVisDenoiser(Small(), quantize=True),
        "Denoiser": lambda: layers.Denoiser(Small(), sigma_data=0.5),
    }
    return builders[kind]()


@pytest.mark.parametrize("kind", ["VDenoiser", "CompVisDenoiser", "CompVisDenoiser quantised",
                                  "Denoiser"])  # fmt: skip
def test_k_diffusion(kind):
    model = wrapped(kind)
    for name, entry in DENOISERS.items():
        assert entry(model).isfinite().all(), name


def test_the_wrapper_of_this_package():
    model = K.external.CompVisDenoiser(Small())
    for name in QUIET:
        assert DENOISERS[name](model).isfinite().all(), name


@pytest.mark.slow
def test_k_diffusion_compiled():
    model = wrapped("CompVisDenoiser")
    torch.testing.assert_close(COMPILED(model), DENOISERS["Tempered"](model), rtol=1e-3, atol=1e-3)


def unet(**options):
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), layers_per_block=1,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_unet_of_diffusers_behind_a_lambda():
    network = unet()

    def model(x, sigma):
        scale = like_states((sigma**2 + 1).rsqrt(), x)
        noise = network((x * scale).float(), sigma.log().float()).sample
        return x - like_states(sigma, x) * noise.to(x.dtype)

    for name in QUIET:
        assert DENOISERS[name](model).isfinite().all(), name
    for name in {*DENOISERS} - {*QUIET}:
        with pytest.raises(RuntimeError, match="patch_attention"):
            DENOISERS[name](model)
    with pytest.raises(TypeError, match=r"returned a UNet2DOutput.*\.sample"):
        smc.sample(network, SHAPE, LEVELS, particles=4)


class Network(torch.nn.Module):
    """A UNet as a backbone, which takes the tensor out of the object that the UNet returns."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, y, c_noise, class_labels=None):
        return self.network(y, 250 * c_noise, class_labels=class_labels).sample


@pytest.mark.slow
def test_a_unet_of_diffusers_as_teacher_and_as_energy():
    labels = torch.arange(16) % 3
    config = DistillConfig(steps=2, batch_size=4)
    teacher = edmfast.Denoiser(Network(unet(num_class_embeds=3)))
    torch.manual_seed(0)
    student = EnergyModel(ResidualMLP(16, width=8, depth=1, num_classes=3))
    names = {"class_label": "class_labels"}
    result = edmfast.distill(
        teacher, student, (DATA, labels), config=config, progress=False, condition_names=names
    )
    assert result.losses.isfinite().all()
    energy = patch_attention(
        EnergyModel(Renamed(Network(unet(num_class_embeds=3)), class_label="class_labels"))
    )
    edmfast.distill(student, energy, (DATA, labels), config=config, progress=False)
    assert (
        smc.sample(Conditioned(energy, class_label=1), SHAPE, LEVELS, particles=4)
        .x.isfinite()
        .all()
    )
