"""The Triton kernels at the configurations they are launched with, compiled ahead of time without a GPU."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from edmfast.kernels import _resample_large as large
from edmfast.kernels import noise, propagate, resample, weigh
from edmfast.kernels._tiles import tiling

Case = tuple[Any, dict[str, Any], dict[str, Any], int]  # kernel, constants, types, warps

_TYPES = {
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
_TILE, _WIDTH = {"TILE": large.TILE}, {"WIDTH": 1024}


def _small(levels: int) -> Case:
    return resample.small_kernel, {"LEVELS": levels}, {}, resample.small_warps(levels)


def _sampled(
    kernel: Any, constants: dict[str, Any], types: dict[str, Any], particles: int, blocks: int
) -> Case:
    rows, columns, warps = tiling(particles, blocks)
    return kernel, constants | {"ROWS": rows, "COLUMNS": columns}, types, warps


def _step(models: int, dtype: str, particles: int, blocks: int) -> Case:
    arithmetic = "*fp64" if dtype == "*fp64" else "*fp32"
    types = {"x": dtype, "moved": dtype, "scores": (dtype,) * models, "ratio": arithmetic}
    return _sampled(propagate.propagate_kernel, {"MODELS": models}, types, particles, blocks)


def _weighing(models: int, dtype: str, powers: bool) -> Case:
    types: dict[str, Any] = dict.fromkeys(["log_weights", "out", "spreads", "exponents"], "*fp64")
    types |= {"reset": "*u1", "ratio": dtype, "now": (dtype,) * models, "past": (dtype,) * models}
    constants = {"MODELS": models, "WEIGH": True, "TILE": weigh.TILE}
    return weigh.weigh_kernel, constants | ({} if powers else {"exponents": None}), types, 4


CASES: dict[str, Case] = {
    "resample small tiny": _small(5),
    "resample small middle": _small(10),
    "resample small largest": _small((resample.SMALL - 1).bit_length()),
    "resample large maximum": (large.maximum_kernel, _TILE, {}, 8),
    "resample large sum": (large.sum_kernel, _TILE, {}, 8),
    "resample large decide": (large.decide_kernel, _WIDTH, {}, 4),
    "resample large slot": (large.slot_kernel, _TILE, {}, 8),
    "resample large owner": (large.owner_kernel, _TILE | {"LEVELS": 20}, {}, 8),
    "noise rows": _sampled(noise.noise_kernel, {}, {"out": "*fp32"}, 1000, 16),
    "noise columns": _sampled(noise.noise_kernel, {}, {"out": "*fp64"}, 1000, 3072),
    "propagate 1": _step(1, "*fp32", 1000, 1),
    "propagate 3": _step(3, "*bf16", 1000, 16),
    "propagate 8": _step(8, "*fp64", 1000, 3072),
    "weigh 0": _weighing(0, "*fp64", False),
    "weigh 1": _weighing(1, "*fp32", False),
    "weigh 8": _weighing(8, "*fp64", True),
}


def compiled(case: str, capability: int) -> Any:
    """What Triton makes of a case for a compute capability such as 90."""
    kernel, constants, types, warps = CASES[case]
    signature = {
        name: "constexpr" if name in constants else (_TYPES | types).get(name, "i32")
        for name in kernel.arg_names
    }
    return compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": False},
    )
