"""The errors of the reader."""

from __future__ import annotations


class UnsafePickleError(ValueError):
    """Error for a pickle that names something outside the list of what is read; nothing of the file has run."""


class DamagedPickleError(ValueError):
    """Error for a pickle that ends too early, or whose parts contradict each other."""
