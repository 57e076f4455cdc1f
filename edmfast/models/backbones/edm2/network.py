"""EDM2UNet: the magnitude-preserving U-Net of EDM2 (configuration G), without biases and group norms.

A channel of ones is appended to the input, which replaces the biases. The encoder has a convolution and num_blocks
blocks at each resolution, with a halving block between two resolutions. The decoder starts with a block with and
one without attention, has num_blocks + 1 blocks at each resolution, to which the encoder's outputs are appended,
and doubling blocks between them. All weights are normalised (see `layers`), so that activations keep unit variance
from the input to the output, which a learned gain multiplies. The gain starts at 0, so that an inner-product
energy starts as the Gaussian one.

Parameters have the names of EDM2's states, without the prefix "unet.". The network is twice differentiable; a
third derivative raises. Shapes: y [B, C, H, W], c_noise [B].

Source: Karras et al. 2024, arXiv 2312.02696, section 2 and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edmfast._internal.dispatch import as_written
from edmfast._internal.rows import rows_of, shared_rows
from edmfast.models.backbones.edm.labels import check_label, label_rows
from edmfast.models.backbones.edm2.arguments import checked_arguments
from edmfast.models.backbones.edm2.block import Block, BlockKind
from edmfast.models.backbones.edm2.functions import FourierFeatures, mp_cat, mp_silu, mp_sum
from edmfast.models.backbones.edm2.layers import MPConv2d, MPLayer, MPLinear
from edmfast.models.level_table import of_level


class EDM2UNet(nn.Module):
    """The magnitude-preserving U-Net of EDM2 for square images [B, C, H, W], twice differentiable.

    `EDM2UNet(64, 4, 1000, **EDM2UNet.PRESETS["S"])` has a published size: XS, S, M, L, XL or XXL. A training loop
    of your own calls `after_update` after each step of its optimiser, as `distill` does.

    Source: Karras et al. 2024, arXiv 2312.02696, section 2 and appendix B.

    Args:
        img_resolution: H and W, in pixels.
        img_channels: C.
        label_dim: number of classes; 0 for none.
        model_channels: channels that channel_mult multiplies.
        channel_mult: factor of the channels of each level, the highest resolution first.
        channel_mult_noise: number of noise features, as a multiple of model_channels; None takes the channels of
            the highest resolution.
        channel_mult_emb: numbers of the embedding, as a multiple of model_channels; None takes the most channels
            of a level.
        num_blocks: blocks of each level of the encoder; the decoder has one more.
        attn_resolutions: resolutions in pixels at which blocks have self-attention.
        label_balance: share of the class in the embedding, within [0, 1].
        concat_balance: share of the encoder in the input of a decoder's block, within [0, 1].
        res_balance: share of the residual branch in the output of a block, within [0, 1].
        attn_balance: share of the attention in the output of a block, within [0, 1].
        channels_per_head: channels of an attention head.
        dropout: probability, in training mode, that a number inside a block is set to zero.
        clip_act: largest absolute value that leaves a block; None for no limit.

    Raises:
        TypeError, ValueError: arguments of other types or out of range.
    """

    PRESETS: ClassVar[dict[str, dict[str, int]]] = {
        "XS": {"model_channels": 128},
        "S": {"model_channels": 192},
        "M": {"model_channels": 256},
        "L": {"model_channels": 320},
        "XL": {"model_channels": 384},
        "XXL": {"model_channels": 448},
    }

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        clip_act: float | None = 256.0,
    ) -> None:
        super().__init__()
        self.config = config = checked_arguments(locals())
        self.label_dim: int = config["label_dim"]
        self.num_classes: int | None = self.label_dim or None
        base = config["model_channels"]
        self.widths: list[int] = [base * factor for factor in config["channel_mult"]]
        noise_factor, embedding_factor = config["channel_mult_noise"], config["channel_mult_emb"]
        features = self.widths[0] if noise_factor is None else base * noise_factor
        embedding = max(self.widths) if embedding_factor is None else base * embedding_factor
        self.emb_fourier = FourierFeatures(features)
        self.emb_noise = MPLinear(features, embedding)
        self.emb_label = MPLinear(self.label_dim, embedding) if self.label_dim else None
        kind = BlockKind(
            embedding=embedding,
            channels_per_head=config["channels_per_head"],
            dropout=config["dropout"],
            res_balance=config["res_balance"],
            attn_balance=config["attn_balance"],
            clip_act=config["clip_act"],
        )
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        channels = self._build(kind)
        self.out_conv = MPConv2d(channels, config["img_channels"], 3)
        # a zero output makes an inner-product energy start as the Gaussian one
        self.out_gain = nn.Parameter(torch.zeros([]))

    def forward(self, y: Tensor, c_noise: Tensor, class_label: Tensor | None = None) -> Tensor:
        """Return a tensor like y.

        Args:
            y: [B, C, H, W], scaled states.
            c_noise: [B], ln(sigma)/4.
            class_label: int64 [B], where label_dim means "unconditional"; or rows [B, label_dim], which are taken
                as they are; or None for "unconditional".

        Raises:
            ValueError: a y of another shape, or labels that the network does not take.
        """
        self._check(y)
        embedding = self._embedding(c_noise, class_label, y.shape[0])
        x, skips = torch.cat([y, torch.ones_like(y[:, :1])], 1), []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            if x.shape[1] != layer.in_channels:
                x = mp_cat(x, skips.pop(), self.config["concat_balance"])
            x = layer(x, embedding)
        output: Tensor = self.out_conv(x, self.out_gain)
        return output

    def after_update(self) -> None:
        """Normalise all weights in place, as after each step of an optimiser ("forced weight normalisation").

        Outputs do not depend on lengths, but learning rates act more weakly on longer weights.
        """
        for layer in self.modules():
            if isinstance(layer, MPLayer):
                layer.force_normal()

    def check_condition(self, condition: dict[str, Any], batch: int) -> None:
        """Raise ValueError for conditions whose rows do not fit the caller's batch of samples."""
        label = condition.get("class_label")
        if label is not None and self.label_dim:
            check_label(label, self.label_dim, batch)

    def _embedding(self, c_noise: Tensor, label: Tensor | None, batch: int) -> Tensor:
        """Return the embedding [B, E], or fewer equal rows where one level is expanded to [B] without labels."""
        rows = self._label_rows(label, batch, c_noise)
        # a stride of zero shows that one level was expanded, so that all rows are equal
        alone = c_noise.shape[0] == 1 or c_noise.stride(0) == 0
        if rows is not None or not alone:
            return self._embed(c_noise, rows)
        layers = [self.emb_fourier, self.emb_noise]
        # hooks of a caller may do anything
        if all(map(as_written, layers)):
            sources = [self.emb_fourier.freqs, self.emb_fourier.phases, self.emb_noise.weight]
            name = ("edm2 embedding", id(self))
            found = of_level(
                (c_noise[:1],), name, sources, lambda level: (self._embed(level, None),)
            )
            if found is not None:
                return found[0]
        return self._embed(shared_rows(c_noise[:1]) if batch > 1 else c_noise, None)

    def _embed(self, c_noise: Tensor, rows: Tensor | None) -> Tensor:
        embedding: Tensor = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None:
            # a row of zeros, which is "unconditional", adds nothing but keeps its share
            label = torch.zeros_like(embedding)
            if rows is not None:
                label = self.emb_label(rows * math.sqrt(self.label_dim))
            embedding = mp_sum(embedding, label, self.config["label_balance"])
        return mp_silu(embedding)

    def _label_rows(self, label: Tensor | None, batch: int, like: Tensor) -> Tensor | None:
        if label is None:
            return None
        if not self.label_dim:
            raise ValueError("a network built with label_dim=0 takes no class_label, given one")
        check_label(label, self.label_dim, batch)
        return label_rows(label, self.label_dim, like).expand(batch, -1)

    def _check(self, y: Tensor) -> None:
        channels, size = self.config["img_channels"], self.config["img_resolution"]
        if y.dim() != 4 or [*y.shape[1:]] != [channels, size, size]:
            raise ValueError(f"y must be [B, {channels}, {size}, {size}], given {rows_of(y)}")

    def _build(self, kind: BlockKind) -> int:
        """Fill `enc` and `dec`, and return the channels of the output of `dec`."""
        config = self.config
        # one channel of ones is appended to the image
        channels: int = config["img_channels"] + 1
        skips: list[int] = []
        for level, width in enumerate(self.widths):
            size = config["img_resolution"] >> level
            name, attention = f"{size}x{size}", size in config["attn_resolutions"]
            if level == 0:
                self.enc[f"{name}_conv"] = MPConv2d(channels, width, 3)
                channels = width
            else:
                self.enc[f"{name}_down"] = Block(channels, channels, kind, resample="down")
            skips.append(channels)
            for index in range(config["num_blocks"]):
                self.enc[f"{name}_block{index}"] = Block(channels, width, kind, attention=attention)
                channels = width
                skips.append(channels)
        for level, width in reversed([*enumerate(self.widths)]):
            size = config["img_resolution"] >> level
            name, attention = f"{size}x{size}", size in config["attn_resolutions"]
            options: dict[str, Any] = {"decoder": True}
            if level == len(self.widths) - 1:
                self.dec[f"{name}_in0"] = Block(channels, channels, kind, attention=True, **options)
                self.dec[f"{name}_in1"] = Block(channels, channels, kind, **options)
            else:
                self.dec[f"{name}_up"] = Block(channels, channels, kind, resample="up", **options)
            for index in range(config["num_blocks"] + 1):
                entry = channels + skips.pop()
                block = Block(entry, width, kind, attention=attention, **options)
                self.dec[f"{name}_block{index}"] = block
                channels = width
        return channels
