"""Random signs from a counter, the same for a sample whatever is drawn beside it."""

from edmfast.ops.signs.operator import random_signs

__all__ = ["random_signs"]
