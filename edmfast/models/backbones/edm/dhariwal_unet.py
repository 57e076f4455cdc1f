"""DhariwalUNet: the U-Net of ADM in the form in which EDM trains it.

It has the plan of `SongUNet` with "standard" encoder and decoder. The embedding scales and shifts after the second
norm of each block, blocks have attention in the decoder wherever the encoder has it, and heads have 64 channels.
The names of parameters are those of EDM's states. Shapes: y [B, C, H, W], c_noise [B].

Sources: Dhariwal & Nichol 2021, arXiv 2105.05233; Karras et al. 2022, arXiv 2206.00364, appendix F.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edmfast.models.backbones.activation import silu
from edmfast.models.backbones.convolution import Convolution
from edmfast.models.backbones.edm.block import Block, BlockKind, norm
from edmfast.models.backbones.edm.initialisation import start_dhariwal
from edmfast.models.backbones.edm.network import EDMNetwork, common_arguments
from edmfast.models.backbones.edm.noise_features import PositionalFeatures
from edmfast.models.backbones.linear import Linear
from edmfast.models.backbones.normalisation import group_norm

EPSILON, HEAD_CHANNELS = 1e-5, 64


class DhariwalUNet(EDMNetwork):
    """The U-Net of ADM for square images [B, C, H, W], twice differentiable.

    Sources: Dhariwal & Nichol 2021, arXiv 2105.05233; Karras et al. 2022, arXiv 2206.00364, tables 7 and 8.

    Args:
        img_resolution: H and W, in pixels.
        in_channels: C.
        out_channels: channels of the output; equal to C for a model.
        label_dim: number of classes; 0 for none.
        augment_dim: numbers of a row of augmentation labels; 0 for none.
        model_channels: channels that channel_mult multiplies.
        channel_mult: factor of the channels of each level, the highest resolution first.
        channel_mult_emb: numbers of the embedding, as a multiple of model_channels.
        num_blocks: blocks of each level of the encoder; the decoder has one more.
        attn_resolutions: resolutions in pixels at which blocks have self-attention.
        dropout: probability, in training mode, that a number inside a block is set to zero.
        label_dropout: probability, in training mode, that a sample's label is left out.

    Raises:
        TypeError, ValueError: arguments of other types or out of range.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(common_arguments(locals()))
        width = self.config["model_channels"]
        embedding = width * self.config["channel_mult_emb"]
        self.map_noise = PositionalFeatures(width, to_the_end=False, sines_first=False)
        self.map_augment = Linear(self.augment_dim, width, bias=False) if self.augment_dim else None
        self.map_layer0 = Linear(width, embedding)
        self.map_layer1 = Linear(embedding, embedding)
        self.map_label = Linear(self.label_dim, embedding, bias=False) if self.label_dim else None
        kind = BlockKind(
            embedding=embedding,
            dropout=self.config["dropout"],
            modulated=True,
            factor=1.0,
            epsilon=EPSILON,
            resample_filter=(1, 1),
            always_mixes=False,
            head_channels=HEAD_CHANNELS,
        )
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        channels = self._build(kind)
        self.out_norm = norm(channels, EPSILON)
        self.out_conv = Convolution(channels, self.config["out_channels"], 3, padding=1)
        start_dhariwal(self)

    def forward(
        self,
        y: Tensor,
        c_noise: Tensor,
        class_label: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Return [B, out_channels, H, W]. The arguments and errors are those of `SongUNet.forward`."""
        embedding = self.embedding_of(y, c_noise, class_label, augment_labels)
        x, skips = y, []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            x = torch.cat([x, skips.pop()], 1) if x.shape[1] != layer.in_channels else x
            x = layer(x, embedding)
        output: Tensor = self.out_conv(group_norm(x, self.out_norm, silu=True))
        return output

    def _embed(self, c_noise: Tensor, rows: Tensor | None, augment: Tensor | None) -> Tensor:
        features = self.map_noise(c_noise)
        if self.map_augment is not None and augment is not None:
            features = features + self.map_augment(augment)
        embedding = self.map_layer1(silu(self.map_layer0(features)))
        # labels come after both layers, like the rows of an embedding table
        if self.map_label is not None and rows is not None:
            embedding = embedding + self.map_label(rows)
        return silu(embedding)

    def _build(self, kind: BlockKind) -> int:
        """Fill `enc` and `dec`, and return the channels of the output of `dec`."""
        config = self.config
        widths: list[int] = [config["model_channels"] * factor for factor in config["channel_mult"]]
        channels: int = widths[0]
        skips = [channels]
        for level, width in enumerate(widths):
            size = config["img_resolution"] >> level
            name, attention = f"{size}x{size}", size in config["attn_resolutions"]
            if level == 0:
                self.enc[f"{name}_conv"] = Convolution(
                    config["in_channels"], channels, 3, padding=1
                )
            else:
                self.enc[f"{name}_down"] = Block(channels, channels, kind, resample="down")
                skips.append(channels)
            for index in range(config["num_blocks"]):
                block = Block(channels, width, kind, attention=attention)
                self.enc[f"{name}_block{index}"] = block
                channels = width
                skips.append(channels)
        for level, width in reversed([*enumerate(widths)]):
            size = config["img_resolution"] >> level
            name, attention = f"{size}x{size}", size in config["attn_resolutions"]
            if level == len(widths) - 1:
                self.dec[f"{name}_in0"] = Block(channels, channels, kind, attention=True)
                self.dec[f"{name}_in1"] = Block(channels, channels, kind)
            else:
                self.dec[f"{name}_up"] = Block(channels, channels, kind, resample="up")
            for index in range(config["num_blocks"] + 1):
                block = Block(channels + skips.pop(), width, kind, attention=attention)
                self.dec[f"{name}_block{index}"] = block
                channels = width
        return channels
