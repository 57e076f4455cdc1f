"""Damaged and hostile files are refused by name, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from edmfast.distill import open_data
from edmfast.distill.data.stores import archives
from tests.distill.data.forms import png, write_folder, write_zip


class Payload:
    """An object whose unpickling would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def array_bytes(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape, dtype="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_objects_are_not_unpickled(suffix, keep, tmp_path):
    trap = tmp_path / "trap"
    content = array_bytes(np.array([Payload(trap)] * 3, dtype=object))
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
    with pytest.raises(ValueError, match=r"x\.np"):
        open_data(path, keep_in_memory=keep)
    assert not trap.exists()


def test_a_bare_pickle_is_not_unpickled(tmp_path):
    trap = tmp_path / "trap"
    for name in ("x.npy", "x.npz", "x.zip", "x.safetensors", "x.pkl", "x.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(trap)))
        with pytest.raises(ValueError, match=name):
            open_data(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, (",
        "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (2,)}",
    ],
)
def test_a_header_that_is_no_description(text, tmp_path):
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", data)
    for name in ("x.npy", "x.npz"):
        for keep in (True, False):
            with pytest.raises(ValueError, match=name):
                open_data(tmp_path / name, keep_in_memory=keep)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_promises_more_than_there_is(compression, tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images.npy", header((10**12, 3, 64, 64)) + bytes(100))
    for keep in (True, False):
        with pytest.raises(ValueError, match="truncated or corrupt: it has 100 of 12288"):
            open_data(path, keep_in_memory=keep)
    (tmp_path / "x.npy").write_bytes(header((10**12, 3, 64, 64)) + bytes(100))
    with pytest.raises(ValueError, match=r"x\.npy is not a readable"):
        open_data(tmp_path / "x.npy")


def test_a_truncated_npz(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((4, 3, 8, 8), np.uint8))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        open_data(path)


def test_a_changed_byte_in_an_npz_is_found_by_its_checksum(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((4, 3, 8, 8), np.uint8))
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        open_data(path)


IMAGE_CASES = ("truncated", "no image", "empty")


@pytest.mark.parametrize("place", ["folder", "zip"])
@pytest.mark.parametrize("case", IMAGE_CASES)
def test_broken_images_are_named(case, place, images, tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    good = png(images[0][0])
    bad = {"truncated": good[: len(good) // 2], "no image": b"GIF89a??", "empty": b""}[case]
    path = tmp_path / "set"
    if place == "folder":
        write_folder(path, images[0][:3])
        (path / "99.png").write_bytes(bad)
    else:
        path = write_zip(tmp_path / "set.zip", images[0][:3])
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("99.png", bad)
    with pytest.raises(ValueError, match=r"99\.png (is not a readable|is a truncated)"):
        open_data(path)


def test_programs_that_pillow_would_start_are_not_asked(tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match=r"x\.png is not a readable image"):
        open_data(tmp_path)


def test_an_image_of_too_many_pixels(tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    small = png(torch.zeros(3, 4, 4, dtype=torch.uint8))
    place = small.index(b"IHDR") + 4
    huge = small[:place] + (60000).to_bytes(4, "big") * 2 + small[place + 8 :]
    (tmp_path / "x.png").write_bytes(huge)
    with pytest.raises(ValueError, match=r"x\.png is not a readable image"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../out.png", "/etc/out.png", "a/../../out.png", "..\\out.png", "C:/out.png", "\\out.png"],
)
def test_names_that_lead_out_of_a_zip_are_refused(name, images, tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    path = write_zip(tmp_path / "a.zip", images[0])
    info = zipfile.ZipInfo("x.png")
    info.filename = name
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, png(images[0][0]))
    with pytest.raises(ValueError, match="is named outside of the file"):
        open_data(path)


def test_zip_entries_that_are_there_twice_too_large_or_encrypted(images, tmp_path, monkeypatch):
    pytest.importorskip("PIL", reason="images need Pillow")
    path = write_zip(tmp_path / "a.zip", images[0])
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("00000/img00000000.png", b"")
    with pytest.raises(ValueError, match="is in the file twice"):
        open_data(path)
    path = write_zip(tmp_path / "b.zip", images[0])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1 << 20))
    # the true limit would make this test write half a gigabyte
    monkeypatch.setattr(archives, "_LARGEST", 1 << 19)
    with pytest.raises(ValueError, match=r"bomb\.png' has 1048576 bytes, more than the 524288"):
        open_data(path)
    path = write_zip(tmp_path / "c.zip", images[0])
    content = bytearray(path.read_bytes())
    # the flag of encryption in the central directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is encrypted"):
        open_data(path)


NAMES = [f"{i // 4:05d}/img{i:08d}.png" for i in range(10)]
PAIRS = [[name, 1] for name in NAMES]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "no text in UTF-8"),
        (b"{", "corrupt metadata"),
        (b"[1, 2]", "a list and not an object"),
        (b"[" * 10**5, "corrupt metadata"),
        ({"labels": 3}, "given int as labels"),
        ({"labels": {"a.png": 1}}, "given dict as labels"),
        ({"labels": [3]}, "given the entry 3"),
        ({"labels": [["a.png", 1, 2]]}, "given the entry"),
        ({"labels": [[5, 1]]}, "given the entry"),
        ({"labels": [[*PAIRS[0][:1], 1.5], *PAIRS[1:]]}, "must be an integer, given float"),
        ({"labels": [[*PAIRS[0][:1], True], *PAIRS[1:]]}, "must be an integer, given a bool"),
        ({"labels": [[*PAIRS[0][:1], None], *PAIRS[1:]]}, "must be an integer, given NoneType"),
        ({"labels": [[*PAIRS[0][:1], [0, 1]], *PAIRS[1:]]}, "must be an integer, given list"),
        ({"labels": [[*PAIRS[0][:1], -1], *PAIRS[1:]]}, "must be from 0"),
        ({"labels": [[*PAIRS[0][:1], 2**70], *PAIRS[1:]]}, "does not fit 64 bits"),
        (
            {"labels": PAIRS[1:]},
            "9 labels for 10 images: the image '00000/img00000000.png' has no label",
        ),
        ({"labels": [*PAIRS, ["z.png", 0]]}, "11 labels for 10 images: there is no image 'z.png'"),
        ({"labels": [*PAIRS, PAIRS[0]]}, "two labels for '00000/img00000000.png'"),
    ],
)
def test_label_files_of_wrong_kinds(content, words, images, tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(NAMES, images[0], strict=True):
            archive.writestr(name, png(image))
        archive.writestr(
            "dataset.json", content if isinstance(content, bytes) else json.dumps(content)
        )
    with pytest.raises(ValueError, match=words):
        open_data(path)


def test_a_label_file_of_a_folder(images, tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    write_folder(tmp_path, images[0])
    pairs = [[f"{i:02d}.png", 9 - i] for i in range(10)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    data = open_data(tmp_path)
    assert torch.equal(data.rows(torch.arange(10), slice(0, 10))[1], 9 - torch.arange(10))
    # the folders of the tools are no classes
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": None}))
    assert not open_data(tmp_path).has_labels
