"""Every Triton kernel compiles ahead of time, without a GPU, and keeps its values in registers."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from edmfast.kernels import _resample_large as large  # noqa: E402
from edmfast.kernels import noise, propagate, resample, weigh  # noqa: E402
from edmfast.kernels._tiles import tiling  # noqa: E402

TYPES = {
    "log_weights": "*fp32",
    "uniform": "*fp64",
    "ess_threshold": "fp64",
    "outputs": ("*fp64", "*fp64", "*u1", "*i32"),
    "resampled": "*u1",
    "maxima": "*fp64",
    "sums": "*i64",
    "offsets": "*i64",
    "coefficients": "*fp64",
    "rng": "*i64",
    "mask": "*u1",
} | dict.fromkeys(["slots", "ancestors", "has_nan"], "*i32")
TILE = {"TILE": large.TILE}
WIDTH = {"WIDTH": 1024}


def small(levels):
    return resample.small_kernel, {"LEVELS": levels}, {}, resample.small_warps(levels)


def sampled(kernel, constants, types, particles, blocks):
    rows, columns, warps = tiling(particles, blocks)
    return kernel, constants | {"ROWS": rows, "COLUMNS": columns}, types, warps


def step(models, dtype, particles, blocks):
    arithmetic = "*fp64" if dtype == "*fp64" else "*fp32"
    types = {"x": dtype, "moved": dtype, "scores": (dtype,) * models, "ratio": arithmetic}
    constants = {"MODELS": models}
    return sampled(propagate.propagate_kernel, constants, types, particles, blocks)


def weighing(models, dtype, powers):
    types = dict.fromkeys(["log_weights", "out", "spreads", "exponents"], "*fp64")
    types |= {"reset": "*u1", "ratio": dtype, "now": (dtype,) * models, "past": (dtype,) * models}
    constants = {"MODELS": models, "WEIGH": True, "TILE": weigh.TILE}
    if not powers:
        constants["exponents"] = None
    return weigh.weigh_kernel, constants, types, 4


CASES = {
    "small tiny": small(5),
    "small middle": small(10),
    "small largest": small((resample.SMALL - 1).bit_length()),
    "large maximum": (large.maximum_kernel, TILE, {}, 8),
    "large sum": (large.sum_kernel, TILE, {}, 8),
    "large decide": (large.decide_kernel, WIDTH, {}, 4),
    "large slot": (large.slot_kernel, TILE, {}, 8),
    "large owner": (large.owner_kernel, TILE | {"LEVELS": 20}, {}, 8),
    "noise rows": sampled(noise.noise_kernel, {}, {"out": "*fp32"}, 1000, 16),
    "noise columns": sampled(noise.noise_kernel, {}, {"out": "*fp64"}, 1000, 3072),
    "propagate 1": step(1, "*fp32", 1000, 1),
    "propagate 3": step(3, "*bf16", 1000, 16),
    "weigh 0": weighing(0, "*fp64", False),
    "weigh 1": weighing(1, "*fp32", False),
    "weigh 8": weighing(8, "*fp64", True),
    "propagate 8": step(8, "*fp64", 1000, 3072),
}


def compiled(case, capability):
    kernel, constants, types, warps = CASES[case]
    signature = {
        name: "constexpr" if name in constants else (TYPES | types).get(name, "i32")
        for name in kernel.arg_names
    }
    return triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": False},
    )


@pytest.mark.parametrize("case", CASES)
def test_nothing_spills(case, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    result = compiled(case, 90)
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(result.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    assert found["STACK"] == found["LOCAL"] == 0, usage
    assert found["REG"] * 32 * result.metadata.num_warps <= 65536
    assert result.metadata.shared <= 48 * 1024


@pytest.mark.parametrize("case", ["large sum", "large slot", "noise rows"])
def test_no_product_is_fused_with_a_sum(case, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert "fma." not in compiled(case, 90).asm["ptx"]


@pytest.mark.parametrize("capability", [80, 90])
def test_stores_are_rounded_and_roots_are_exact(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    text = compiled("propagate 3", capability).asm["ptx"]
    assert "cvt.rn.bf16" in text
    assert "sqrt.rn.f32" in text
    assert "sqrt.rn.f64" in text
    assert not re.search(r"(sqrt|div)\.(approx|full)", text)
