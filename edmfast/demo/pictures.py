"""Drawing for the demonstration: matplotlib without a display, imported when first needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edmfast._internal.atomic_write import check_output, replacing
from edmfast._internal.file_kinds import PICTURE


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches. ImportError, naming the cure, without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "the demonstration draws with matplotlib: pip install 'edmfast[demo]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write a PNG; a picture already there is replaced in one step."""
    with replacing(check_output(path, PICTURE)) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
    return path


def show_digits(axis: Any, images: torch.Tensor, columns: int, title: str = "") -> None:
    """images [n, 1, 8, 8] in [-1, 1] as a mosaic, row by row, dark on light."""
    images = images[: len(images) // columns * columns].clamp(-1, 1)
    framed = torch.nn.functional.pad(images[:, 0], (1, 1, 1, 1), value=-1.0)
    rows = framed.reshape(-1, columns, 10, 10).transpose(1, 2).reshape(-1, columns * 10)
    axis.imshow(rows.numpy(), cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
