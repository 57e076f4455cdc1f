"""Rows by their indices equal those of torch's indexing, in every layout."""

import pytest
import torch

from edmfast._internal.select import rows_of

PLAIN = torch.randint(256, (6, 3, 4, 5), generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([5, 0, 0, 3])


@pytest.mark.parametrize(
    "tensor",
    [
        PLAIN,
        PLAIN.movedim(1, -1).contiguous().movedim(-1, 1),
        PLAIN[::2, :, 1:].repeat(2, 1, 1, 1),
        PLAIN.transpose(2, 3),
        PLAIN[:, :, 0, 0],
        PLAIN[:, 1, 2, 3],
        PLAIN[:, :, :, 0].transpose(1, 2),
    ],
    ids=["plain", "channels last", "copied", "turned", "points", "numbers", "sequences"],
)
def test_rows(tensor):
    assert torch.equal(rows_of(tensor, INDEX), tensor[INDEX])


def test_images_with_channels_last_keep_their_order():
    images = PLAIN.movedim(1, -1).contiguous().movedim(-1, 1)
    assert rows_of(images, INDEX).movedim(1, -1).is_contiguous()
