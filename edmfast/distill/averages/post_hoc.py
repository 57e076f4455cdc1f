"""Averages of weights whose width is chosen after training, from snapshots of a few power-function averages.

The profile of the wanted average is approximated by a linear combination of the profiles of the snapshots, whose
coefficients then combine the snapshots themselves. They minimise the integral of the squared difference of the
profiles among all combinations whose coefficients sum to 1, so that weights that do not change are kept exactly.
The integrals have closed forms; see `edmfast.distill.averages.power_function`.

Source: Karras et al. 2024, arXiv 2312.02696, section 3.2 and appendix C.2. The sum of 1 is an addition.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_int
from edmfast.distill.averages.power_function import gamma_of, inner_products
from edmfast.distill.averages.snapshots import read_header, read_snapshot, snapshots_in

_LARGEST_MISFIT = 0.1
"""The relative root-mean-square error of a profile above which `post_hoc_ema` warns."""


def post_hoc_ema(
    snapshots: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    sigma_rel: float,
    at_step: int | None = None,
) -> dict[str, Tensor]:
    """Return the state of a student whose weights have a power-function average of the width sigma_rel.

    It is the argument of `student.load_state_dict`. The run must have kept config.ema_profiles. The files are read
    one after the other, so that memory holds one of them and the result.

    Source: Karras et al. 2024, arXiv 2312.02696, section 3.

    Args:
        snapshots: the folder into which a run has written its snapshots, or paths of such files.
        sigma_rel: the standard deviation of the profile of the average, relative to at_step; within (0, 0.3]. The
            paper finds the best widths between 0.02 and 0.25, depending on network, guidance and training time.
        at_step: the step at which the average ends; None is the last step that has a snapshot. Later snapshots are
            not used.

    Raises:
        FileNotFoundError: no snapshot there, or none up to at_step.
        ValueError: a width out of range, a file that is corrupt or no snapshot, or snapshots of different runs.

    Warns:
        UserWarning: snapshots that are too few or too wide for the profile, which the combination misses by more
            than a tenth.
    """
    gamma = gamma_of(sigma_rel)
    end = None if at_step is None else as_int("at_step", at_step, least=1)
    found = {path: read_header(path) for path in _paths(snapshots)}
    if not found:
        raise FileNotFoundError(f"there is no snapshot in {snapshots}")
    all_steps = sorted({header["step"] for header in found.values()})
    end = all_steps[-1] if end is None else end
    used = {path: header for path, header in found.items() if header["step"] <= end}
    if not used:
        raise FileNotFoundError(f"there is no snapshot up to step {end}, only of steps {all_steps}")
    _check_same_run(used)
    gammas = torch.tensor([header["gamma"] for header in used.values()], dtype=torch.float64)
    steps = torch.tensor([header["step"] for header in used.values()], dtype=torch.float64)
    coefficients, misfit = fit(gammas, steps, gamma, end)
    if misfit > _LARGEST_MISFIT:
        warnings.warn(
            f"the combination of {len(used)} snapshots misses the profile of sigma_rel={float(sigma_rel):g} at "
            f"step {end} by {misfit:.0%}: take another width or step, or write snapshots more often",
            stacklevel=2,
        )
    return _combined(used, coefficients.tolist())


def fit(gammas: Tensor, steps: Tensor, gamma: float, end: int) -> tuple[Tensor, float]:
    """Return (coefficients [n], relative error) of the combination of profiles nearest to the one of gamma.

    The error is the root mean square of the difference relative to that of the wanted profile. gammas, steps: [n]
    in float64, of the profiles that are combined.
    """
    target = torch.tensor([gamma], dtype=torch.float64), torch.tensor([end]).double()
    gram = inner_products(gammas, steps, gammas, steps)
    wanted = inner_products(gammas, steps, *target)[:, 0]
    size = inner_products(*target, *target)[0, 0]
    # unit lengths and a tolerance leave out combinations that rounding decides
    length = gram.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(gram / length[:, None] / length)
    kept = values > 1e-12 * values[-1]
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T / length[:, None] / length
    free, one = inverse @ wanted, inverse.sum(1)
    # a Lagrange multiplier makes the sum of the coefficients 1
    coefficients = free + one * (1 - free.sum()) / one.sum()
    square = coefficients @ gram @ coefficients - 2 * coefficients @ wanted + size
    return coefficients, float((square / size).clamp_min(0).sqrt())


def _paths(snapshots: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    if not isinstance(snapshots, (str, os.PathLike)):
        return [Path(path) for path in snapshots]
    folder = Path(snapshots)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    return snapshots_in(folder)


def _check_same_run(headers: dict[Path, dict[str, Any]]) -> None:
    (first, header), *others = headers.items()
    for path, other in others:
        if other.get("run") != header.get("run"):
            raise ValueError(f"{first} and {path} are snapshots of different runs")


def _combined(headers: dict[Path, dict[str, Any]], coefficients: list[float]) -> dict[str, Tensor]:
    """Return the combination of the averages, and the other tensors of the last of the snapshots."""
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    rest: dict[str, Tensor] = {}
    # the last one gives the tensors that have no average
    order = sorted(
        zip(headers, coefficients, strict=True), key=lambda pair: headers[pair[0]]["step"]
    )
    for path, coefficient in order:
        average, rest, metadata = read_snapshot(path)
        # the header was read before its checksum could be compared
        if metadata != headers[path] or (total and average.keys() != total.keys()):
            raise ValueError(
                f"{path} has changed while it was read, or lacks tensors of the others"
            )
        for name, tensor in average.items():
            # the coefficients have both signs, and their differences need the digits of float64
            scaled = coefficient * tensor.double()
            total[name] = total[name].add_(scaled) if name in total else scaled
            kinds[name] = tensor.dtype
    return rest | {name: tensor.to(kinds[name]) for name, tensor in total.items()}
