"""Inner products of several scores and noise."""

from edmfast.ops.score_gram.operator import score_gram

__all__ = ["score_gram"]
