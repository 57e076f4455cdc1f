"""DiT: a class-conditional diffusion transformer for images of one size.

A linear layer turns patches of patch x patch pixels into tokens, and fixed sine-cosine positions are added. Then
follow `TransformerBlock`s that the embedding of noise level and class modulates, a layer norm modulated in the
same way, and a linear layer back to pixels. All modulation starts at zero, and so does the last layer, so that an
inner-product energy starts as the exact Gaussian one. The network is twice differentiable; a third derivative
raises. Shapes: y [B, C, H, W], c_noise [B]. Source: Peebles & Xie 2023, arXiv 2212.09748.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from edmfast._internal.numbers import as_float, as_int, as_shape
from edmfast._internal.rows import per_sample, rows_of
from edmfast.models.backbones.dit_blocks import (
    TransformerBlock,
    grid_positions,
    modulated_norm,
)
from edmfast.models.backbones.embedding import Embedding, as_classes
from edmfast.models.backbones.heads import heads_of
from edmfast.models.backbones.linear import Linear
from edmfast.models.backbones.pixel_folding import fold, unfold


class DiT(nn.Module):
    """A diffusion transformer for images [B, C, H, W] of one size, twice differentiable.

    `DiT(4, 32, **DiT.PRESETS["B"])` has a published size: S, B, L or XL.

    Source: Peebles & Xie 2023, arXiv 2212.09748.

    Args:
        in_channels: C.
        size: H and W in pixels, or one number for both.
        patch: side in pixels of the square that becomes one token.
        width: numbers per token.
        depth: number of blocks.
        heads: attention heads.
        num_classes: the number of classes that class_label distinguishes, or None for no labels.
        mlp_ratio: hidden width of a block's mlp, as a multiple of width.
        embedding_width: numbers of the embedding of noise level and class; None for width.
        dropout: probability, in training mode, that a number which a block's branch adds is set to zero.
        out_channels: channels of the output, a multiple of in_channels; None for in_channels. `TwoHeads` needs
            2 in_channels.

    Raises:
        ValueError: sizes that are not positive, an H or W that is not a multiple of patch, a width that is not a
            multiple of 4 and of heads, a dropout outside [0, 1), or out_channels that are no multiple of
            in_channels.
    """

    PRESETS: ClassVar[dict[str, dict[str, int]]] = {
        "S": {"width": 384, "depth": 12, "heads": 6},
        "B": {"width": 768, "depth": 12, "heads": 12},
        "L": {"width": 1024, "depth": 24, "heads": 16},
        "XL": {"width": 1152, "depth": 28, "heads": 16},
    }
    _positions: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        size: int | Sequence[int],
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        num_classes: int | None = None,
        mlp_ratio: float = 4.0,
        embedding_width: int | None = None,
        dropout: float = 0.0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        in_channels = as_int("in_channels", in_channels, least=1)
        patch, width = as_int("patch", patch, least=1), as_int("width", width, least=1)
        depth, heads = as_int("depth", depth, least=1), as_int("heads", heads, least=1)
        num_classes, mlp_ratio = as_classes(num_classes), as_float("mlp_ratio", mlp_ratio)
        embedding_width = width if embedding_width is None else embedding_width
        embedding_width = as_int("embedding_width", embedding_width, least=1)
        dropout = as_float("dropout", dropout)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "size": _as_size(size),
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "num_classes": num_classes,
            "mlp_ratio": mlp_ratio,
            "embedding_width": embedding_width,
            "dropout": dropout,
        }
        outputs = in_channels * heads_of(self.config, "out_channels", out_channels, in_channels)
        # config is complete before the checks, so that errors can name all its entries
        _check(self.config)
        self.num_classes, self.patch = num_classes, patch
        self.shape = [in_channels, *self.config["size"]]
        rows, columns = (side // patch for side in self.shape[1:])
        # positions follow from the sizes, so a checkpoint need not hold them
        self.register_buffer("_positions", grid_positions(rows, columns, width), persistent=False)
        self.embedding = Embedding(embedding_width, num_classes)
        self.input = Linear(in_channels * patch**2, width)
        hidden = round(mlp_ratio * width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, hidden, embedding_width, dropout) for _ in range(depth)
        )
        self.modulation = Linear(embedding_width, 2 * width)
        self.output = Linear(width, outputs * patch**2)
        self._initialise()

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
        if y.dim() != 4 or [*y.shape[1:]] != self.shape:
            channels, height, width = self.shape
            raise ValueError(f"y must be [B, {channels}, {height}, {width}], given {rows_of(y)}")
        embedding = self.embedding(c_noise, class_label)
        patches = fold(y, self.patch)
        # tokens are ordered row by row, as the positions are
        h = self.input(patches.flatten(2).transpose(1, 2)) + self._positions
        for block in self.blocks:
            h = block(h, embedding)
        modulation = per_sample(self.modulation(embedding), y.shape[0])
        shift, scale = modulation[:, None].chunk(2, 2)
        output = self.output(modulated_norm(h, shift, scale))
        grid = output.transpose(1, 2).unflatten(2, [*patches.shape[2:]])
        return unfold(grid, self.patch)

    def _initialise(self) -> None:
        """Initialise the weights, with zeros where the energy must start as the Gaussian one.

        Other linear layers start as in vision transformers, by Glorot & Bengio 2010 with biases of zero.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        modulations = [module.modulation for module in (self, *self.blocks)]
        for layer in (*modulations, self.output):
            # zero modulation makes every block the identity, and a zero output the Gaussian energy
            nn.init.zeros_(layer.weight)


def _as_size(size: int | Sequence[int]) -> list[int]:
    """Return [height, width]."""
    # arrays and tensors without dimensions have __len__ too, but are single numbers
    if hasattr(size, "__len__") and getattr(size, "ndim", 1) == 1:
        return [*as_shape("size", size)]
    return [as_int("size", size, least=1)] * 2


def _check(config: dict[str, Any]) -> None:
    size, patch, width = config["size"], config["patch"], config["width"]
    if len(size) != 2:
        raise ValueError(f"size must be one or two numbers, height and width, given {size}")
    if any(side % patch for side in size):
        raise ValueError(f"height and width must be multiples of patch={patch}, given {size}")
    if width % 4 or width % config["heads"]:
        raise ValueError(
            f"width must be a multiple of 4 and of heads={config['heads']}, given {width}"
        )
    if round(config["mlp_ratio"] * width) < 1:
        raise ValueError(f"mlp_ratio must leave a hidden layer, given {config['mlp_ratio']}")
    if not 0 <= config["dropout"] < 1:
        raise ValueError(f"dropout must lie in [0, 1), given {config['dropout']}")
