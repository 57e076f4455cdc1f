"""Save figures of the demonstration, and draw images of digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edmfast._internal.atomic_write import check_output, replacing
from edmfast._internal.file_kinds import PICTURE


def save(figure: Any, path: Path) -> Path:
    """Write a PNG file, whole or not at all, and return its path. A picture that is already there is replaced."""
    with replacing(check_output(path, PICTURE, overwrite=None)) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    return path


def show_digits(axis: Any, images: torch.Tensor, columns: int, title: str = "") -> None:
    """Draw images [n, 1, 8, 8] in [-1, 1] as a mosaic, row by row, dark on light."""
    # a mosaic has no incomplete row
    images = images[: len(images) // columns * columns].clamp(-1, 1)
    # a frame in the grey of the background keeps neighbours apart
    framed = torch.nn.functional.pad(images[:, 0], (1, 1, 1, 1), value=-1.0)
    rows = framed.reshape(-1, columns, 10, 10).transpose(1, 2).reshape(-1, columns * 10)
    axis.imshow(rows.numpy(), cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
