"""Decoding of image files by Pillow, and of single arrays in the format of NumPy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast.distill.data.stores.array_files import array_header

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The formats that Pillow may try. It has others, some of which start programs."""
_GREY = ("1", "L")
_WIDE = ("I", "F")


def header_of(file: Any, where: str) -> tuple[int, ...]:
    """Return the shape [C, H, W] of an image from its first bytes; C is 1 for grey images, and 3 for all others.

    A single array has its own shape. Raises ValueError for a file that is no image.
    """
    if where.endswith(".npy"):
        return array_header(file, where)[0]
    with _opened(file, where) as image:
        width, height = image.size
        return _channels_of(image, where), height, width


def decode(content: bytes, where: str, channels: int) -> Tensor:
    """Return an image as uint8 [C, H, W], or a single array as it is.

    channels: 1 for grey images, 3 for colours. Grey images become coloured ones of equal channels. Raises
    ValueError for a file that is no image or is truncated, and for a coloured image where grey ones are expected.
    """
    if where.endswith(".npy"):
        return _array(content, where)
    with _opened(io.BytesIO(content), where) as image:
        own = _channels_of(image, where)
        if own > channels:
            raise ValueError(f"{where} is a coloured image, and the first image is grey")
        try:
            pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
        # the decoders of Pillow raise several kinds of errors for broken files
        except Exception as error:
            raise ValueError(f"{where} is a truncated or corrupt image: {error}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).movedim(-1, 0)


def _opened(file: Any, where: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "reading images needs Pillow: install edmfast[images], or give the data as arrays"
        ) from error
    try:
        return Image.open(file, formats=FORMATS)
    # the parsers of Pillow raise several kinds of errors for broken files
    except Exception as error:
        raise ValueError(f"{where} is not a readable image: {error}") from error


def _channels_of(image: Any, where: str) -> int:
    mode: str = image.mode
    if mode.split(";")[0] in _WIDE:
        raise ValueError(
            f"{where} has more than 8 bits for each channel (mode {mode}): give arrays"
        )
    return 1 if mode in _GREY else 3


def _array(content: bytes, where: str) -> Tensor:
    file = io.BytesIO(content)
    shape, fortran, dtype = array_header(file, where)
    expected = int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
    rest = len(content) - file.tell()
    if rest != expected:
        raise ValueError(f"{where} is truncated or corrupt: it has {rest} of {expected} bytes")
    if dtype.kind not in "uf":
        raise TypeError(f"{where} must hold uint8 or floating-point numbers, given {dtype}")
    flat = np.frombuffer(bytearray(content[file.tell() :]), dtype)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=False))
