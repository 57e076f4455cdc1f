"""Data of an evaluation come from tensors, arrays, data sets and files, and bytes become numbers in [-1, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edmfast.evaluation.data import as_data

X = torch.arange(24.0).reshape(4, 2, 3)
LABELS = torch.tensor([0, 2, 1, 0])
F64 = torch.empty(0, dtype=torch.float64)


def test_tensors_arrays_and_pairs():
    for data in (X, X.numpy(), [*X]):
        found = as_data(data)
        assert (len(found), found.shape, found.labels) == (4, (2, 3), None)
        assert found.rows(slice(2), F64).equal(X[:2].double())
    for data in ((X, LABELS), (X.numpy(), LABELS.numpy()), [*zip(X, LABELS, strict=True)]):
        found = as_data(data)
        assert found.labels.equal(LABELS)
        assert found.rows(torch.tensor([3, 0]), X).equal(X[[3, 0]])


def test_bytes_are_images():
    data = as_data(torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8))
    torch.testing.assert_close(
        data.rows(slice(None), F64), torch.tensor([[-1, 1], [-0.6, 0.6]], dtype=torch.float64)
    )
    assert data.bin_width == 2 / 255
    assert as_data(X).bin_width is None
    assert as_data(X, 0.5).bin_width == 0.5


@pytest.mark.parametrize(("samples", "labels"), [("images", "labels"), ("x", "y"), ("arr_0", None)])
def test_files(tmp_path, samples, labels):
    arrays = {samples: X} if labels is None else {samples: X, labels: LABELS}
    np.savez(tmp_path / "d.npz", **{name: array.numpy() for name, array in arrays.items()})
    save_file(arrays, tmp_path / "d.safetensors")
    for name in ("d.npz", "d.safetensors"):
        found = as_data(tmp_path / name)
        assert found.rows(slice(None), X).equal(X)
        assert (found.labels is None) == (labels is None)


def test_a_single_array(tmp_path):
    np.save(tmp_path / "d.npy", X.numpy())
    assert as_data(str(tmp_path / "d.npy")).rows(slice(None), X).equal(X)


def test_images(tmp_path):
    images = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
    np.savez(tmp_path / "d.npz", images=images, labels=[2, 1])
    found = as_data(tmp_path / "d.npz")
    assert found.shape == (3, 5, 4)
    assert found.stored.equal(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert found.labels.tolist() == [2, 1]
    pillow = pytest.importorskip("PIL.Image", reason="images in files need Pillow")
    for number, image in enumerate(images):
        (tmp_path / "folder" / f"class{number}").mkdir(parents=True)
        pillow.fromarray(image).save(tmp_path / "folder" / f"class{number}" / "one.png")
    in_files = as_data(tmp_path / "folder")
    assert in_files.stored.equal(found.stored)
    assert in_files.labels.tolist() == [0, 1]


def test_nothing_is_unpickled(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "bad.npz", x=np.array([Payload()], dtype=object))
    with pytest.raises((TypeError, ValueError), match=r"bad\.npz"):
        as_data(tmp_path / "bad.npz")
    assert not (tmp_path / "ran").exists()


def test_bad_data(tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "other.npz", weights=X.numpy(), biases=X.numpy())
    cases = [
        (tmp_path / "none.npz", FileNotFoundError, "no such file"),
        (tmp_path / "text.npz", ValueError, "text.npz"),
        (tmp_path / "other.npz", ValueError, "weights.*none of which is named"),
        (X[:1], ValueError, "at least two samples, got 1"),
        (torch.full((2, 2), float("nan")), ValueError, "finite"),
        (torch.ones(2, 2, dtype=torch.int64), TypeError, "uint8 or floating"),
        ((X, LABELS[:2]), ValueError, r"each of the 4 samples"),
        (3, TypeError, "got int"),
        ([], ValueError, "at least one item"),
    ]
    for data, error, match in cases:
        with pytest.raises(error, match=match):
            as_data(data)
