"""A report on how conservative models are, level by level and side by side, as before and after a distillation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast.diagnostics.circulation import score_circulation
from edmfast.diagnostics.conservativity import score_asymmetry
from edmfast.models.asymmetry import least_exact
from edmfast.models.protocols import Denoiser


@dataclass(frozen=True)
class ConservativityReport:
    """The conservativity of every model at T noise levels. Both measures are 0 for a gradient, up to rounding.

    Attributes:
        sigmas: the noise levels, T numbers in units of x.
        asymmetry: for every model float64 [T], the share NAsym of the antisymmetric part of the score's Jacobian,
            in [0, 1].
        method: for every model how its NAsym was measured, "reverse", "forward" or "difference", see
            `field_asymmetry`.
        resolution: for every model float64 [T], the NAsym that the error of differences alone would show; 0 for
            the other methods, which are exact up to rounding.
        circulation: for every model float64 [T], the root mean square circulation of the score around rectangles
            of side sigma, divided by the root mean square of its strength, in [0, 1].
    """

    sigmas: tuple[float, ...]
    asymmetry: dict[str, Tensor]
    method: dict[str, str]
    resolution: dict[str, Tensor]
    circulation: dict[str, Tensor]

    def __str__(self) -> str:
        names = list(self.asymmetry)
        width = max(12, *(len(name) + 1 for name in names))
        head = "".join(f"{name:>{width}}" for name in names)
        lines = [f"{'':>9}{'NAsym':>{width * len(names)}}{'circulation':>{width * len(names)}}"]
        lines.append(f"{'sigma':>9}{head}{head}")
        for i, sigma in enumerate(self.sigmas):
            row = [table[name][i] for table in (self.asymmetry, self.circulation) for name in names]
            lines.append(f"{sigma:9.4g}" + "".join(f"{float(v):>{width}.2e}" for v in row))
        lines += [self._told(name) for name in names]
        return "\n".join(lines)

    def _told(self, name: str) -> str:
        """Return the line about the method of a model's NAsym."""
        if self.method[name] != "difference":
            return f"NAsym of {name}: by {self.method[name]} mode, exact up to rounding"
        largest = float(self.resolution[name].max())
        return (
            f"NAsym of {name}: by differences, whose error leaves up to {largest:.1e} to a gradient"
        )


def conservativity_report(
    models: Mapping[str, Denoiser],
    states: Iterable[Tensor],
    sigmas: Tensor | Sequence[float],
    *,
    probes: int = 1,
    seed: int = 0,
    **condition: Any,
) -> ConservativityReport:
    """Measure several denoisers at the same states, such as {"teacher": teacher, "student": energy}.

    Sources: Chao et al. 2023, arXiv 2209.12753 (asymmetry); Stokes' theorem (circulation).

    Args:
        models: names and denoisers, called as model(x, sigma [B], **condition) -> x_0, differentiable in reverse
            mode.
        states: T tensors [B, *shape], of which the i-th is at the noise level sigmas[i], such as
            `noising_trajectory` returns.
        sigmas: the noise levels [T] in units of x, positive.
        probes: the number of random probes per sample, see `score_asymmetry`.
        seed: the seed of the probes and of the rectangles' planes.
        condition: keyword conditions for all models.

    Returns:
        A `ConservativityReport`, which prints as a table.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: no models, another number of states than noise levels, states without a sample, and as
            `score_asymmetry` and `score_circulation` do.
    """
    levels = [as_float(f"sigmas[{i}]", sigma) for i, sigma in enumerate(sigmas)]
    points = list(states)
    if not models or len(points) != len(levels):
        raise ValueError(
            f"need models and as many states as sigmas, got {len(models)} models, {len(points)} states "
            f"and {len(levels)} sigmas"
        )
    if not all(len(x) for x in points):
        raise ValueError("states must hold at least one sample each")
    asymmetry, method, resolution, circulation = {}, {}, {}, {}
    for name, model in models.items():
        probed = [
            score_asymmetry(model, x, sigma, probes=probes, seed=seed, **condition)
            for x, sigma in zip(points, levels, strict=True)
        ]
        around = [
            relative_circulation(model, x, sigma, seed, condition)
            for x, sigma in zip(points, levels, strict=True)
        ]
        # A ratio of means is less noisy than a mean of ratios.
        asymmetry[name] = _numbers([part.overall for part in probed])
        resolution[name] = _numbers([part.resolution for part in probed])
        method[name] = least_exact([part.method for part in probed])
        circulation[name] = _numbers(around)
    return ConservativityReport(tuple(levels), asymmetry, method, resolution, circulation)


def _numbers(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def relative_circulation(
    model: Denoiser,
    x: Tensor,
    sigma: float,
    seed: int,
    condition: dict[str, Any],
    **options: Any,
) -> float:
    """Return the root mean square circulation of the score around rectangles, relative to its strength.

    See `ConservativityReport` for the measure, `conservativity_report` for the arguments, and
    `rectangle_circulation` for the options.
    """
    around = score_circulation(model, x, sigma, seed=seed, condition=condition, **options)
    strength = around.strength.square().mean().sqrt()
    # Signs differ between random planes, so a plain mean would cancel.
    value = around.value.square().mean().sqrt()
    # A field without strength is 0 on every rectangle, and a gradient.
    return float(value / strength) if strength > 0 else 0.0
