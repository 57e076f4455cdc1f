"""Reversal-matched weights and proposals from the scores of several models and the traces of their Jacobians."""

from edmfast.ops.reversal.operator import reversal

__all__ = ["reversal"]
