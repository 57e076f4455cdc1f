"""Launches of the Triton kernels: grids that a GPU accepts, few compilations, the variants that were meant.

The launch code runs on a driver that records launches and executes none, on tensors without memory.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from tests.ops.triton import launching
from tests.ops.triton.mock_driver import Launch, recorded

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1: nothing is launched", allow_module_level=True)

SMALL = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129)
MEDIUM = (*SMALL, 255, 256, 257, 511, 512, 1000, 1023, 1024, 1025)
LARGE = (*MEDIUM, 4095, 4096, 4097, 5000, 10_000, 65_535, 65_536, 2**20, 2**20 + 1)


@pytest.fixture
def launches() -> Iterator[list[Launch]]:
    with recorded() as list_of_launches:
        yield list_of_launches


def faults_of(launches: list[Launch]) -> list[str]:
    return [fault for launch in launches for fault in launch.faults()]


def compiled(launches: list[Launch]) -> dict[str, int]:
    """Return how many binaries each kernel needs."""
    return Counter(kernel for kernel, _ in {(launch.kernel, launch.key) for launch in launches})


@pytest.mark.parametrize(
    ("operator", "fixed", "name", "values", "most"),
    [
        ("attention", {}, "batch", SMALL, 1),
        # 1, a multiple of 16, and any other length
        ("attention", {"causal": True}, "length", MEDIUM, 4),
        ("attention", {}, "keys", MEDIUM, 3),
        ("norms", {}, "batch", LARGE, 1),
        ("norms", {"own": True, "last": True}, "batch", LARGE, 1),
        # tiles of 1 to 32 tokens, in 1 to 16 steps
        ("norms", {"positions": 1, "groups": 1}, "batch", LARGE, 6),
        # the numbers of a field are one row for all, or a row for each state
        ("potential", {}, "batch", LARGE, 2),
        ("mlp_potential", {}, "batch", LARGE, 2),
        # a single row shares its coefficients with all rows
        ("mlp_potential", {"rows": True}, "batch", LARGE, 4),
        # one particle, a multiple of 16, whose rows are aligned, and any other number
        ("noise", {}, "particles", LARGE, 3),
        ("noise", {}, "populations", LARGE, 1),
        ("propagate", {}, "particles", LARGE, 3),
        ("propagate", {"each": True}, "populations", LARGE, 1),
        ("reversal", {}, "particles", LARGE, 3),
        ("reversal", {"probes": 0}, "populations", LARGE, 3),
        # one binary for each power of two up to 4096 particles, and up to 512 times as many above
        ("systematic_resample", {}, "particles", LARGE, 13),
        ("systematic_resample", {"particles": 5000}, "populations", LARGE, 1),
        ("weigh", {}, "particles", LARGE, 13),
        ("weigh", {}, "populations", LARGE, 1),
    ],
)
def test_a_changing_size_compiles_few_binaries(launches, operator, fixed, name, values, most):
    for value in values:
        getattr(launching, operator)(**fixed, **{name: value})
    assert launches
    assert faults_of(launches) == []
    counts = compiled(launches)
    assert max(counts.values()) <= most, counts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_width_of_a_head_has_one_binary(launches, dtype):
    widths = (1, 8, 16, 17, 32, 40, 64, 80, 96, 128)
    for width, causal in itertools.product(widths, (False, True)):
        launching.attention(width=width, causal=causal, dtype=dtype)
    assert faults_of(launches) == []
    assert max(compiled(launches).values()) == 2 * len(widths)


def of_kernel(launches: list[Launch], name: str) -> list[Launch]:
    return [launch for launch in launches if launch.kernel.endswith(f".{name}")]


def test_blocks_of_attention_cover_all_positions(launches):
    for length, keys in ((1, 1), (65, 1000), (1000, 65), (4096, 4096)):
        launches.clear()
        launching.attention(batch=3, heads=5, length=length, keys=keys)
        assert len(launches) == 7
        for launch in launches:
            positions, block = (
                (keys, "KEYS") if "key_" in launch.kernel.split(".")[-1] else (length, "QUERIES")
            )
            blocks = math.ceil(positions / launch.constants[block])
            assert launch.grid == (15 * blocks, 1, 1), launch.kernel


def test_large_groups_take_two_launches(launches):
    launching.norms(channels=32, positions=64)
    assert [launch.arguments["STAGE"] for launch in launches] == ["held"] * 3
    launches.clear()
    launching.norms(channels=128, positions=4096)
    assert [launch.arguments["STAGE"] for launch in launches] == ["sums", "apply"] * 3
    launches.clear()
    launching.norms(channels=128, positions=4096, last=True)
    assert [launch.arguments["STAGE"] for launch in launches] == ["sums", "apply"] * 3


def test_large_populations_take_five_launches(launches):
    launching.systematic_resample(particles=4096)
    assert [launch.kernel for launch in launches] == ["systematic_resample.triton_ops.small_kernel"]
    launches.clear()
    launching.systematic_resample(particles=4097, populations=3)
    names = [launch.kernel.split(".")[-1].removesuffix("_kernel") for launch in launches]
    assert names == ["maximum", "sum", "decide", "slot", "owner"]
    assert [launch.grid[0] for launch in launches] == [9, 9, 3, 9, 9]


@pytest.mark.parametrize("operator", ["noise", "propagate", "reversal"])
def test_tiles_of_samples_cover_all_particles(launches, operator):
    for particles, elements in ((1, 1), (1000, 2), (1000, 64), (3, 12_288), (300, 5)):
        launches.clear()
        getattr(launching, operator)(particles=particles, populations=7, elements=elements)
        (launch,) = launches
        rows, columns = launch.constants["ROWS"], launch.constants["COLUMNS"]
        blocks = math.ceil(math.ceil(elements / 4) / columns) if operator == "noise" else 1
        assert launch.grid == (7 * math.ceil(particles / rows) * blocks, 1, 1)
        assert launch.options.num_warps * 32 >= min(rows * columns, 256)


def test_perceptrons_launch_a_plane_of_models(launches):
    launching.mlp_potential(batch=1000, models=3)
    for launch in launches:
        assert launch.grid[1:] == (3, 1)
        assert launch.grid[0] <= math.ceil(1000 / launch.constants["ROWS"])
    assert len(of_kernel(launches, "backward_kernel")) == 2


def test_a_probe_of_many_rows_takes_pieces(launches):
    launching.mlp_potential(batch=2**18 + 3)
    probes = [n for n in of_kernel(launches, "backward_kernel") if n.arguments["batch"] < 2**18]
    assert [launch.arguments["batch"] for launch in probes] == [2**17, 2**17, 3]


ROWS = 2**31 // 1031 + 5_000
"""This many rows of 1031 numbers have more elements than 31 bits can count."""


@pytest.mark.parametrize(
    ("operator", "sizes"),
    [
        ("attention", {"batch": 2**16, "length": 1024, "heads": 12}),
        ("attention", {"batch": 1, "length": 2**20 + 1, "heads": 32, "causal": True}),
        ("norms", {"batch": ROWS, "channels": 1031, "groups": 1, "positions": 1}),
        ("norms", {"batch": 2**31 // 128, "channels": 128, "positions": 16, "last": True}),
        ("potential", {"batch": 2**31 - 1, "elements": 1}),
        ("potential", {"batch": ROWS, "elements": 1031}),
        ("mlp_potential", {"batch": 2**28, "elements": 64, "width": 64}),
        ("noise", {"particles": ROWS, "elements": 1031}),
        ("noise", {"populations": 2**28 - 1, "particles": 1, "elements": 64}),
        ("noise", {"particles": 2**31 - 1, "elements": 2}),
        ("propagate", {"particles": ROWS, "elements": 1031}),
        ("propagate", {"particles": 2**31 - 1, "elements": 1}),
        ("reversal", {"particles": ROWS, "elements": 1031}),
        ("systematic_resample", {"particles": 2**31 - 1}),
        ("systematic_resample", {"particles": 4096, "populations": 2**20}),
        ("weigh", {"particles": 2**31 - 1}),
    ],
)
def test_tensors_beyond_31_bits_have_grids_within_limits(launches, operator, sizes):
    getattr(launching, operator)(**sizes)
    assert launches
    assert faults_of(launches) == []


def test_the_driver_names_what_a_gpu_refuses(launches):
    from edmfast.ops.noise.triton_ops import noise_kernel

    tensors = torch.empty(1, device="meta"), torch.empty(2, dtype=torch.int64, device="meta")
    for grid, good in (
        ((1,), True),
        ((0,), False),
        ((2**31,), False),
        ((1, 65_535), True),
        ((1, 65_536), False),
        ((1, 1, 65_536), False),
    ):
        launches.clear()
        noise_kernel[grid](*tensors, 0, 0, 0, 1, 1, ROWS=1, COLUMNS=1, num_warps=1)
        assert (faults_of(launches) == []) == good, grid
