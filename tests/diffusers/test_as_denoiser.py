"""Networks of diffusers as denoisers: the denoised states, timesteps and trajectories of diffusers' schedulers."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from edmfast import sampling
from edmfast.diffusers import as_denoiser, training_law
from edmfast.diffusers.levels.betas import alphas_cumprod_of
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, ResidualMLP
from tests.diffusers.networks import diffusers, dit, images, text_unet, unet


def predicted_by(scheduler, network, sample, t, **conditions):
    """Return the clean states that a scheduler of diffusers predicts at a timestep."""
    scaled = scheduler.scale_model_input(sample, t)
    output = network(scaled, t.expand(len(sample)), **conditions).sample
    generator = torch.Generator().manual_seed(0)
    return scheduler.step(output, t, sample, generator=generator).pred_original_sample


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_variance_exploding_schedulers(prediction, betas):
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=prediction, beta_schedule=betas)
    network = unet()
    denoiser = as_denoiser(network, scheduler.config)
    scheduler.set_timesteps(5)
    for step in range(1, 5):
        scheduler._step_index = None
        sigma, t = scheduler.sigmas[step], scheduler.timesteps[step]
        x = images(2) * sigma
        with torch.no_grad():
            expected = predicted_by(scheduler, network, x, t)
            ours = denoiser(x, sigma)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_variance_preserving_schedulers(kind, prediction):
    scheduler = getattr(diffusers, kind)(prediction_type=prediction, clip_sample=False)
    network = unet()
    denoiser = as_denoiser(network, scheduler)
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps[[0, 4, 8]]:
        alpha = scheduler.alphas_cumprod[t].sqrt()
        sigma = ((1 - alpha**2) / alpha**2).sqrt()
        sample = images(2)
        assert float(denoiser.timestep_of(sigma)) == pytest.approx(float(t), abs=1e-3)
        with torch.no_grad():
            expected = predicted_by(scheduler, network, sample, t)
            ours = denoiser(sample / alpha, sigma)
        torch.testing.assert_close(
            ours, expected, rtol=2e-4, atol=2e-4 * float(expected.abs().max())
        )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_schedulers_of_edm(prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=0.7)
    network = unet()
    denoiser = as_denoiser(network, scheduler.config)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.002, 80.0)
    scheduler.set_timesteps(6)
    sigma, t = scheduler.sigmas[3], scheduler.timesteps[3]
    x = images(2) * sigma
    with torch.no_grad():
        expected = predicted_by(scheduler, network, x, t)
        torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-5, atol=1e-5)
    # a network of EDM has no training steps to round to
    rounded = as_denoiser(network, scheduler.config, round_timesteps=True)
    assert torch.equal(rounded(x, sigma), denoiser(x, sigma))


def test_continuous_timesteps_of_euler():
    """Video models take ln(sigma)/4 as their timestep and predict v."""
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous"
    )
    network = unet()
    denoiser = as_denoiser(network, scheduler.config)
    scheduler.set_timesteps(5)
    sigma, t = scheduler.sigmas[2], scheduler.timesteps[2]
    x = images(2) * sigma
    assert float(denoiser.timestep_of(sigma)) == pytest.approx(float(t), abs=1e-6)
    with torch.no_grad():
        expected = predicted_by(scheduler, network, x, t)
        torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"invert_sigmas": True}])
def test_flow_schedulers(options):
    """A step of a flow scheduler to its end gives the denoised states of (1 - t) x_0 + t eps."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    network = unet()
    denoiser = as_denoiser(network, scheduler.config)
    scheduler.set_timesteps(4)
    # the last step ends without noise
    level, t = scheduler.sigmas[3], scheduler.timesteps[3]
    noise = 1 - level if options.get("invert_sigmas") else level
    sample = images(2)
    with torch.no_grad():
        output = network(sample, t.expand(2)).sample
        scheduler.set_begin_index(3)
        expected = scheduler.step(output, t, sample).prev_sample
        sigma = noise / (1 - noise)
        ours = denoiser(sample / (1 - noise), sigma)
    assert float(denoiser.timestep_of(sigma)) == pytest.approx(float(t), rel=1e-5)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_trajectories_are_those_of_diffusers():
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear")
    network = unet()
    scheduler.set_timesteps(8)
    start = images(2) * scheduler.init_noise_sigma
    x = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(output, t, x).prev_sample
    ours = sampling.sample_euler(
        as_denoiser(network, scheduler.config), start, scheduler.sigmas, disable=True
    )
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5 * float(x.abs().max()))


def test_timesteps_are_continuous_and_inverted():
    config = diffusers.DDIMScheduler().config
    denoiser = as_denoiser(unet(), config)
    t = torch.tensor([0.0, 0.25, 3.5, 998.75, 999.0], dtype=torch.float64)
    sigma = denoiser.sigma_of(t)
    torch.testing.assert_close(denoiser.timestep_of(sigma), t, rtol=0, atol=1e-9)
    low, high = denoiser.sigma_of(3).log(), denoiser.sigma_of(4).log()
    assert float(sigma[2].log()) == pytest.approx(float(low + high) / 2, rel=1e-12)
    # beyond the ends the network keeps its first or last timestep
    assert denoiser.timestep_of(1e-9) == 0
    assert denoiser.timestep_of(1e9) == 999
    assert denoiser.sigma_min == pytest.approx(float(sigma[0]))
    rounded = as_denoiser(unet(), config, round_timesteps=True)
    assert rounded.timestep_of(denoiser.sigma_of(3.4)) == 3
    assert rounded.timestep_of(denoiser.sigma_of(3.6)) == 4


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels_are_those_of_diffusers(betas, zero_snr):
    settings = {"beta_schedule": betas, "rescale_betas_zero_snr": zero_snr}
    scheduler = diffusers.EulerDiscreteScheduler(**settings)
    ours = alphas_cumprod_of(scheduler.config)
    assert torch.equal(ours, scheduler.alphas_cumprod)


def test_betas_by_their_class_and_by_themselves():
    """A configuration without betas has the defaults of its class."""
    heun = {"_class_name": "HeunDiscreteScheduler", "beta_schedule": "linear"}
    expected = diffusers.HeunDiscreteScheduler()
    levels = ((1 - expected.alphas_cumprod) / expected.alphas_cumprod).sqrt()
    assert as_denoiser(unet(), heun).sigma_max == pytest.approx(float(levels[-1]))
    betas = [0.1, 0.2, 0.5]
    given = as_denoiser(unet(), {"beta_schedule": "linear", "trained_betas": betas})
    assert given.sigma_max == pytest.approx((1 / (0.9 * 0.8 * 0.5) - 1) ** 0.5)
    with pytest.raises(ValueError, match="beta_schedule must be one of linear"):
        as_denoiser(unet(), {"beta_schedule": "steep"})


def test_zero_terminal_signal_has_a_finite_level():
    scheduler = diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True)
    denoiser = as_denoiser(unet(), scheduler.config)
    assert denoiser.sigma_max == pytest.approx(float(scheduler.sigmas[0]))


def test_learned_variances_are_dropped_and_labels_pass():
    network = dit()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    denoiser = as_denoiser(network, scheduler.config)
    x, labels, sigma = images(3, 4), torch.tensor([0, 1, 4]), torch.tensor([0.3, 2.0, 11.0])
    with torch.no_grad():
        ours = denoiser(x, sigma, class_labels=labels)
        alpha = (1 + sigma.square()).rsqrt().view(3, 1, 1, 1)
        times = denoiser.timestep_of(sigma).float()
        output = network(alpha * x, times, class_labels=labels).sample
    assert output.shape == (3, 8, 8, 8)
    expected = x - sigma.view(3, 1, 1, 1) * output[:, :4]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    # the package's own name for labels, one row for all samples, and labels that are bound
    single = denoiser(x, sigma, class_label=labels[1:2])
    bound = as_denoiser(network, scheduler.config, class_labels=labels[1:2])
    assert torch.equal(single, bound(x, sigma))
    torch.testing.assert_close(single[1], ours[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(single[0], ours[0])
    assert torch.equal(bound(x, sigma, class_labels=labels), ours)


def test_learned_timesteps_are_whole():
    network = unet(time_embedding_type="learned", num_train_timesteps=1000)
    denoiser = as_denoiser(network, diffusers.DDIMScheduler().config)
    assert float(denoiser.timestep_of(denoiser.sigma_of(3.4))) == 3
    assert denoiser(images(2), 1.0).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="has a table of timesteps"):
        as_denoiser(network, diffusers.EDMEulerScheduler().config)


def test_texts_and_added_conditions_pass():
    network = text_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=4 * 6 + 5,
    )
    denoiser = as_denoiser(network, diffusers.EulerDiscreteScheduler().config)
    x, texts = images(2, 4), torch.randn(2, 7, 12)
    added = {"text_embeds": torch.randn(2, 5), "time_ids": torch.rand(1, 6)}
    sigma = 3.0
    with torch.no_grad():
        ours = denoiser(x, sigma, encoder_hidden_states=texts, added_cond_kwargs=added)
        both = {**added, "time_ids": added["time_ids"].expand(2, 6)}
        times = denoiser.timestep_of(torch.full((2,), sigma)).float()
        output = network(x / 10**0.5, times, texts, added_cond_kwargs=both).sample
    torch.testing.assert_close(ours, x - sigma * output, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="needs the condition added_cond_kwargs"):
        denoiser(x, sigma, encoder_hidden_states=texts)
    added["text_embeds"] = torch.randn(3, 5)
    with pytest.raises(ValueError, match="added_cond_kwargs has 3 rows for a batch of 2"):
        denoiser(x, sigma, encoder_hidden_states=texts, added_cond_kwargs=added)


def test_classifier_free_guidance():
    network = text_unet()
    denoiser = as_denoiser(network, diffusers.EulerDiscreteScheduler().config)
    x, texts, empty = images(2, 4), torch.randn(2, 7, 12), torch.randn(1, 7, 12)
    guided = sampling.guidance.ClassifierFreeGuidance(
        denoiser, 5.0, unconditional={"encoder_hidden_states": empty}
    )
    with torch.no_grad():
        conditional = denoiser(x, 2.0, encoder_hidden_states=texts)
        unconditional = denoiser(x, 2.0, encoder_hidden_states=empty)
        ours = guided(x, 2.0, encoder_hidden_states=texts)
    expected = unconditional + 5 * (conditional - unconditional)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_half_precision_take_states_of_float32(dtype):
    network = text_unet()
    config = diffusers.EulerDiscreteScheduler().config
    x, texts = images(2, 4) * 14, torch.randn(2, 7, 12)
    with torch.no_grad():
        expected = as_denoiser(network, config)(x, 14.0, encoder_hidden_states=texts)
        half = as_denoiser(network.to(dtype), config)(x, 14.0, encoder_hidden_states=texts)
    assert half.dtype == torch.float32
    assert (half - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EDMEulerScheduler"])
def test_a_trace_holds_for_other_states_and_levels(kind):
    """No number is read on the host, so that the graph of one run serves other noise levels."""
    denoiser = as_denoiser(unet(), getattr(diffusers, kind)())
    x, sigma = images(2), torch.tensor([0.5, 3.0])
    with torch.no_grad():
        graph = make_fx(denoiser)(torch.zeros_like(x), torch.ones(2))
        traced, expected = graph(x, sigma), denoiser(x, sigma)
    torch.testing.assert_close(traced, expected, rtol=1e-5, atol=1e-5)


def test_a_result_is_no_memory_of_the_network():
    class Reusing(torch.nn.Module):
        """A network that writes every output to one buffer, as compiled ones do."""

        def forward(self, x, t, return_dict=False):
            self.buffer = getattr(self, "buffer", torch.empty_like(x))
            return (self.buffer.copy_(x),)

    settings = {"beta_schedule": "linear", "prediction_type": "sample"}
    denoiser = as_denoiser(Reusing(), settings)
    first = denoiser(images(2), 1.0)
    kept = first.clone()
    denoiser(images(2, seed=5), 1.0)
    assert torch.equal(first, kept)


def test_a_network_is_distilled():
    network = unet(num_class_embeds=3)
    denoiser = as_denoiser(network, diffusers.DDIMScheduler().config)
    data = images(20), torch.arange(20) % 3

    class Flat(torch.nn.Module):
        """A teacher of flat images, for a perceptron as the student."""

        def forward(self, x, sigma, class_label):
            images = x.reshape(-1, 3, 8, 8)
            return denoiser(images, sigma, class_label=class_label).flatten(1)

    student = EnergyModel(ResidualMLP(192, 8, 1, 3))
    config = DistillConfig(steps=2, batch_size=4)
    samples = data[0].flatten(1), data[1]
    result = distill(Flat(), student, samples, config=config, progress=False)
    assert result.losses.isfinite().all()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: as_denoiser(unet(), "ddim"), TypeError, "scheduler_config must be"),
        (lambda: as_denoiser(unet(), {"a": 1}), ValueError, "not known here"),
        (lambda: as_denoiser(unet(), diffusers.IPNDMScheduler()), ValueError, "IPNDM"),
        (
            lambda: as_denoiser(unet(), {"_class_name": "CosineDPMSolverMultistepScheduler"}),
            ValueError,
            "CosineDPMSolverMultistepScheduler are not known here",
        ),
        (
            lambda: as_denoiser(unet(), {"beta_schedule": "linear", "prediction_type": "x"}),
            ValueError,
            "prediction_type must be one of epsilon, v_prediction, sample",
        ),
        (lambda: as_denoiser(lambda x, t: x, {}), TypeError, "model must be a torch.nn.Module"),
        (
            lambda: as_denoiser(unet(), {"beta_schedule": "linear"}, labels=1),
            TypeError,
            "takes the conditions class_labels, got labels",
        ),
    ],
)
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_bad_calls():
    config = diffusers.DDIMScheduler().config
    denoiser = as_denoiser(unet(num_class_embeds=3), config)
    x, labels = images(2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="sigma must be positive, given 0"):
        denoiser(x, 0.0, class_labels=labels)
    with pytest.raises(ValueError, match="class_labels has 3 rows for a batch of 2"):
        denoiser(x, 1.0, class_labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="class_labels and class_label are one condition"):
        denoiser(x, 1.0, class_labels=labels, class_label=labels)
    with pytest.raises(TypeError, match="needs the condition encoder_hidden_states"):
        as_denoiser(text_unet(), config)(images(2, 4), 1.0)
    with pytest.raises(ValueError, match=r"must return \[2, 3, 8, 8\].*got \[2, 5, 8, 8\]"):
        as_denoiser(unet(out_channels=5), config)(x, 1.0)


def test_no_module_behind_it_imports_diffusers():
    for module in (importlib.import_module("edmfast.diffusers.as_denoiser"), training_law):
        nodes = ast.walk(ast.parse(Path(module.__file__).read_text()))
        names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        assert names
        assert not any(name.startswith("diffusers") for name in names)
        assert not any(value is diffusers for value in vars(module).values())
