"""A store of the images in a folder or a `.zip` file, which are decoded when they are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast._internal.checksum import checksum
from edmfast.distill.data.stores.archives import LABEL_FILE, Archive
from edmfast.distill.data.stores.channels import channels_are_last
from edmfast.distill.data.stores.decoding import decode, header_of
from edmfast.distill.data.stores.label_files import labels_of_file, labels_of_folders
from edmfast.distill.data.stores.store import RawRows, Store, check_dtype, check_finite

_HEADERS = 50_000
"""The number of equally spaced images whose sizes are compared when a set is opened."""


class ImageStore(Store):
    """A store of images uint8 [C, H, W] of one size, with C = 1 for grey ones and C = 3 for all others.

    The first image decides on the size and on the number of channels. Transparency is dropped. Files `.npy` hold
    one sample each, of any floating-point dtype or uint8.

    labels: False leaves labels out. Raises ValueError for images of different sizes, and for files that are no
    images.
    """

    is_decoded = is_costly = True

    def __init__(self, archive: Archive, *, labels: bool, channels_last: bool | None) -> None:
        self._archive, self._channels_last, names = archive, channels_last, archive.names
        self._channels = 3
        raw = self._header(0)
        self._channels = raw[0] if not names[0].endswith(".npy") else 3
        first = self._sample(0)
        self.shape, self.dtype = tuple(first.shape), first.dtype
        self._check_sizes(raw)
        if labels:
            self._find_labels()
        files = {"sizes": torch.tensor(archive.sizes, dtype=torch.int64)}
        if archive.checks is not None:
            files["checks"] = torch.tensor(archive.checks, dtype=torch.int64)
        self.identity = checksum(files, "\n".join(names))

    def __len__(self) -> int:
        return len(self._archive.names)

    def read(self, index: Sequence[int]) -> RawRows:
        """Return the images and labels at some indices."""
        samples = []
        for i in index:
            sample = self._sample(int(i))
            if sample.shape != self.shape or sample.dtype != self.dtype:
                raise self._different(int(i), tuple(sample.shape), sample.dtype)
            samples.append(sample)
        return RawRows(torch.stack(samples), self.labels_at(index))

    def _where(self, index: int) -> str:
        return self._archive.path_of(self._archive.names[index])

    def _header(self, index: int) -> tuple[int, ...]:
        with self._archive.start(self._archive.names[index]) as file:
            return header_of(file, self._where(index))

    def _sample(self, index: int) -> Tensor:
        name, where = self._archive.names[index], self._where(index)
        sample = decode(self._archive.read(name), where, self._channels)
        check_dtype(sample.dtype, where)
        if name.endswith(".npy"):
            is_uint8 = sample.dtype == torch.uint8
            if channels_are_last(tuple(sample.shape), is_uint8, self._channels_last, where):
                sample = sample.movedim(-1, 0)
            check_finite(sample, where)
        return sample

    def _check_sizes(self, first: tuple[int, ...]) -> None:
        count = len(self)
        for i in range(0, count, -(-count // _HEADERS)):
            header = self._header(i)
            # colours differ between the images of one set, and decoding makes them equal
            if header[-2:] != first[-2:] or len(header) != len(first):
                raise self._different(i, header, None)

    def _different(
        self, index: int, shape: tuple[int, ...], dtype: torch.dtype | None
    ) -> ValueError:
        kinds = ("", "") if dtype in (None, self.dtype) else (f" of {dtype}", f" of {self.dtype}")
        return ValueError(
            f"all images must have one size: {self._where(index)} has {[*shape]}{kinds[0]}, and "
            f"{self._archive.names[0]} has {[*self.shape]}{kinds[1]}, as [channels, height, width]"
        )

    def _find_labels(self) -> None:
        content = self._archive.label_file()
        if content is not None:
            # the folders of the EDM tools are no classes, so that their file alone counts
            where = self._archive.path_of(LABEL_FILE)
            self.labels = labels_of_file(content, self._archive.names, where)
        elif (found := labels_of_folders(self._archive.names)) is not None:
            self.labels, self.class_names = found
        self.has_labels = self.labels is not None
