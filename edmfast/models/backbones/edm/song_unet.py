"""SongUNet: the U-Nets DDPM++ and NCSN++ in the form in which EDM trains them.

A 3x3 convolution is followed by the levels of an encoder and of a decoder, each a few `Block`s, with a block that
halves the image between levels of the encoder and one that doubles it between those of the decoder. Every output
of the encoder is appended to the input of a block of the decoder. Besides this path the encoder may carry the
image itself: "skip" adds a 1x1 convolution of the halved image at every level, "residual" adds a halving 3x3
convolution, whose sum is the next image of this path. With the decoder "skip" every level adds its own image.

DDPM++ has positional features, both types "standard" and the filter [1, 1]. NCSN++ has Fourier features with
channel_mult_noise=2, the encoder "residual" and the filter [1, 3, 3, 1]. The names of parameters are those of
EDM's states. Shapes: y [B, C, H, W], c_noise [B].

Sources: Song et al. 2021, arXiv 2011.13456, appendix H; Karras et al. 2022, arXiv 2206.00364, appendix F.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_float, as_int
from edmfast.models.backbones.activation import silu
from edmfast.models.backbones.convolution import Convolution
from edmfast.models.backbones.edm.block import SQRT_HALF, Block, BlockKind, norm
from edmfast.models.backbones.edm.initialisation import start_song
from edmfast.models.backbones.edm.network import EDMNetwork, common_arguments
from edmfast.models.backbones.edm.noise_features import FourierFeatures, PositionalFeatures
from edmfast.models.backbones.edm.resampling import Filter, FilteredConvolution
from edmfast.models.backbones.linear import Linear
from edmfast.models.backbones.normalisation import group_norm

EMBEDDINGS = ("positional", "fourier")
ENCODERS, DECODERS = ("standard", "skip", "residual"), ("standard", "skip")
EPSILON = 1e-6


class SongUNet(EDMNetwork):
    """The U-Net of DDPM++ and NCSN++ for square images [B, C, H, W], twice differentiable.

    Sources: Song et al. 2021, arXiv 2011.13456; Karras et al. 2022, arXiv 2206.00364, tables 7 and 8.

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
        embedding_type: "positional" or "fourier".
        channel_mult_noise: numbers of the features of the noise level, as a multiple of model_channels.
        encoder_type: "standard", "skip" or "residual".
        decoder_type: "standard" or "skip".
        resample_filter: the numbers of the filter that halves and doubles, an even count.

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
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__(_checked(common_arguments(locals())))
        config = self.config
        width: int = config["model_channels"]
        noise, embedding = width * config["channel_mult_noise"], width * config["channel_mult_emb"]
        self.map_noise: nn.Module
        if embedding_type == "fourier":
            self.map_noise = FourierFeatures(noise)
        else:
            self.map_noise = PositionalFeatures(noise, to_the_end=True, sines_first=True)
        self.map_label = Linear(self.label_dim, noise) if self.label_dim else None
        self.map_augment = Linear(self.augment_dim, noise, bias=False) if self.augment_dim else None
        self.map_layer0 = Linear(noise, embedding)
        self.map_layer1 = Linear(embedding, embedding)
        kind = BlockKind(
            embedding=embedding,
            dropout=config["dropout"],
            modulated=False,
            factor=SQRT_HALF,
            epsilon=EPSILON,
            resample_filter=config["resample_filter"],
            always_mixes=True,
            head_channels=None,
        )
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips = self._build_encoder(kind)
        self._build_decoder(kind, skips)
        start_song(self)

    def forward(
        self,
        y: Tensor,
        c_noise: Tensor,
        class_label: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Return [B, out_channels, H, W].

        Args:
            y: [B, C, H, W], scaled states.
            c_noise: [B], ln(sigma)/4.
            class_label: int64 [B], where label_dim means "unconditional"; or rows [B, label_dim], which are taken
                as they are; or None for "unconditional".
            augment_labels: [B, augment_dim], or None for zeros.

        Raises:
            ValueError: a y of another shape, labels out of range, or labels that the network was not built for.
        """
        embedding = self.embedding_of(y, c_noise, class_label, augment_labels)
        return self._decode(*self._encode(y, embedding), embedding)

    def _embed(self, c_noise: Tensor, rows: Tensor | None, augment: Tensor | None) -> Tensor:
        features = self.map_noise(c_noise)
        if self.map_label is not None:
            # rows of zeros leave the bias alone
            bias = self.map_label.bias
            # one-hot rows are scaled so that their numbers have mean square 1
            more = bias if rows is None else self.map_label(rows * math.sqrt(self.label_dim))
            features = features + more
        if self.map_augment is not None and augment is not None:
            features = features + self.map_augment(augment)
        return silu(self.map_layer1(silu(self.map_layer0(features))))

    def _build_encoder(self, kind: BlockKind) -> list[int]:
        """Fill `enc`, and return the channels of its outputs in order."""
        config, numbers = self.config, self.config["resample_filter"]
        channels = image = config["in_channels"]
        skips: list[int] = []
        for level, factor in enumerate(config["channel_mult"]):
            size = config["img_resolution"] >> level
            width = config["model_channels"] * factor
            if level == 0:
                width_before, channels = channels, config["model_channels"]
                self.enc[f"{size}x{size}_conv"] = Convolution(width_before, channels, 3, padding=1)
            else:
                self.enc[f"{size}x{size}_down"] = Block(channels, channels, kind, resample="down")
                if config["encoder_type"] == "skip":
                    self.enc[f"{size}x{size}_aux_down"] = Filter(numbers, "down")
                    self.enc[f"{size}x{size}_aux_skip"] = Convolution(image, channels, 1)
                if config["encoder_type"] == "residual":
                    self.enc[f"{size}x{size}_aux_residual"] = FilteredConvolution(
                        image, channels, 3, numbers, "down", convolve_first=True
                    )
                    image = channels
            skips.append(channels)
            for index in range(config["num_blocks"]):
                attention = size in config["attn_resolutions"]
                block = Block(channels, width, kind, attention=attention)
                self.enc[f"{size}x{size}_block{index}"] = block
                channels = width
                skips.append(channels)
        return skips

    def _build_decoder(self, kind: BlockKind, skips: list[int]) -> None:
        config, skips = self.config, [*skips]
        levels = [*enumerate(config["channel_mult"])]
        channels = skips[-1]
        for level, factor in reversed(levels):
            size = config["img_resolution"] >> level
            width = config["model_channels"] * factor
            name = f"{size}x{size}"
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"] = Block(channels, channels, kind, attention=True)
                self.dec[f"{name}_in1"] = Block(channels, channels, kind)
            else:
                self.dec[f"{name}_up"] = Block(channels, channels, kind, resample="up")
            for index in range(config["num_blocks"] + 1):
                last = index == config["num_blocks"]
                attention = last and size in config["attn_resolutions"]
                block = Block(channels + skips.pop(), width, kind, attention=attention)
                self.dec[f"{name}_block{index}"] = block
                channels = width
            if config["decoder_type"] == "skip" or level == 0:
                if level < len(levels) - 1 and config["decoder_type"] == "skip":
                    self.dec[f"{name}_aux_up"] = Filter(config["resample_filter"], "up")
                self.dec[f"{name}_aux_norm"] = norm(channels, EPSILON)
                out = config["out_channels"]
                self.dec[f"{name}_aux_conv"] = Convolution(channels, out, 3, padding=1)

    def _encode(self, y: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the output of the encoder and all outputs that the decoder appends."""
        x, image, skips = y, y, list[Tensor]()
        for name, layer in self.enc.items():
            if "aux_down" in name:
                image = layer(image)
                continue
            if "aux_skip" in name:
                x = skips[-1] = x + layer(image)
            elif "aux_residual" in name:
                x = skips[-1] = image = (x + layer(image)) * SQRT_HALF
            else:
                x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
                skips.append(x)
        return x, skips

    def _decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        output: Tensor | None = None
        for name, layer in self.dec.items():
            if "aux_up" in name:
                output = layer(output)
            elif isinstance(layer, nn.GroupNorm):
                normal = group_norm(x, layer, silu=True)
            elif "aux_conv" in name:
                output = layer(normal) if output is None else output + layer(normal)
            else:
                x = torch.cat([x, skips.pop()], 1) if x.shape[1] != layer.in_channels else x
                x = layer(x, embedding)
        assert output is not None
        return output


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    config["channel_mult_noise"] = as_int(
        "channel_mult_noise", config["channel_mult_noise"], least=1
    )
    for name, accepted in (
        ("embedding_type", EMBEDDINGS),
        ("encoder_type", ENCODERS),
        ("decoder_type", DECODERS),
    ):
        if config[name] not in accepted:
            raise ValueError(f"{name} must be one of {[*accepted]}, given {config[name]!r}")
    numbers = config["resample_filter"]
    if isinstance(numbers, (str, bytes)) or not hasattr(numbers, "__len__"):
        raise TypeError(f"resample_filter must be a sequence of numbers, given {numbers!r}")
    config["resample_filter"] = [as_float("resample_filter", number) for number in numbers]
    if not config["resample_filter"] or len(numbers) % 2 or sum(config["resample_filter"]) <= 0:
        raise ValueError(
            f"resample_filter must hold an even number of numbers with a positive sum, given {[*numbers]}"
        )
    return config
