"""Small pipelines with random weights give the same images after two lines that swap the scheduler."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.diffusers.schedulers import EdmfastScheduler, diffusers

SD = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "DDIMScheduler",
)
TEXTS = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="pipelines with texts need transformers, from the extra test",
)
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def images(pipe, **arguments):
    """Return the images of a pipeline with its scheduler, and with ours in its place."""
    pipe.set_progress_bar_config(disable=True)
    results = []
    for swap in (False, True):
        if swap:
            name = type(pipe.scheduler).__name__
            # these pipelines were constructed, and with betas of its own LMS has the settings of KDPM2
            family = {"family": name} if name == "LMSDiscreteScheduler" else {}
            pipe.scheduler = EdmfastScheduler.from_config(pipe.scheduler.config, **family)
            assert pipe.scheduler.config["_diffusers_class"] == name
        generator = torch.Generator().manual_seed(1)
        results.append(pipe(generator=generator, output_type="pt", **arguments).images)
    return [torch.as_tensor(result) for result in results]


def same(results):
    expected, found = results
    assert expected.isfinite().all()
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def unconditional():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


@pytest.fixture(scope="module")
def latent():
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=8,
    ).eval()
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16,), norm_num_groups=8, latent_channels=4, shift_factor=0.0
    )
    parts = {"unet": unet, "vae": vae.eval(), "text_encoder": None, "tokenizer": None}
    return {**parts, "safety_checker": None, "feature_extractor": None}


def prompts():
    generator = torch.Generator().manual_seed(2)
    shape = (1, 5, 16)
    texts = [torch.randn(shape, generator=generator) for _ in range(2)]
    return {"prompt_embeds": texts[0], "negative_prompt_embeds": texts[1]}


def test_the_pipeline_of_ddim(unconditional):
    pipe = diffusers.DDIMPipeline(unconditional, diffusers.DDIMScheduler())
    same(images(pipe, num_inference_steps=5, batch_size=2, eta=0.5))


def test_two_lines_in_a_pipeline_that_was_constructed(unconditional):
    pipe = diffusers.DDIMPipeline(unconditional, diffusers.DDIMScheduler(clip_sample_range=2.0))
    pipe.scheduler = EdmfastScheduler.from_config(pipe.scheduler.config)
    assert pipe.scheduler.config.clip_sample_range == 2.0


@TEXTS
@pytest.mark.parametrize("name", SD)
def test_two_lines_in_a_pipeline_that_was_loaded(latent, name, tmp_path):
    parts = {**latent, "requires_safety_checker": False}
    pipe = diffusers.StableDiffusionPipeline(**parts, scheduler=getattr(diffusers, name)(**LATENT))
    pipe.scheduler.save_pretrained(tmp_path)
    pipe.scheduler = getattr(diffusers, name).from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)

    def run():
        generator = torch.Generator().manual_seed(1)
        return pipe(num_inference_steps=4, output_type="pt", generator=generator, **prompts())

    expected = run().images
    pipe.scheduler = EdmfastScheduler.from_config(pipe.scheduler.config)
    assert pipe.scheduler.config["_diffusers_class"] == name
    same([expected, run().images])


def test_a_saved_pipeline_keeps_the_scheduler(unconditional, tmp_path):
    pipe = diffusers.DDPMPipeline(unconditional, diffusers.DDPMScheduler())
    family = "EulerAncestralDiscreteScheduler"
    pipe.scheduler = EdmfastScheduler.from_config(pipe.scheduler.config, family=family)
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.scheduler, EdmfastScheduler)
    assert loaded.scheduler.config["_diffusers_class"] == family
    alone = EdmfastScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert dict(alone.config) == dict(loaded.scheduler.config)


@TEXTS
@pytest.mark.parametrize("name", SD)
def test_stable_diffusion(latent, name):
    scheduler = getattr(diffusers, name)(**LATENT)
    pipe = diffusers.StableDiffusionPipeline(
        **latent, scheduler=scheduler, requires_safety_checker=False
    )
    same(images(pipe, num_inference_steps=4, guidance_scale=3.0, **prompts()))


@TEXTS
@pytest.mark.parametrize("name", SD)
def test_stable_diffusion_from_an_image(latent, name):
    scheduler = getattr(diffusers, name)(**LATENT)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **latent, scheduler=scheduler, requires_safety_checker=False
    )
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    arguments = {"image": image, "strength": 0.6, "num_inference_steps": 6}
    same(images(pipe, **arguments, guidance_scale=3.0, **prompts()))


@TEXTS
def test_inpainting(latent):
    scheduler = diffusers.DPMSolverMultistepScheduler(**LATENT)
    pipe = diffusers.StableDiffusionInpaintPipeline(
        **latent, scheduler=scheduler, requires_safety_checker=False
    )
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(1, 3, 8, 8, generator=generator)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    arguments = {"image": image, "mask_image": mask, "height": 8, "width": 8, "strength": 1.0}
    same(images(pipe, **arguments, num_inference_steps=4, **prompts()))


def test_diffusion_transformers(latent):
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        norm_num_groups=8,
        num_embeds_ada_norm=1000,
    ).eval()
    scheduler = diffusers.DDIMScheduler()
    pipe = diffusers.DiTPipeline(transformer, latent["vae"], scheduler)
    same(images(pipe, class_labels=[1, 2], num_inference_steps=3))


@TEXTS
def test_stable_diffusion_3(latent):
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
    ).eval()
    absent = (
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "text_encoder_3",
        "tokenizer_3",
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=latent["vae"],
        **dict.fromkeys(absent),
    )
    pooled = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(3))
    texts = {
        **prompts(),
        "pooled_prompt_embeds": pooled[0],
        "negative_pooled_prompt_embeds": pooled[1],
    }
    same(images(pipe, num_inference_steps=3, height=8, width=8, **texts))
