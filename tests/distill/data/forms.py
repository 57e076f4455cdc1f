"""Data sets, image files and zip files of given images, and the names of their forms."""

from __future__ import annotations

import io
import json
import zipfile

from torch.utils.data import Dataset, IterableDataset

COUNT, CLASSES = 10, 3


class Items(Dataset):
    """A map-style data set of given items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    """An iterable of given items, which counts what is read and how often it starts."""

    def __init__(self, items):
        self.items, self.read, self.starts = items, 0, 0

    def __iter__(self):
        self.starts += 1
        for item in self.items:
            self.read += 1
            yield item


def png(image):
    """Return an image [C, H, W] as the bytes of a PNG file."""
    from PIL import Image

    pixels = image.movedim(0, -1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def write_zip(path, images, labels=None, compression=zipfile.ZIP_STORED):
    """Write images and labels as the EDM tools do."""
    names = [f"{i // 4:05d}/img{i:08d}.png" for i in range(len(images))]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, image in zip(names, images, strict=True):
            archive.writestr(name, png(image))
        pairs = (
            None
            if labels is None
            else [[n, int(label)] for n, label in zip(names, labels, strict=True)]
        )
        # the tools write the entries in the order of their work
        archive.writestr("dataset.json", json.dumps({"labels": pairs and pairs[::-1]}))
    return path


def write_folder(path, images, labels=None):
    """Write one folder for each class, or all images in one folder; return the order of the images."""
    for i, image in enumerate(images):
        folder = path if labels is None else path / "abc"[labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.png").write_bytes(png(image))
    order = range(len(images))
    return [*order] if labels is None else sorted(order, key=lambda i: (int(labels[i]), i))


FORMS = (
    "tensor",
    "array",
    "big-endian",
    "npy",
    "mapped-npy",
    "npz",
    "mapped-npz",
    "named-npz",
    "compressed-npz",
    "safetensors",
    "folder",
    "flat-folder",
    "zip",
    "lazy-zip",
    "dataset",
    "read-ahead",
    "held-dataset",
    "mappings",
    "arrays-as-items",
)
WITHOUT_LABELS = ("npy", "mapped-npy", "flat-folder")
IMAGES = ("folder", "flat-folder", "zip", "lazy-zip")
