"""The seeds of a run of a sampler; `edmfast._internal.seeds` holds the code."""

from edmfast._internal.seeds import as_seeds, signed

__all__ = ["as_seeds", "signed"]
