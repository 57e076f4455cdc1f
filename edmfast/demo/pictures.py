"""Drawing for the demonstration: matplotlib without a display, imported when first needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


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
    """Write a PNG; a file already there is replaced in one step."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(unfinished, dpi=130, format="png")
    unfinished.replace(path)
    return path


def show_digits(axis: Any, images: torch.Tensor, columns: int, title: str = "") -> None:
    """images [n, 1, 8, 8] in [-1, 1] as a mosaic, row by row, dark on light."""
    images = images[: len(images) // columns * columns].clamp(-1, 1)
    framed = torch.nn.functional.pad(images[:, 0], (1, 1, 1, 1), value=-1.0)
    rows = framed.reshape(-1, columns, 10, 10).transpose(1, 2).reshape(-1, columns * 10)
    axis.imshow(rows.numpy(), cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
