"""Random signs are the signs of normals for every word that Philox can make."""

from __future__ import annotations

import ctypes

import pytest


@pytest.fixture(scope="module")
def library(emulated):
    flags = "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"
    loaded = emulated("signs_of_words", *flags)
    loaded.wrong_signs.restype = ctypes.c_int64
    return loaded


def wrong(library, part):
    radius, angle = (ctypes.c_uint32(number) for number in (12345, 77777))
    return library.wrong_signs(ctypes.c_int(part), radius, angle)


# 2^24 words each: at the end of the half, of the quarters, and of the radii that are -0
@pytest.mark.parametrize("part", [0, 63, 127, 191, 255])
def test_some_words(library, part):
    assert wrong(library, part) == 0


@pytest.mark.slow
def test_all_words(library):
    assert [part for part in range(256) if wrong(library, part) != 0] == []
