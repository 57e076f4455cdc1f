"""Scalar potentials f(y) [B] made from a backbone's vector output h and its input y.

"inner"     <h, y>          any denoiser backbone; h = 0 gives the exact Gaussian energy
"residual"  -|y - h|²/2     Salimans & Ho 2021, "Should EBMs model the energy or the score?"
"norm"      -|h|²/2         Du et al. 2023, arXiv 2302.11552
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Head = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _inner(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (h * y).flatten(1).sum(1)


def _residual(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -0.5 * (y - h).square().flatten(1).sum(1)


def _norm(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -0.5 * h.square().flatten(1).sum(1)


POTENTIALS: dict[str, Head] = {"inner": _inner, "residual": _residual, "norm": _norm}


def potential_head(name: str) -> Head:
    """The head called name. Raises ValueError listing the names otherwise."""
    if name not in POTENTIALS:
        raise ValueError(f"potential must be one of {sorted(POTENTIALS)}, given {name!r}")
    return POTENTIALS[name]
