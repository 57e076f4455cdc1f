"""How conservative models are, level by level, side by side: before and after a distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast.diagnostics.circulation import score_circulation
from edmfast.diagnostics.conservativity import score_asymmetry


@dataclass(frozen=True)
class ConservativityReport:
    """For every model, float64 [T] over noise levels: asymmetry, the share NAsym of the antisymmetric part of
    the score's Jacobian, in [0, 1]; circulation, root mean square over root mean square strength of the
    score around rectangles of side sigma, in [0, 1]. Both are 0 for a gradient, up to rounding."""

    sigmas: tuple[float, ...]
    asymmetry: dict[str, Tensor]
    circulation: dict[str, Tensor]

    def __str__(self) -> str:
        names = list(self.asymmetry)
        width = max(12, *(len(name) + 1 for name in names))
        head = "".join(f"{name:>{width}}" for name in names)
        lines = [f"{'':>9}{'NAsym':>{width * len(names)}}{'circulation':>{width * len(names)}}"]
        lines.append(f"{'sigma':>9}{head}{head}")
        for i, sigma in enumerate(self.sigmas):
            row = [found[name][i] for found in (self.asymmetry, self.circulation) for name in names]
            lines.append(f"{sigma:9.4g}" + "".join(f"{float(v):>{width}.2e}" for v in row))
        return "\n".join(lines)


def conservativity_report(
    models: Mapping[str, Callable[..., Tensor]],
    states: Iterable[Tensor],
    sigmas: Tensor | Sequence[float],
    *,
    probes: int = 1,
    seed: int = 0,
    **condition: Any,
) -> ConservativityReport:
    """Measures several denoisers at the same states, such as {"teacher": teacher, "student": energy}.

    Args:
        models: name -> denoiser(x, sigma, **condition), twice differentiable in reverse.
        states: T tensors [B, *shape], the i-th at noise sigmas[i], as from `noising_trajectory`.
        sigmas: [T], positive. probes, seed: of `score_asymmetry` and of the planes.

    Raises:
        ValueError: no models, another number of states, or as `score_asymmetry` does.
    """
    levels = [as_float(f"sigmas[{i}]", sigma) for i, sigma in enumerate(sigmas)]
    points = list(states)
    if not models or len(points) != len(levels):
        raise ValueError(
            f"need models and as many states as sigmas, got {len(models)} models, {len(points)} states "
            f"and {len(levels)} sigmas"
        )
    if not all(len(x) for x in points):
        raise ValueError("states must hold at least one sample each: of none there is no share")
    asymmetry, circulation = {}, {}
    for name, model in models.items():
        shares, turns = [], []
        for x, sigma in zip(points, levels, strict=True):
            found = score_asymmetry(model, x, sigma, probes=probes, seed=seed, **condition)
            shares.append(found.overall)
            around = score_circulation(model, x, sigma, seed=seed, condition=condition)
            scale = around.strength.square().mean().sqrt()
            turns.append(float(around.value.square().mean().sqrt() / scale) if scale > 0 else 0.0)
        asymmetry[name] = torch.tensor(shares, dtype=torch.float64)
        circulation[name] = torch.tensor(turns, dtype=torch.float64)
    return ConservativityReport(tuple(levels), asymmetry, circulation)
