"""Provide a small set of images with labels, and all its forms."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from tests.distill.data.forms import CLASSES, COUNT, Items, write_folder, write_zip


@pytest.fixture(scope="session")
def images():
    """Return (uint8 images [10, 3, 4, 6], labels [10])."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 3, 4, 6), dtype=np.uint8)
    return torch.from_numpy(pixels), torch.arange(COUNT) % CLASSES


@pytest.fixture
def forms(images, tmp_path):
    """Return a function from the name of a form to (data, options of open_data, order of the rows)."""
    pixels, labels = images
    last = pixels.movedim(1, -1).contiguous().numpy()

    def numpy_file(name, **arrays):
        path = tmp_path / name
        np.savez(path, **arrays)
        return path

    def npy():
        np.save(tmp_path / "x.npy", last)
        return tmp_path / "x.npy"

    def compressed():
        np.savez_compressed(tmp_path / "c.npz", x=pixels.numpy(), y=labels.numpy().astype(np.uint8))
        return tmp_path / "c.npz"

    def tensors():
        save_file({"images": pixels, "labels": labels}, tmp_path / "x.safetensors")
        return tmp_path / "x.safetensors"

    def folder():
        order = write_folder(tmp_path / "classes", pixels, labels)
        return tmp_path / "classes", order

    pairs = [*zip(pixels, labels, strict=True)]
    whole = [*range(COUNT)]

    def build(form):
        if form == "folder":
            path, order = folder()
            return path, {}, order
        made = {
            "tensor": lambda: ((pixels, labels), {}),
            "array": lambda: ((last, labels.numpy().astype(np.int32)), {}),
            "big-endian": lambda: (
                (pixels.numpy().astype(">f4"), labels),
                {"mean": 127.5, "std": 127.5},
            ),
            "npy": lambda: (npy(), {}),
            "mapped-npy": lambda: (str(npy()), {"keep_in_memory": False}),
            "npz": lambda: (numpy_file("a.npz", images=last, labels=labels.numpy()), {}),
            "mapped-npz": lambda: (
                numpy_file("a.npz", arr_0=last, arr_1=labels.numpy()),
                {"keep_in_memory": False},
            ),
            "named-npz": lambda: (
                numpy_file("a.npz", p=last, q=labels.numpy(), x=np.zeros(3)),
                {"keys": ("p", "q")},
            ),
            "compressed-npz": lambda: (compressed(), {"keep_in_memory": False}),
            "safetensors": lambda: (tensors(), {}),
            "flat-folder": lambda: (
                write_folder(tmp_path / "flat", pixels) and tmp_path / "flat",
                {},
            ),
            "zip": lambda: (write_zip(tmp_path / "a.zip", pixels, labels), {}),
            "lazy-zip": lambda: (
                write_zip(tmp_path / "a.zip", pixels, labels, zipfile.ZIP_DEFLATED),
                {"keep_in_memory": False, "workers": 2},
            ),
            "dataset": lambda: (TensorDataset(pixels, labels), {}),
            "read-ahead": lambda: (TensorDataset(pixels, labels), {"workers": 3}),
            "held-dataset": lambda: (TensorDataset(pixels, labels), {"keep_in_memory": True}),
            "mappings": lambda: (
                Items([{"pixels": x, "class": int(y), "text": ""} for x, y in pairs]),
                {"keys": ("pixels", "class")},
            ),
            "arrays-as-items": lambda: (
                [(image, np.int64(y)) for image, y in zip(last, labels, strict=True)],
                {},
            ),
        }[form]()
        return *made, whole

    return build
