"""Test that problems publicly reported for models, their inputs and their files do not occur here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from edmfast import analytic, models, sampling, smc
from edmfast.distill import DistillConfig, distill
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, load_model, save_model
from edmfast.models.compiling import flat_graph
from edmfast.targets import Tempered

MIXTURE = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.6])


def perceptron(**options):
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=8, depth=1, **options))
    torch.nn.init.normal_(model.backbone.output.weight, std=0.3)
    return model.eval()


def test_inference_mode_samples_or_says_what_to_use_instead():
    """denoising-diffusion-pytorch 286: sampling under inference_mode failed. Here denoisers and samplers give the
    usual bits. A score is a gradient, which that mode forbids; the error then recommends torch.no_grad().
    """
    sigmas, x = torch.tensor([2.0, 1.0, 0.5]), torch.ones(4, 2)
    torch.manual_seed(0)
    teacher = Denoiser(ResidualMLP(2, width=8, depth=1)).eval()

    def numbers():
        run = smc.sample(MIXTURE, (2,), sigmas, particles=8, proposal="noise_matched")
        return sampling.sample_heun(teacher, x, sigmas, disable=True), run.x, run.log_z

    plain = numbers()
    with torch.inference_mode():
        inside = numbers()
        with pytest.raises(RuntimeError, match=r"torch\.no_grad\(\)"):
            perceptron().energy_and_score(x, 0.5)
    for actual, expected in zip(inside, plain, strict=True):
        assert torch.equal(actual, expected)


def test_channels_last_and_tied_weights_are_saved(tmp_path):
    """safetensors 308, 98: strided and shared tensors could not be saved. Here both are restored unchanged."""
    torch.manual_seed(0)
    model = EnergyModel(models.UNet(1, channels=(8,), groups=4)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = model.to(memory_format=torch.channels_last)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    same = [(a, b) for a in convolutions for b in convolutions if a is not b]
    first, second = next((a, b) for a, b in same if a.weight.shape == b.weight.shape)
    second.weight = first.weight
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    save_model(model, tmp_path / "m")
    torch.testing.assert_close(load_model(tmp_path / "m").energy(x, 0.5), model.energy(x, 0.5))


def test_resuming_restores_the_optimiser(tmp_path):
    """libreyolo 277: resuming reset the optimiser. Here a stopped run ends with the bits of a complete one."""
    data = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))

    calls = []

    def teacher(x, sigma):
        calls.append(len(x))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return MIXTURE.denoise(x, sigma)

    def train(name, **options):
        student = perceptron()
        path = tmp_path / name
        config = DistillConfig(steps=30, batch_size=16, warmup_steps=5, checkpoint=path)
        distill(teacher, student, data, config=config, progress=False, **options)
        return student.state_dict()

    stop_at = 0
    whole = train("whole")
    stop_at = len(calls) + 12
    with pytest.raises(KeyboardInterrupt):
        train("part")
    resumed = train("part", resume_from=tmp_path / "part")
    # One more call compares the teacher with that of the checkpoint on the first batch.
    assert len(calls) == 30 + 11 + 1 + 1 + 19
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.parametrize("size", [(5, 7), (6, 4), (3, 3)])
def test_a_unet_refuses_sizes_that_it_cannot_halve(size):
    """diffusers 3630: odd image sizes failed deep inside with a size mismatch. Here the error names the size."""
    model = Denoiser(models.UNet(1, channels=(8, 8, 8), groups=4))
    with pytest.raises(ValueError, match=str(size[0])):
        model(torch.zeros(2, 1, *size), 0.5)
    assert model(torch.zeros(2, 1, 8, 4), 0.5).shape == (2, 1, 8, 4)


@pytest.mark.parametrize("labels", [15, 17, 32, 59])
def test_as_many_conditions_as_samples(labels):
    """X-Portrait 15: 16 samples were accepted with 59 conditions. Here another number of labels is an error."""
    model, x = perceptron(num_classes=3), torch.zeros(16, 2)
    for call in (model, model.energy, model.energy_and_score):
        with pytest.raises(ValueError, match=str(labels)):
            call(x, 0.5, class_label=torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1e3, 1e6])
def test_extreme_levels_stay_finite(sigma):
    """diffusers 14374, alphafold3-pytorch 124: sigma of 0 and extremes divided by zero. Here values are finite."""
    x = sigma * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for value in (*perceptron().energy_and_score(x, sigma), perceptron()(x, sigma)):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("weights", ["energy", "reversal", "score"])
def test_another_default_device_or_dtype_changes_nothing(weights, compile, monkeypatch):
    """deepmd-kit 3307: another default device broke code that creates tensors. Here the defaults do not matter."""
    monkeypatch.setattr(flat_graph, "compile_graph", lambda graph, *_: graph)
    sigmas, target = torch.tensor([2.0, 1.0, 0.5]), Tempered(MIXTURE, 2.0)
    settings = {"particles": 16, "seed": 1, "weights": weights, "compile": compile}
    sampled = smc.sample(target, (2,), sigmas, **settings).x
    old = torch.get_default_dtype()
    try:
        with torch.device("meta"):
            elsewhere = smc.sample(
                target, (2,), sigmas, **settings, options=smc.RunOptions(device="cpu")
            ).x
        torch.set_default_dtype(torch.float64)
        wide = smc.sample(
            target, (2,), sigmas, **settings, options=smc.RunOptions(dtype=sampled.dtype)
        ).x
    finally:
        torch.set_default_dtype(old)
    assert torch.equal(elsewhere, sampled)
    assert torch.equal(wide, sampled)


def test_numpy_numbers_reach_a_file(tmp_path):
    """cmdstanpy 647, msprime 593, SMAC3 453: NumPy integers failed when written as JSON. Here they are
    accepted, and the files hold plain numbers.
    """
    run = smc.sample(
        MIXTURE,
        (np.int64(2),),
        np.array([2.0, 1.0, 0.5]).tolist(),
        particles=np.int32(16),
        populations=np.int64(2),
        seed=np.uint64(3),
        checkpoint=smc.Checkpoint(tmp_path / "c", every=np.int64(1)),
    )
    run.save(tmp_path / "p")
    assert torch.equal(smc.Particles.load(tmp_path / "p").x, run.x)
    plain = smc.sample(MIXTURE, (2,), [2.0, 1.0, 0.5], particles=16, populations=2, seed=3)
    assert torch.equal(plain.x, run.x)
    save_model(EnergyModel(ResidualMLP(np.int64(2), width=np.int32(8), depth=1)), tmp_path / "m")
    assert load_model(tmp_path / "m").backbone.config["dim"] == 2
    assert json.dumps(load_model(tmp_path / "m").backbone.config)
    assert len(sampling.get_sigmas_karras(np.int64(4), np.float32(0.1), np.float64(2))) == 5


def test_data_of_another_scale_than_sigma_data_are_reported():
    """k-diffusion 10: data whose scale differs from sigma_data trained badly without a warning. Here a warning
    states both numbers.
    """
    data = 73 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    config = DistillConfig(mode="dsm", steps=1, batch_size=8)
    with pytest.warns(UserWarning, match="sigma_data"):
        distill(None, perceptron(), data, config=config, progress=False)
