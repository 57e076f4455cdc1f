"""Folding pixels into channels agrees with torch's functions, and keeps the shape of an empty batch."""

import pytest
import torch
from torch.nn import functional as F

from edmfast.models.backbones.pixel_folding import fold, unfold


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_shapes_and_inverse(batch, patch):
    y = torch.randn(batch, 3, 8, 4)
    folded = fold(y, patch)
    assert folded.shape == (batch, 3 * patch**2, 8 // patch, 4 // patch)
    assert torch.equal(unfold(folded, patch), y)
    if batch:
        assert torch.equal(folded, F.pixel_unshuffle(y, patch))


def test_an_empty_batch_keeps_its_graph():
    y = torch.empty(0, 2, 4, 4, requires_grad=True)
    (unfold(fold(y, 2), 2).sum() + fold(y, 2).sum()).backward()
    assert y.grad.shape == y.shape
