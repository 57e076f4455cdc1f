"""The Triton kernels in the configurations of their launches, compiled ahead of time without a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from bench.gpu import compile_attention, compile_mlp, compile_norm
from edmfast.ops._shared.triton_tiling import tiling
from edmfast.ops.curvature import triton_ops as curvature
from edmfast.ops.linear_combination import triton_ops as combination
from edmfast.ops.noise import triton_ops as noise
from edmfast.ops.potential import triton_kernels as potential
from edmfast.ops.propagate import triton_ops as propagate
from edmfast.ops.reversal import triton_ops as reversal
from edmfast.ops.reversal.reference import LARGEST
from edmfast.ops.signs import triton_ops as signs
from edmfast.ops.signs.reference import PATTERNS
from edmfast.ops.systematic_resample import triton_large as large
from edmfast.ops.systematic_resample import triton_ops as resample
from edmfast.ops.weigh import triton_ops as weigh


class Case(NamedTuple):
    """A compilation. Keys are names of arguments, or positions in arguments that are tuples."""

    kernel: Any
    constants: dict[Any, Any]
    types: dict[str, Any]
    options: dict[str, Any]
    attributes: dict[Any, Any]


def _exact(kernel: Any, constants: dict[str, Any], types: dict[str, Any], warps: int) -> Case:
    """Return a kernel whose products and sums round separately."""
    return Case(kernel, constants, types, {"num_warps": warps, "enable_fp_fusion": False}, {})


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
    return _exact(resample.small_kernel, {"LEVELS": levels}, {}, resample.small_warps(levels))


def _sampled(
    kernel: Any, constants: dict[str, Any], types: dict[str, Any], particles: int, blocks: int
) -> Case:
    rows, columns, warps = tiling(particles, blocks)
    return _exact(kernel, constants | {"ROWS": rows, "COLUMNS": columns}, types, warps)


def _step(models: int, dtype: str, particles: int, blocks: int, each: bool = False) -> Case:
    arithmetic = "*fp64" if dtype == "*fp64" else "*fp32"
    types = {"x": dtype, "moved": dtype, "scores": (dtype,) * models, "ratio": arithmetic}
    constants = {"MODELS": models, "EACH": each}
    return _sampled(propagate.propagate_kernel, constants, types, particles, blocks)


def _reversing(models: int, dtype: str, longest: int, estimated: bool, **sizes: int) -> Case:
    """Return the kernel; sizes of 1 are constants, as in a launch."""
    types: dict[str, Any] = {"scores": (dtype,) * models, "probes": dtype, "traces": "*fp64"}
    types |= dict.fromkeys(["exponents", "levels", "log_weights"], "*fp64")
    types["products"] = (dtype,) * models if estimated else ()
    constants: dict[str, Any] = {"LARGEST": LARGEST, "MODELS": models}
    constants |= sizes | ({"traces": None} if estimated else {"probes": None})
    return _sampled(reversal.reversal_kernel, constants, types, 1000, longest)


def _combining(terms: int, dtype: str) -> Case:
    wide = tl.float64 if dtype == "*fp64" else tl.float32
    constants = {"TERMS": terms, "DTYPE": wide, "BLOCK": combination.BLOCK}
    types = {"out": dtype, "tensors": (dtype,) * terms}
    return _exact(combination.sum_kernel, constants, types, 4)


def _combining_noise(terms: int, dtype: str, blocks: int, each: bool) -> Case:
    wide = tl.float64 if dtype == "*fp64" else tl.float32
    constants = {"TERMS": terms, "DTYPE": wide, "EACH": each}
    types = {"out": dtype, "tensors": (dtype,) * terms, "weights": "*fp64"}
    types |= dict.fromkeys(["seeds", "nodes"], "*i64")
    return _sampled(combination.noisy_kernel, constants, types, 1000, blocks)


def _signing(dtype: str, blocks: int, coloured: bool, paired: bool) -> Case:
    constants = {"COLOURED": coloured, "PAIRED": paired, "PATTERNS": PATTERNS}
    return _sampled(signs.signs_kernel, constants, {"out": dtype}, 1000, blocks)


def _curving(dtype: str, longest: int, powers: bool) -> Case:
    types = {"products": dtype, "probes": dtype} | dict.fromkeys(["exponents", "out"], "*fp64")
    types["exponent"] = "fp64"
    absent: dict[str, Any] = {} if powers else {"exponents": None}
    return _sampled(curvature.curvature_kernel, absent, types, 1000, longest)


def _matching(powers: bool) -> Case:
    types = dict.fromkeys(["curvature", "exponents", "levels", "out"], "*fp64")
    types["exponent"] = "fp64"
    absent: dict[str, Any] = {} if powers else {"exponents": None}
    return _exact(curvature.matched_kernel, {"WIDTH": curvature.WIDTH} | absent, types, 8)


def _weighing(models: int, dtype: str, powers: bool) -> Case:
    types: dict[str, Any] = dict.fromkeys(["log_weights", "out", "spreads", "exponents"], "*fp64")
    types |= {"reset": "*u1", "ratio": dtype, "now": (dtype,) * models, "past": (dtype,) * models}
    constants = {"MODELS": models, "WEIGH": True, "TILE": weigh.TILE}
    absent = {} if powers else {"exponents": None}
    return _exact(weigh.weigh_kernel, constants | absent, types, 4)


_ROOTS: dict[str, Any] = dict.fromkeys(["before", "ancestors", "root"], "*i32")
_ROOTS |= {"survivors": "*i64"}
_POTENTIAL = {
    "potential": potential.potential_kernel,
    "potential backward": potential.backward_kernel,
    "potential double backward": potential.double_backward_kernel,
    "potential assemble": potential.assemble_kernel,
    "potential assemble backward": potential.assemble_backward_kernel,
}


def _states(kernel: Any, dtype: str, elements: int) -> Case:
    numbers: dict[str, Any] = {"rows": "i32", "elements": "i32"}
    types = dict.fromkeys(kernel.arg_names, dtype) | numbers
    return _exact(kernel, potential.tile(4096, elements), types, potential.WARPS)


CASES: dict[str, Case] = {
    "resample small tiny": _small(5),
    "resample small middle": _small(10),
    "resample small largest": _small((resample.SMALL - 1).bit_length()),
    "resample large maximum": _exact(large.maximum_kernel, _TILE, {}, 8),
    "resample large sum": _exact(large.sum_kernel, _TILE, {}, 8),
    "resample large decide": _exact(large.decide_kernel, _WIDTH, {}, 4),
    "resample large slot": _exact(large.slot_kernel, _TILE, {}, 8),
    "resample large owner": _exact(large.owner_kernel, _TILE | {"LEVELS": 20}, {}, 8),
    "noise rows": _sampled(noise.noise_kernel, {}, {"out": "*fp32"}, 1000, 16),
    "noise columns": _sampled(noise.noise_kernel, {}, {"out": "*fp64"}, 1000, 3072),
    "combine 3": _combining(3, "*fp32"),
    "combine 8": _combining(8, "*bf16"),
    "combine noise 3": _combining_noise(3, "*fp32", 3072, False),
    "combine noise 8": _combining_noise(8, "*fp64", 16, True),
    "signs rows": _signing("*fp32", 16, False, False),
    "signs patterns": _signing("*fp32", 3072, True, False),
    "signs pair": _signing("*bf16", 3072, True, True),
    "curvature 1": _curving("*fp32", 1, False),
    "curvature columns": _curving("*bf16", 12_288, True),
    "curvature matched": _matching(False),
    "curvature matched powers": _matching(True),
    "propagate 1": _step(1, "*fp32", 1000, 1),
    "propagate 3": _step(3, "*bf16", 1000, 16),
    "propagate 8": _step(8, "*fp64", 1000, 3072),
    "propagate each 1": _step(1, "*fp32", 1000, 1, each=True),
    "propagate each 8": _step(8, "*fp32", 1000, 16, each=True),
    "reversal 1": _reversing(1, "*fp32", 1, True, populations=1, elements=1, count=1),
    "reversal 2": _reversing(2, "*bf16", 64, True),
    "reversal 8": _reversing(8, "*fp32", 12_288, True),
    "reversal traces 8": _reversing(8, "*fp64", 12_288, False, populations=1, count=1),
    "weigh 0": _weighing(0, "*fp64", False),
    "weigh 1": _weighing(1, "*fp32", False),
    "weigh 8": _weighing(8, "*fp64", True),
    "weigh roots": _exact(weigh.roots_kernel, {"TILE": weigh.TILE}, _ROOTS, 4),
}
CASES |= {
    f"{name} {dtype} {elements}": _states(kernel, f"*{dtype}", elements)
    for name, kernel in _POTENTIAL.items()
    for dtype, elements in (("fp32", 2), ("fp32", 64), ("fp64", 12_288))
}
for _stem in (compile_mlp, compile_norm):
    CASES |= {name: Case(*case) for name, case in _stem.cases().items()}
# the sizes of attention's tiles depend on the GPU
_OF_CAPABILITY = {
    capability: {name: Case(*case) for name, case in compile_attention.cases(capability).items()}
    for capability in (80, 90)
}
CASES |= _OF_CAPABILITY[90]


def compiled(case: str, capability: int) -> Any:
    """Compile a case for a compute capability such as 90."""
    chosen = _OF_CAPABILITY[capability].get(case, CASES[case])
    kernel, constants, types, options, attributes = chosen
    signature = {
        name: "constexpr" if name in constants else (_TYPES | types).get(name, "i32")
        for name in kernel.arg_names
    }
    return compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
