"""The checksums of different tensors or texts differ."""

import pytest
import torch

from edmfast._internal.checksum import checksum

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False])}


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (TENSORS, "other"),
        ({**TENSORS, "c": torch.empty(0)}, "text"),
        ({"a": TENSORS["a"]}, "text"),
        ({"a": TENSORS["a"].reshape(3, 2), "b": TENSORS["b"]}, "text"),
        ({"a": TENSORS["a"].view(torch.int32), "b": TENSORS["b"]}, "text"),
        ({"a": TENSORS["a"], "c": TENSORS["b"]}, "text"),
        ({"a": TENSORS["a"] + torch.eye(2, 3), "b": TENSORS["b"]}, "text"),
        ({"a": TENSORS["a"], "b": ~TENSORS["b"]}, "text"),
        ({"b": TENSORS["a"], "a": TENSORS["b"]}, "text"),
    ],
)
def test_any_difference_shows(tensors, text):
    assert checksum(tensors, text) != checksum(TENSORS, "text")


def test_order_and_memory_do_not_matter():
    reordered = {"b": TENSORS["b"].clone(), "a": TENSORS["a"].T.contiguous().T}
    assert checksum(reordered, "text") == checksum(TENSORS, "text")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (3, 2)])
def test_every_dtype_and_shape(dtype, shape):
    zeros, ones = torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
    assert (checksum({"a": zeros}, "") == checksum({"a": ones}, "")) == (zeros.numel() == 0)
