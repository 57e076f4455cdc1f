"""The two lines that swap a scheduler find its class, or say which line to write instead."""

from __future__ import annotations

import pytest
import torch

from tests.diffusers.schedulers import ALL, EdmfastScheduler, diffusers, ramp, trajectory

LATENT = {"beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        ("DDPMScheduler", True),
        ("DDPMScheduler", False),
        ("PNDMScheduler", True),
        ("PNDMScheduler", False),
        ("KDPM2DiscreteScheduler", False),
        ("LMSDiscreteScheduler", False),
    ],
)
def test_each_line_of_the_message_works(name, loaded):
    """The defaults of most pipelines are DDPM and PNDM, whose steps ours does not have."""
    config = getattr(diffusers, name)(**LATENT).config
    if loaded:
        config = {**config, "_class_name": name}
    with pytest.raises(ValueError, match="Name a class") as raised:
        EdmfastScheduler.from_config(config)
    lines = str(raised.value).split(": ")[1].split(". The classes")[0].split(" or ")
    assert len(lines) >= 2
    for line in lines:
        start, family = line.split(", family=")
        assert start == "EdmfastScheduler.from_config(pipe.scheduler.config"
        scheduler = EdmfastScheduler.from_config(config, family=family.strip('")'))
        assert scheduler.config.beta_end == LATENT["beta_end"]
        scheduler.set_timesteps(3)
        assert trajectory(scheduler, ramp())[-1].isfinite().all()


def test_lines_of_other_networks():
    with pytest.raises(ValueError, match=r"FlowMatchHeun.*family=\"FlowMatchEuler"):
        EdmfastScheduler.from_config(
            {"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 1.0}
        )
    # these networks have levels that no class here has, so there is no line to suggest
    config = {"_class_name": "CogVideoXDDIMScheduler", "beta_schedule": "x", "snr_shift_scale": 3}
    with pytest.raises(ValueError, match=r"CogVideoX.*Name a class: family=\.\.\."):
        EdmfastScheduler.from_config(config)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("KDPM2")])
def test_a_constructed_scheduler_that_has_run(name):
    """Runs and pipelines change settings which the configuration goes on listing as defaults."""
    theirs = getattr(diffusers, name)()
    theirs.set_timesteps(4)
    changes = {
        key: value
        for key, value in {"steps_offset": 1, "clip_sample": False}.items()
        if key in theirs.config
    }
    config = {**theirs.config, **changes}
    ours = EdmfastScheduler.from_config(config)
    assert ours.config["_diffusers_class"] == name
    assert ours.config.items() >= changes.items()
    assert ours.config.get("lower_order_final") == config.get("lower_order_final")


def test_the_family_replaces_the_class_of_the_configuration():
    config = {**diffusers.PNDMScheduler(**LATENT).config, "_class_name": "PNDMScheduler"}
    ours = EdmfastScheduler.from_config(config, family="DDIMScheduler")
    theirs = diffusers.DDIMScheduler.from_config(config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(5)
    ends = [trajectory(scheduler, ramp())[-1] for scheduler in (ours, theirs)]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)
