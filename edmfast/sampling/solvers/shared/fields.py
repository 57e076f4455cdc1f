"""Checks of the fields of solvers, which are converted once so that equal solvers share their plans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from edmfast._internal.numbers import as_float

SolverType = Literal["midpoint", "heun"]


def hold(solver: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass to their converted values."""
    for name, value in values.items():
        object.__setattr__(solver, name, value)


def hold_noise(solver: Any, *, finite: bool = True) -> None:
    """Convert the fields eta and s_noise, which are numbers of at least 0. finite: refuse an infinite eta."""
    eta = as_float("eta", solver.eta, least=0, finite=finite)
    hold(solver, eta=eta, s_noise=as_float("s_noise", solver.s_noise, least=0))


def check_falling(eta: float, sigma: float, sigma_next: float) -> None:
    """Raise ValueError where a level rises with eta > 0, because the reverse SDE runs downwards."""
    if eta and sigma_next > sigma:
        raise ValueError(
            f"eta must be 0 where sigmas increase, got eta={eta} in a step from {sigma} to {sigma_next}"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise TypeError or ValueError unless value is one of the choices."""
    accepted = ", ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {accepted}, got {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {accepted}, got {value!r}")


def check_solver_type(value: object) -> None:
    """Raise TypeError or ValueError unless value is "midpoint" or "heun"."""
    check_choice("solver_type", value, ("midpoint", "heun"))


def check_threshold(value: object) -> None:
    """Raise TypeError unless value is None or a function of the denoised states."""
    if value is not None and not callable(value):
        raise TypeError(
            f"threshold must be None or a function of the denoised states, got {value!r}"
        )


def as_items(name: str, value: Any, kind: type | None = None) -> tuple[Any, ...]:
    """Return the entries of a sequence, a tensor or an array of one axis as a tuple.

    kind: the type of the entries. Raises TypeError for anything else.
    """
    wanted = "numbers" if kind is None else kind.__name__
    scalar = isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) != 1
    if scalar or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of {wanted}, got {value!r}")
    items = tuple(value)
    for i, item in enumerate(items):
        if kind is not None and not isinstance(item, kind):
            raise TypeError(f"{name}[{i}] must be a {wanted}, got {item!r}")
    return items
