"""A network with the preconditioning of VP, VE or iDDPM is the denoiser of its own formula, in table 1 of EDM."""

import math

import pytest
import torch

from edmfast.models import Denoiser, EnergyModel, RescaledNetwork, load_model, save_model

CONFIG = {
    "img_resolution": 8,
    "in_channels": 2,
    "out_channels": 2,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}
KINDS = ("vp", "ve", "iddpm")
SIGMAS = (0.002, 0.05, 0.7, 5.0, 80.0)


def made(kind, network="SongUNet", sigma_data=0.5, **options):
    torch.manual_seed(0)
    config = {**CONFIG, "out_channels": 4} if kind == "iddpm" else CONFIG
    backbone = RescaledNetwork(kind, network, config, sigma_data=sigma_data, **options)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Denoiser(backbone, sigma_data=sigma_data).double().eval()


def by_its_own_formula(model, kind, x, sigma, label):
    """Return D(x; sigma) as the table has it, in plain numbers for one noise level."""
    backbone = model.backbone
    if kind == "ve":
        c_in, c_out, c_noise = 1.0, sigma, math.log(sigma / 2)
    else:
        c_in, c_out = 1 / math.sqrt(sigma**2 + 1), -sigma
    if kind == "vp":
        beta_d, beta_min = 19.9, 0.1
        root = math.sqrt(beta_min**2 + 2 * beta_d * math.log(1 + sigma**2))
        c_noise = 999 * (root - beta_min) / beta_d
    if kind == "iddpm":
        a = [math.sin(math.pi / 2 * j / (1000 * 1.008)) ** 2 for j in range(1001)]
        u = [0.0] * 1001
        for j in range(1000, 0, -1):
            u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(a[j - 1] / a[j], 0.001) - 1)
        c_noise = 999 - min(range(1000), key=lambda j: abs(u[j] - sigma))
    times = torch.full((len(x),), float(c_noise), dtype=x.dtype)
    return x + c_out * backbone.network(c_in * x, times, label)[:, :2]


@pytest.mark.parametrize("network", ["SongUNet", "DhariwalUNet"])
@pytest.mark.parametrize("sigma_data", [0.5, 1.7])
@pytest.mark.parametrize("kind", KINDS)
def test_the_denoiser_is_that_of_its_own_formula(kind, network, sigma_data):
    model = made(kind, network, sigma_data)
    label = torch.tensor([0, 2, 3])
    for sigma in SIGMAS:
        draws = torch.Generator().manual_seed(1)
        x = sigma * torch.randn(3, 2, 8, 8, generator=draws, dtype=torch.float64)
        with torch.no_grad():
            denoised = model(x, sigma, class_label=label)
            expected = by_its_own_formula(model, kind, x, sigma, label)
        torch.testing.assert_close(denoised, expected, rtol=1e-9, atol=1e-9 * sigma)


def test_the_embedded_time_changes_the_result():
    """A network that ignored its time would pass the test above with a wrong formula for it."""
    for kind in KINDS:
        model = made(kind)
        x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1)).double()
        times = model.backbone._time(torch.tensor(SIGMAS).double())
        assert times.diff().gt(0).all()
        ends = [model.backbone.network(x, times[i].expand(3)) for i in (0, -1)]
        assert (ends[0] - ends[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_saving_energies_and_labels(kind, tmp_path):
    model = made(kind, sigma_data=0.25).float()
    save_model(model, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    x, label = torch.randn(20, 2, 8, 8), torch.zeros(20, dtype=torch.int64)
    assert torch.equal(loaded(x, 0.3, class_label=label), model(x, 0.3, class_label=label))
    energy = EnergyModel(loaded.backbone, sigma_data=0.25)
    assert energy.energy_and_score(x, 0.3, class_label=label)[1].isfinite().all()
    with pytest.raises(ValueError, match=r"class_label must be int64 \[20\]"):
        model(x, 0.3, class_label=label.repeat(2)[:32])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="kind must be one of vp, ve, iddpm, given 'edm'"):
        RescaledNetwork("edm", "SongUNet", CONFIG)
    with pytest.raises(ValueError, match="network must be one of SongUNet, DhariwalUNet"):
        RescaledNetwork("vp", "UNet", CONFIG)
