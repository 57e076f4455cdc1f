"""Small randomly initialised networks of diffusers, with weights large enough that conditions matter."""

from __future__ import annotations

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs diffusers, from the extra test")

UNET = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def unet(**options):
    """Return a UNet2DModel of images [3, 8, 8] with attention."""
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return diffusers.UNet2DModel(**(UNET | blocks | options)).eval()


def labelled_unet():
    """Return the smallest UNet2DModel with attention and three classes."""
    return unet(block_out_channels=(8, 8), num_class_embeds=3)


def text_unet(**options):
    """Return a UNet2DConditionModel of images [4, 8, 8] with texts [L, 12]."""
    torch.manual_seed(0)
    channels = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 12}
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return diffusers.UNet2DConditionModel(**(UNET | channels | blocks | options)).eval()


def dit(**options):
    """Return a DiTTransformer2DModel of images [4, 8, 8] with five classes and a learned variance."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    channels = {"in_channels": 4, "out_channels": 8, "patch_size": 2, "num_embeds_ada_norm": 5}
    network = diffusers.DiTTransformer2DModel(**(sizes | channels | options)).eval()
    # the published initialisation makes blocks and output ignore the conditions
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def images(batch, channels=3, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, 8, 8, generator=draw)
