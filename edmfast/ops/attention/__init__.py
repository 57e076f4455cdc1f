"""Attention with two derivatives in linear memory."""

from edmfast.ops.attention.operator import attention

__all__ = ["attention"]
