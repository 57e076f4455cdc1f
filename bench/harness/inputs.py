"""Handle nested tuples of tensors: copies, sizes, equality."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

MAX_COPIES = 8


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists, dicts and named tuples, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def copy(tree: Any) -> Any:
    """Return the same structure with every tensor cloned; strides are kept."""
    return pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), tree)


def size_in_bytes(tree: Any) -> int:
    """Return the bytes of all tensors together."""
    return sum(t.numel() * t.element_size() for t in tensors(tree))


def unchanged(tree: Any, before: Any) -> bool:
    """Return True where every tensor still has its bits; NaN equals NaN."""
    pairs = zip(tensors(tree), tensors(before), strict=True)
    return all(bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs)


def rotation(inputs: tuple[Any, ...], cache_bytes: int) -> list[tuple[Any, ...]]:
    """Return copies of the inputs to take in turn, so that no call finds the inputs of the last one in the cache.

    Inputs of which MAX_COPIES fit into the cache are not copied: in a program, too, they were written just before
    and are still in the cache.
    """
    size = size_in_bytes(inputs)
    if size * MAX_COPIES <= cache_bytes:
        return [inputs]
    copies = min(cache_bytes // size + 2, MAX_COPIES)
    return [inputs, *(copy(inputs) for _ in range(copies - 1))]
