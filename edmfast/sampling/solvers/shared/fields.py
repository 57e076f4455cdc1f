"""Checks of the fields of solvers, which are converted once so that equal solvers share their plans."""

from __future__ import annotations

from typing import Any


def hold(solver: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass to their converted values."""
    for name, value in values.items():
        object.__setattr__(solver, name, value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise TypeError or ValueError unless value is one of the choices."""
    accepted = ", ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {accepted}, got {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {accepted}, got {value!r}")
