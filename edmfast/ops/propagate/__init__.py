"""The proposal step: read particles through their ancestors, draw noise, move, and weigh the move."""

from edmfast.ops.propagate.operator import propagate

__all__ = ["propagate"]
