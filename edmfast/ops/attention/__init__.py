"""Attention that can be differentiated twice, in memory linear in its length."""

from edmfast.ops.attention.operator import attention

__all__ = ["attention"]
