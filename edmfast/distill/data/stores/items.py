"""Items of data sets: how a sample and its label are taken out of what a data set returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edmfast.distill.data.stores.channels import channels_are_last
from edmfast.distill.data.stores.labels import as_label
from edmfast.distill.data.stores.store import check_dtype, check_finite, check_plain

Keys = str | tuple[str, str] | None


class Item(NamedTuple):
    """One raw sample with its channels first, on the CPU, and its label or None."""

    sample: Tensor
    label: int | None


class ItemReader:
    """A function from an item of a data set to an `Item`.

    An item is a sample, a tuple (sample, label), or a mapping of which `keys` names the sample and the label. A
    sample is a tensor, an array or an image of Pillow. All items must have the shape and dtype of the first one.

    keys: the key of the sample, or the keys (sample, label). labels: False leaves labels out.
    """

    def __init__(self, keys: Keys, labels: bool, channels_last: bool | None) -> None:
        self.keys, self.labels, self.channels_last = keys, labels, channels_last
        self.first: tuple[Item, str] | None = None

    def __call__(self, item: Any, where: str) -> Item:
        """Return the item. where: its name in error messages, such as "data[3]"."""
        sample, label = self._parts(item, where)
        tensor = self._tensor(sample, where)
        if label is not None:
            label = as_label(label, f"the label of {where}")
        checked = Item(tensor, label)
        if self.first is None:
            self.first = checked, where
        self._compare(checked, where)
        return checked

    def _parts(self, item: Any, where: str) -> tuple[Any, Any]:
        if isinstance(item, Mapping):
            return self._of_mapping(item, where)
        if not isinstance(item, (tuple, list)):
            return item, None
        if len(item) not in (1, 2):
            raise TypeError(f"{where} must be a sample or (sample, label), given {len(item)} parts")
        return item[0], item[1] if len(item) == 2 and self.labels else None

    def _of_mapping(self, item: Mapping[Any, Any], where: str) -> tuple[Any, Any]:
        present = [str(key) for key in item]
        if self.keys is None:
            raise TypeError(
                f"{where} is a mapping with {present}: name the sample and the label, such as "
                'keys=("image", "label")'
            )
        names = (self.keys,) if isinstance(self.keys, str) else self.keys
        for name in names:
            if name not in item:
                raise ValueError(f"keys names {name!r}, but {where} has {present}")
        return item[names[0]], item[names[1]] if len(names) == 2 and self.labels else None

    def _tensor(self, sample: Any, where: str) -> Tensor:
        check_plain(sample, where)
        # an image of Pillow becomes an array [H, W] or [H, W, C]
        if hasattr(sample, "getbands") and hasattr(sample, "tobytes"):
            sample = np.asarray(sample)
            sample = sample[..., None] if sample.ndim == 2 else sample
        if isinstance(sample, np.ndarray):
            if sample.dtype.kind not in "uf":
                raise TypeError(
                    f"{where} must hold uint8 or floating-point numbers, given {sample.dtype}"
                )
            sample = torch.from_numpy(sample.astype(sample.dtype.newbyteorder("="), copy=True))
        if not isinstance(sample, Tensor):
            raise TypeError(
                f"{where} must be a tensor, an array or an image, given {type(sample).__name__}"
            )
        tensor: Tensor = sample.detach().cpu()
        check_dtype(tensor.dtype, where)
        if tensor.dim() == 0 or tensor.numel() == 0:
            raise ValueError(f"{where} must have at least one number, given {[*tensor.shape]}")
        is_uint8 = tensor.dtype == torch.uint8
        if channels_are_last(tuple(tensor.shape), is_uint8, self.channels_last, where):
            tensor = tensor.movedim(-1, 0)
        check_finite(tensor, where)
        return tensor

    def _compare(self, item: Item, where: str) -> None:
        assert self.first is not None
        (first, label), name = self.first
        if item.sample.shape != first.shape or item.sample.dtype != first.dtype:
            raise ValueError(
                f"all samples must have one shape and dtype, but {where} has {[*item.sample.shape]} of "
                f"{item.sample.dtype}, and {name} has {[*first.shape]} of {first.dtype}"
            )
        if (item.label is None) != (label is None):
            with_label, without = (name, where) if item.label is None else (where, name)
            raise ValueError(f"{with_label} has a label, and {without} has none")


def stacked(items: list[Item]) -> tuple[Tensor, Tensor | None]:
    """Return the samples [n, *shape] and the labels int64 [n] or None of some items."""
    samples = torch.stack([item.sample for item in items])
    if items[0].label is None:
        return samples, None
    return samples, torch.tensor([item.label for item in items], dtype=torch.int64)
