"""The handwritten digits of scikit-learn, as the demonstration names them."""

from edmfast._internal.digits import NUM_CLASSES, SHAPE, SIGMA_DATA, Digits, all_digits

__all__ = ["NUM_CLASSES", "SHAPE", "SIGMA_DATA", "Digits", "all_digits"]
