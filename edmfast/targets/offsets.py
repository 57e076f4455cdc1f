"""Offsets of the members of a mixture: a table over noise levels, interpolated linearly in ln(sigma)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from edmfast._internal.files import read_json, write_json
from edmfast._internal.numbers import as_float

OffsetTable = tuple[Sequence[float] | Tensor, Sequence[Sequence[float]] | Tensor]
"""A pair (sigmas [T], values [T, M]), with values in nats."""

_KIND = "table of offsets"


@dataclass(frozen=True)
class Offsets:
    """A table of the offsets c_i(sigma) of M members at T noise levels, constant beyond the first and the last.

    Args:
        sigmas: T noise levels in units of x, positive, strictly increasing or decreasing.
        values: T rows of M numbers, in nats.
        errors: the standard errors of the values, of the same form, or None where they are unknown.

    Raises:
        TypeError: values that are no numbers.
        ValueError: other levels, or rows of other lengths.
    """

    sigmas: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    errors: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        # The class is frozen, and a tensor or list becomes a tuple here so that tables can be
        # compared and hashed.
        object.__setattr__(self, "sigmas", _row("sigmas", self.sigmas))
        for name in ("values", "errors"):
            table = getattr(self, name)
            if table is None and name == "values":
                raise TypeError("values must be T rows of M numbers, given None")
            if table is not None:
                # Offsets are differences of energies, so they may be negative.
                rows = tuple(_row(name, row, least=None) for row in table)
                object.__setattr__(self, name, rows)
        ordered = sorted(set(self.sigmas))
        if list(self.sigmas) not in (ordered, ordered[::-1]) or not ordered or ordered[0] <= 0:
            raise ValueError(
                f"sigmas must be positive and strictly increasing or decreasing, given {self.sigmas}"
            )
        for name, table in (("values", self.values), ("errors", self.errors)):
            if table is None:
                continue
            if len(table) != len(self.sigmas) or len({len(row) for row in table}) != 1:
                raise ValueError(
                    f"{name} must have one row per sigma, and in each row one number per member"
                )
        if self.errors is not None and len(self.errors[0]) != self.members:
            raise ValueError(
                f"errors must have a number for each of the {self.members} members, given {len(self.errors[0])}"
            )

    @property
    def members(self) -> int:
        """The number M of members."""
        return len(self.values[0])

    @classmethod
    def of(cls, offsets: Offsets | OffsetTable) -> Offsets:
        """Return Offsets as they are, or a pair (sigmas [T], values [T, M]) of tensors or sequences as Offsets.

        Raises TypeError for anything else, ValueError as the constructor does.
        """
        if isinstance(offsets, Offsets):
            return offsets
        try:
            sigmas, values = offsets
            return cls(tuple(sigmas), tuple(tuple(row) for row in values))
        except TypeError as error:
            raise TypeError(
                "offsets must be Offsets or a pair (sigmas [T], values [T, M])"
            ) from error

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the table as JSON; an existing file is replaced only when all is written.

        overwrite: replace a file of another kind too. Raises FileExistsError for such a file without it, and
        OSError where nothing can be written.
        """
        write_json(path, _KIND, asdict(self), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Offsets:
        """Return the table that `save` wrote. Raises ValueError for any other file."""
        content = read_json(path, _KIND)
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a {_KIND}: {error}") from error


def interpolate(log_sigmas: Tensor, values: Tensor, sigma: Tensor) -> Tensor:
    """Return values [T, M], known at increasing log_sigmas [T], at the levels sigma [R]: [R, M].

    The interpolation is linear in ln(sigma), and constant outside the known levels.
    """
    position = sigma.to(log_sigmas.dtype).log()
    # One level has no neighbours to interpolate between.
    if len(log_sigmas) == 1:
        return values.expand(len(position), -1)
    # The clamp keeps a left neighbour for levels outside the table, where the share is then clamped
    # to 0 or 1. searchsorted has no derivative and warns about memory that is not contiguous.
    right = torch.searchsorted(log_sigmas, position.detach().contiguous()).clamp(
        1, len(log_sigmas) - 1
    )
    low, high = log_sigmas[right - 1], log_sigmas[right]
    share = ((position - low) / (high - low)).clamp(0, 1)[:, None]
    return torch.lerp(values[right - 1], values[right], share)


def _row(
    name: str, numbers: Sequence[float] | Tensor, least: float | None = 0.0
) -> tuple[float, ...]:
    return tuple(as_float(name, number, least=least) for number in numbers)
