"""Class labels of image sets: the file `dataset.json` of the EDM tools, or one folder for each class.

The file holds {"labels": [["00000/img00000000.png", 6], ...]}, one entry for each image, or {"labels": null}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.json_text import parse_json, shortened
from edmfast.distill.data.stores.labels import as_label


def labels_of_file(content: bytes, names: Sequence[str], where: str) -> Tensor | None:
    """Return the labels int64 [n] of the images with these names, or None where the file has no labels.

    Raises ValueError for a file of another form, and where labels and images do not belong to each other.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8: {error}") from error
    entries = parse_json(where, text).get("labels")
    if entries is None:
        return None
    accepted = f'{where} must hold {{"labels": [["name.png", class], ...]}}'
    if not isinstance(entries, list):
        raise ValueError(f"{accepted}, given {type(entries).__name__} as labels")
    by_name: dict[str, int] = {}
    for entry in entries:
        name, label = _entry(entry, accepted, where)
        if name in by_name:
            raise ValueError(f"{where} has two labels for {shortened(name)}")
        by_name[name] = label
    missing = next((name for name in names if name not in by_name), None)
    extra = next(iter(by_name.keys() - {*names}), None)
    if missing is not None or extra is not None:
        fault = (
            f"the image {shortened(missing)} has no label"
            if missing is not None
            else f"there is no image {shortened(extra)}"
        )
        raise ValueError(f"{where} has {len(by_name)} labels for {len(names)} images: {fault}")
    return torch.tensor([by_name[name] for name in names], dtype=torch.int64)


def _entry(entry: Any, accepted: str, where: str) -> tuple[str, int]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ValueError(f"{accepted}, given the entry {shortened(entry)}")
    name, label = entry
    try:
        # tools on Windows write backslashes
        return name.replace("\\", "/"), as_label(label, f"the label of {shortened(name)}")
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def labels_of_folders(names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]] | None:
    """Return the labels int64 [n] and the names of the classes, or None where the folders are no classes.

    A class is a folder on the first level. Classes are numbered in the order of their names. Images outside of
    folders, and a single folder, are no classes.
    """
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    classes = sorted({folder for folder in folders if folder is not None})
    if None in folders or len(classes) < 2:
        return None
    number = {name: i for i, name in enumerate(classes)}
    labels = [number[folder] for folder in folders if folder is not None]
    return torch.tensor(labels, dtype=torch.int64), tuple(classes)
