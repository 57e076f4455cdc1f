"""Inner products of several scores with each other and with a displacement."""

from edmfast.ops.score_gram.operator import score_gram

__all__ = ["score_gram"]
