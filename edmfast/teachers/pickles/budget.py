"""The memory that a pickle may take beyond its own length, since one part of a file can be named many times."""

from __future__ import annotations

from edmfast.teachers.pickles.errors import UnsafePickleError

_TIMES, _LEAST = 4, 1 << 20


class Budget:
    """The bytes that may still be copied out of a file of `length` bytes."""

    def __init__(self, length: int) -> None:
        self.left = _TIMES * length + _LEAST

    def spend(self, count: int) -> None:
        """Take bytes from the budget. Raises UnsafePickleError where it has fewer."""
        self.left -= count
        if self.left < 0:
            raise UnsafePickleError(
                f"the pickle uses its parts so often that it would take more than {_TIMES} times its length"
            )
