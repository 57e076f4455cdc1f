"""Squares of pixels folded into channels and back, for batches of any size, the empty one included.

torch's pixel_unshuffle and pixel_shuffle return an empty batch unchanged, with the shape of its input. Both are
permutations of pixels, so their derivatives are permutations as well, of every order.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def fold(y: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, C, H, W] -> [B, C patch², H/patch, W/patch]."""
    if y.shape[0]:
        return F.pixel_unshuffle(y, patch)
    batch, channels, height, width = y.shape
    return y.reshape(batch, channels * patch**2, height // patch, width // patch)


def unfold(h: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, C patch², H, W] -> [B, C, H patch, W patch], the inverse of `fold`."""
    if h.shape[0]:
        return F.pixel_shuffle(h, patch)
    batch, channels, height, width = h.shape
    return h.reshape(batch, channels // patch**2, height * patch, width * patch)
