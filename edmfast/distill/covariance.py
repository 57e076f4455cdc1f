"""Variances and covariances within a batch, with one mean for each class label."""

from __future__ import annotations

from torch import Tensor


def variance_within(values: Tensor, label: Tensor | None) -> Tensor:
    """Return the unbiased variance [...] of values [..., n].

    It is that around the mean of each label where label [n] or [..., n] is not None.
    """
    return values.var(-1) if label is None else covariance_within(values, values, label)


def covariance_within(first: Tensor, second: Tensor, label: Tensor | None) -> Tensor:
    """Return the unbiased covariance [...] of two sets of values [..., n], with means as in `variance_within`."""
    a, freedom = _deviation(first, label)
    # equal values keep their variance to the last bit, and cost one deviation
    b = a if second is first else _deviation(second, label)[0]
    return (a * b).sum(-1) / freedom


def _deviation(values: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """Return values minus the mean of their label, and the degrees of freedom that remain."""
    if label is None:
        return values - values.mean(-1, keepdim=True), values.shape[-1] - 1
    same = (label[..., :, None] == label[..., None, :]).to(values.dtype)
    count = same.sum(-1)
    deviation = values - (same @ values[..., None])[..., 0] / count
    # each label's mean takes one degree of freedom
    freedom = values.shape[-1] - count.reciprocal().sum(-1)
    return deviation, freedom.clamp_min(1)
