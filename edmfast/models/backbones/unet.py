"""UNet: a small class-conditional U-Net for images of any size that its levels can halve.

On the way down, each level applies residual blocks and then 2x2 average pooling. A residual block is group norm,
silu and a 3x3 convolution, twice, with a shift from the embedding of noise level and class between the two. The
lowest level ends with self-attention. On the way up, each level doubles the resolution by nearest neighbours,
appends the skip, and applies residual blocks. The last convolution starts at zero. With patch > 1 the image is
first folded into patch² times as many channels, which saves most of the work on small images. The network is twice
differentiable; a third derivative raises. Shapes: y [B, C, H, W], c_noise [B].
Sources: Ronneberger et al. 2015, arXiv 1505.04597; Ho et al. 2020, arXiv 2006.11239.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edmfast._internal.numbers import as_int, as_shape
from edmfast._internal.rows import rows_of
from edmfast.models.backbones.convolution import Convolution
from edmfast.models.backbones.embedding import Embedding, as_classes
from edmfast.models.backbones.heads import heads_of
from edmfast.models.backbones.normalisation import group_norm
from edmfast.models.backbones.pixel_folding import fold, unfold
from edmfast.models.backbones.unet_blocks import Attention, ResidualBlock


class UNet(nn.Module):
    """A U-Net for images [B, C, H, W], twice differentiable.

    H and W must be multiples of patch·2^(len(channels) - 1), which is 4 by default.

    Sources: Ronneberger et al. 2015, arXiv 1505.04597; Ho et al. 2020, arXiv 2006.11239.

    Args:
        in_channels: C.
        channels: channels of each level, the highest resolution first.
        blocks: residual blocks per level and direction.
        num_classes: the number of classes that class_label distinguishes, or None for no labels.
        groups: groups of the group norms. Every entry of channels must be a multiple of it.
        embedding_width: numbers of the embedding of noise level and class.
        patch: side of the square of pixels that is folded into channels; 1 folds nothing.
        out_channels: channels of the output, a multiple of in_channels; None for in_channels. `TwoHeads` needs
            2 in_channels.

    Raises:
        ValueError: sizes that are not positive, channels that are not multiples of groups, or out_channels that
            are no multiple of in_channels.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (32, 64, 64),
        blocks: int = 1,
        num_classes: int | None = None,
        groups: int = 8,
        embedding_width: int = 64,
        patch: int = 1,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        in_channels = as_int("in_channels", in_channels, least=1)
        channels, blocks = as_shape("channels", channels), as_int("blocks", blocks, least=1)
        num_classes = as_classes(num_classes)
        groups, patch = as_int("groups", groups, least=1), as_int("patch", patch, least=1)
        embedding_width = as_int("embedding_width", embedding_width, least=1)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "channels": [*channels],
            "blocks": blocks,
            "num_classes": num_classes,
            "groups": groups,
            "embedding_width": embedding_width,
            "patch": patch,
        }
        heads = heads_of(self.config, "out_channels", out_channels, in_channels)
        if any(width % groups for width in channels):
            raise ValueError(f"channels must be multiples of groups={groups}, given {channels}")
        self.num_classes, self.patch = num_classes, patch
        self.embedding = Embedding(embedding_width, num_classes)
        self.input = Convolution(in_channels * patch**2, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        width = channels[0]
        for level_width in channels:
            self.down.append(Level(width, level_width, blocks, groups, embedding_width))
            width = level_width
        self.attention = Attention(width, groups)
        self.up = nn.ModuleList()
        for level_width in reversed(channels[:-1]):
            # the skip of the same resolution is appended to the channels from below
            entry = width + level_width
            self.up.append(Level(entry, level_width, blocks, groups, embedding_width))
            width = level_width
        self.output_norm = nn.GroupNorm(groups, width)
        self.output = Convolution(width, heads * in_channels * patch**2, 3, padding=1)
        # a zero output makes an inner-product energy start as the Gaussian one
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, y: torch.Tensor, c_noise: torch.Tensor, class_label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a tensor like y, with out_channels channels.

        Args:
            y: [B, C, H, W], scaled states.
            c_noise: [B], ln(sigma)/4.
            class_label: int64 [B], or None for "unconditional".

        Raises:
            ValueError: a y of another shape, or labels out of range.
        """
        self._check(y)
        embedding = self.embedding(c_noise, class_label)
        h = self.input(fold(y, self.patch))
        skips = []
        for index, level in enumerate(self.down):
            h = level(F.avg_pool2d(h, 2) if index else h, embedding)
            skips.append(h)
        # attention is affordable only at the lowest resolution
        h = self.attention(skips.pop())
        for level in self.up:
            h = level(torch.cat([doubled(h), skips.pop()], 1), embedding)
        return unfold(self.output(group_norm(h, self.output_norm, silu=True)), self.patch)

    def _check(self, y: torch.Tensor) -> None:
        # every level below the first halves the image once
        multiple = self.patch * 2 ** (len(self.down) - 1)
        channels = self.config["in_channels"]
        if y.dim() != 4 or y.shape[1] != channels or y.shape[2] % multiple or y.shape[3] % multiple:
            raise ValueError(
                f"y must be [B, {channels}, H, W] with H and W multiples of {multiple}, "
                f"given {rows_of(y)}"
            )


def doubled(h: torch.Tensor) -> torch.Tensor:
    """Return h [B, C, H, W] at twice the resolution, [B, C, 2 H, 2 W], by nearest neighbours.

    torch's own interpolation needs sizes that are numbers, so that a trace could not hold a symbolic batch size.
    """
    spread = h[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
    return spread.flatten(4).flatten(2, 3)


class Level(nn.ModuleList):
    """The residual blocks of one resolution, applied one after the other."""

    def __init__(
        self, entry: int, width: int, blocks: int, groups: int, embedding_width: int
    ) -> None:
        super().__init__(
            ResidualBlock(entry if index == 0 else width, width, groups, embedding_width)
            for index in range(blocks)
        )

    def forward(self, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return [B, width, H, W] for h [B, entry, H, W] and embedding [B, embedding_width]."""
        for block in self:
            h = block(h, embedding)
        return h
