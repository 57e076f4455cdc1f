"""Draw pictures of a run: the behaviour of its weights at every noise level, and its samples.

matplotlib, which the `demo` extra installs, is imported at the first picture and needs no display. Samples of
shape (2,) become a scatter plot with areas proportional to the weights. Images [H, W] or [C, H, W] of at least
4 by 4 pixels become a mosaic of weighted draws. For all other samples, a histogram shows their first number.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

_MOST_POINTS = 20_000
"""Points that a scatter plot shows at most."""
_MOST_LINES = 64
"""Populations that a plot against sigma shows at most."""
_SMALLEST_IMAGE = 4
_BLACK_AND_WHITE = torch.tensor([0.005, 0.995])
"""Quantiles of the pixels that are shown as black and white."""


class PlottedRun(Protocol):
    """The part of `edmfast.smc.Particles` that a picture shows, with the same shapes."""

    x: Tensor
    ess: Tensor
    resampled: Tensor
    log_weight_sd: Tensor
    unique_ancestors: Tensor
    sigmas: Tensor
    survivors: Tensor | None
    ancestors: Tensor | None

    @property
    def weights(self) -> Tensor:
        """Normalised weights, float64 [P, N]."""

    def unique_trace(self) -> Tensor:
        """Return how many particles of each level have a descendant among the final ones, int64 [T, P]."""


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of a size in inches. Raises ImportError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'edmfast[demo]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    # this canvas needs no display
    FigureCanvasAgg(figure)
    return figure


def particles_figure(particles: PlottedRun) -> Any:
    """Return a matplotlib figure with four panels.

    They show the effective sample size with marks at resampled levels, the sd of the incremental log-weights,
    the number of ancestors that are left at each level, and the samples. A run with a recorded genealogy has a
    second curve of ancestors. Raises ImportError without matplotlib.
    """
    figure = new_figure(11, 8)
    (ess, spread), (family, samples) = figure.subplots(2, 2)
    _draw_ess(ess, particles)
    _draw_spread(spread, particles)
    _draw_ancestors(family, particles)
    draw_samples(samples, particles)
    return figure


def samples_figure(particles: PlottedRun) -> Any:
    """Return a matplotlib figure of the samples alone. Raises ImportError without matplotlib."""
    figure = new_figure(7, 7)
    draw_samples(figure.subplots(), particles)
    return figure


def is_image(shape: torch.Size | tuple[int, ...]) -> bool:
    """Return whether samples of this shape are shown as images."""
    return len(shape) in (2, 3) and min(shape[-2:]) >= _SMALLEST_IMAGE


def draw_samples(axis: Any, particles: PlottedRun) -> None:
    """Draw the samples on one axis, as a scatter plot, mosaic or histogram by their shape."""
    shape = particles.x.shape[2:]
    if tuple(shape) == (2,):
        _scatter(axis, particles)
    elif is_image(shape):
        _mosaic(axis, particles)
    else:
        _histogram(axis, particles)


def _levels(particles: PlottedRun) -> Tensor:
    return particles.sigmas[: len(particles.ess)].cpu()


def _label_axes(axis: Any, label: str) -> None:
    """Show sigma from high to low on a logarithmic axis."""
    axis.set(xscale="log", xlabel="σ", ylabel=label)
    # a run goes from large to small sigma
    axis.invert_xaxis()


def _draw_ess(axis: Any, particles: PlottedRun) -> None:
    sigmas, fraction = _levels(particles), (particles.ess / particles.x.shape[1]).cpu()
    resampled = particles.resampled.cpu()
    for p in range(min(fraction.shape[1], _MOST_LINES)):
        (line,) = axis.plot(sigmas, fraction[:, p], lw=0.8, alpha=0.8)
        marked = resampled[:, p]
        style = {"ls": "", "marker": "v", "ms": 4, "color": line.get_color()}
        axis.plot(sigmas[marked], fraction[marked, p], **style)
    # an empty line gives the legend its entry
    axis.plot([], [], ls="", marker="v", ms=4, color="grey", label="resampled")
    axis.set_ylim(0, 1.05)
    axis.legend(fontsize=8, loc="lower left")
    _label_axes(axis, "ESS / N")


def _draw_spread(axis: Any, particles: PlottedRun) -> None:
    spread = particles.log_weight_sd.cpu()[:, :_MOST_LINES]
    axis.plot(_levels(particles), spread, lw=0.8, alpha=0.8)
    axis.set_ylim(bottom=0)
    _label_axes(axis, "sd of log-weight per step, nats")


def _draw_ancestors(axis: Any, particles: PlottedRun) -> None:
    axis.set_yscale("log")
    axis.set_ylim(0.7, 1.3 * particles.x.shape[1])
    survivors = particles.survivors
    if survivors is None:
        unique = particles.unique_ancestors.cpu()
        axis.plot(range(len(unique)), unique, ls="", marker="o", ms=4)
        axis.set(xlabel="population", ylabel="starting particles with descendants")
        axis.xaxis.get_major_locator().set_params(integer=True)
        return
    curves = [(survivors, ":", "starting particles with descendants here")]
    if particles.ancestors is not None:
        final = "particles of this level with descendants at the end"
        curves.append((particles.unique_trace(), "-", final))
    for counts, style, label in curves:
        # both curves of a population get the same colour
        axis.set_prop_cycle(None)
        lines = axis.plot(
            _levels(particles), counts.cpu()[:, :_MOST_LINES], ls=style, lw=0.9, alpha=0.8
        )
        lines[0].set_label(label)
    axis.legend(fontsize=8, loc="lower center")
    _label_axes(axis, "distinct ancestors")


def _scatter(axis: Any, particles: PlottedRun) -> None:
    populations, count = particles.x.shape[:2]
    every = max(1, math.ceil(populations * count / _MOST_POINTS))
    x, weights = particles.x.cpu()[:, ::every], particles.weights.cpu()[:, ::every]
    for points, shares in zip(x, weights, strict=True):
        area = 12 * len(points) * shares / shares.sum().clamp_min(1e-300)
        axis.scatter(points[:, 0], points[:, 1], s=area, lw=0, alpha=0.4)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set(xlabel="x[0]", ylabel="x[1]", title=f"{populations} x {count} particles")


def _mosaic(axis: Any, particles: PlottedRun) -> None:
    """Draw one row of images for each population, or a square of images for a single one."""
    populations, count = particles.x.shape[:2]
    if populations > 1:
        rows, columns = min(populations, 16), min(count, 10)
        chosen = [_spread_draw(weights, columns) for weights in particles.weights[:rows]]
    else:
        columns = math.ceil(math.sqrt(min(count, 64)))
        rows = math.ceil(min(count, 64) / columns)
        chosen = [_spread_draw(particles.weights[0], rows * columns)]
    images = torch.cat([x[index] for x, index in zip(particles.x, chosen, strict=False)])
    images = images.float().cpu()
    images = images[:, None] if images.dim() == 3 else images
    # quantile takes at most 16 million numbers, so large mosaics are thinned
    low, high = torch.quantile(
        images.flatten()[:: 1 + images.numel() // 1_000_000], _BLACK_AND_WHITE
    )
    images = ((images - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1), value=1.0)
    height, width = framed.shape[-2:]
    tiles = framed.reshape(rows, columns, -1, height, width).permute(0, 3, 1, 4, 2)
    picture = tiles.reshape(rows * height, columns * width, -1)
    picture = picture if picture.shape[2] == 3 else picture[..., 0]
    axis.imshow(picture.numpy(), cmap="gray", interpolation="nearest", vmin=0, vmax=1)
    axis.set_axis_off()
    axis.set_title("weighted draws" + (", one row per population" if populations > 1 else ""))


def _spread_draw(weights: Tensor, draws: int) -> Tensor:
    """Return indices of particles that are evenly spaced in the cumulative weights, int64 [draws]."""
    cumulative = weights.cumsum(0)
    points = (torch.arange(draws, device=weights.device) + 0.5) / draws * cumulative[-1]
    return torch.searchsorted(cumulative, points, right=True).clamp(max=len(weights) - 1)


def _histogram(axis: Any, particles: PlottedRun) -> None:
    first = particles.x.flatten(2)[..., 0].double().cpu()
    weights = particles.weights.cpu() / len(first)
    edges = torch.linspace(float(first.min()), float(first.max()), 61).tolist()
    shared = {"bins": edges, "density": True}
    axis.hist(first.flatten(), weights=weights.flatten(), color="0.7", **shared)
    for p in range(min(len(first), 8)):
        axis.hist(first[p], weights=weights[p], histtype="step", lw=0.6, **shared)
    axis.set(xlabel="first number of x", ylabel="density")
