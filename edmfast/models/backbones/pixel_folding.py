"""Folding of squares of pixels into channels and back, for batches of any size, including the empty one.

Both directions are permutations of pixels, and so are their derivatives of every order. torch's pixel_unshuffle
and pixel_shuffle leave the shape of an empty batch unchanged, so that case is handled here.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def fold(y: torch.Tensor, patch: int) -> torch.Tensor:
    """Return y [B, C, H, W] as [B, C patch², H/patch, W/patch]."""
    if y.shape[0]:
        return F.pixel_unshuffle(y, patch)
    batch, channels, height, width = y.shape
    return y.reshape(batch, channels * patch**2, height // patch, width // patch)


def unfold(h: torch.Tensor, patch: int) -> torch.Tensor:
    """Return h [B, C patch², H, W] as [B, C, H patch, W patch], which inverts `fold`."""
    if h.shape[0]:
        return F.pixel_shuffle(h, patch)
    batch, channels, height, width = h.shape
    return h.reshape(batch, channels // patch**2, height * patch, width * patch)
