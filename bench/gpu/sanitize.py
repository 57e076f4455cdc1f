"""Call every CUDA kernel on every path, for compute-sanitizer: `python -m bench.gpu.sanitize [--device cpu]`.

Sizes are those where a path begins or ends, and odd ones beside them. Tensors are views that begin in the middle
of their memory. Outputs are compared with the CPU's, because a kernel that is not launched has no errors. Exit
status: 0 where they agree, 1 where they differ, 2 where the device or a CUDA kernel is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from edmfast import _extension, ops

OPERATORS = (
    "noise",
    "signs",
    "curvature",
    "curvature_matched",
    "propagate",
    "systematic_resample",
    "weigh_and_resample",
    "reversal",
    "score_gram",
)
"""The operators that have kernels in csrc/cuda."""
FLOATS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
POPULATIONS = (
    (3, 1),
    (9, 5),
    (3, 32),
    (2, 33),
    (1, 1000),
    (1, 1025),
    (1, 8192),
    (2, 8193),
    (1, 20_481),
)
"""Pairs (P, N), for which a population takes a warp, a block, or many blocks."""

Call = tuple[str, Callable[..., Any], tuple[Any, ...]]


def _shifted(tensor: Tensor) -> Tensor:
    """Return the same numbers, one element after the start of the memory."""
    room = tensor.new_zeros(tensor.numel() + 1)
    return room[1:].copy_(tensor.flatten()).view(tensor.shape)


def _normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return _shifted(torch.randn(shape, dtype=torch.float64).to(dtype))


def noises() -> Iterator[Call]:
    for shape in ((1, 1, 1), (2, 3, 5), (2, 37, 257), (1, 2, 4099)):
        for dtype in FLOATS:
            like = torch.empty(shape, dtype=dtype)
            yield f"noise {shape}", _noise, (like, ops.rng_state(7, 3))


def _noise(like: Tensor, rng: Tensor) -> Tensor:
    return ops.standard_normal(like, rng=rng, stream=3, first_population=2, first_particle=5)


def probes() -> Iterator[Call]:
    for shape in ((1, 1, 1, 1), (2, 37, 3, 5), (1, 2, 64, 65)):
        for dtype in (*FLOATS, *HALVES):
            for count in (1, 2, 5):
                like = torch.empty(shape, dtype=dtype)
                yield f"signs {shape} {count} {dtype}", _signs, (like, ops.rng_state(7, 3), count)


def _signs(like: Tensor, rng: Tensor, count: int) -> tuple[Tensor, ...]:
    options: dict[str, Any] = {"count": count, "rng": rng, "stream": 3, "first_particle": 5}
    return tuple(ops.random_signs(like, coloured=coloured, **options) for coloured in (False, True))


def curvatures(few: bool = False) -> Iterator[Call]:
    for d in (9, 2049) if few else (1, 8, 9, 2048, 2049):
        for dtype in FLOATS[:1] if few else (*FLOATS, *HALVES):
            # sums of whole numbers are exact
            products, probes = (
                _shifted(torch.randint(-1, 2, (2, 37, d)).to(dtype)) for _ in range(2)
            )
            yield f"curvature {d} {dtype}", ops.curvature, (products, probes)
    # populations that a block folds alone, with every number of folds, and those that are folded before
    for particles in (1, 33, 1025, 8193, 32_768, 40_001):
        shape = 2, particles
        ancestors = torch.randint(0, particles, shape, dtype=torch.int32)
        levels = torch.tensor([1.0, 0.75], dtype=torch.float64)
        exponents = torch.rand(2, dtype=torch.float64) + 0.5
        arguments = (_normal(*shape), ancestors, levels, exponents)
        yield f"curvature_matched {particles}", ops.curvature_matched, arguments


def proposals(few: bool = False) -> Iterator[Call]:
    # a row is handled by 1 thread, 4, a warp, or a block
    for d in (1, 7, 8, 9, 63, 65, 2047, 2049):
        for dtype in FLOATS[:1] if few else (*FLOATS, *HALVES):
            models = 1 + d % 3
            x, *scores = (_normal(2, 37, d, dtype=dtype) for _ in range(models + 1))
            ancestors = torch.randint(0, 37, (2, 37), dtype=torch.int32).sort().values
            mask = torch.rand(2, d) < 0.6
            for rows in ((2,), (2, 37)):
                numbers = torch.rand(*rows, models + 2, dtype=torch.float64) + 0.1
                yield (
                    f"propagate {d} {dtype} {rows}",
                    _move,
                    (x, scores, ancestors, numbers, ops.rng_state(5, 2), mask),
                )


def _move(
    x: Tensor,
    scores: Sequence[Tensor],
    ancestors: Tensor,
    numbers: Tensor,
    rng: Tensor,
    mask: Tensor,
) -> tuple[Tensor, ...]:
    """Return x_u alone, with and without the mask: the GPU sums R in another order than the CPU."""
    moved, _ = ops.propagate(x, scores, ancestors, numbers, rng)
    masked, _ = ops.propagate(x, scores, ancestors, numbers, rng, mask=mask)
    return moved, masked


def resamplings() -> Iterator[Call]:
    for populations, particles in POPULATIONS:
        for dtype in FLOATS:
            weights = _normal(populations, particles, dtype=dtype)
            weights[0, particles // 2] += 60.0
            uniform = torch.rand(populations, dtype=torch.float64)
            for threshold in (0.0, 1.0):
                yield (
                    f"systematic_resample {populations, particles} {dtype}",
                    _resample,
                    (weights, uniform, threshold),
                )


def _resample(weights: Tensor, uniform: Tensor, threshold: float) -> tuple[Tensor, ...]:
    return ops.systematic_resample(weights, uniform, ess_threshold=threshold)


def weighings() -> Iterator[Call]:
    for populations, particles in POPULATIONS:
        shape = populations, particles
        before = ops.weigh_and_resample(
            ops.Weights.start(*shape),
            _normal(*shape),
            [],
            [],
            ops.rng_state(1, 0),
            ess_threshold=0.4,
        )
        for models, dtype in ((0, torch.float32), (1, torch.float64), (8, torch.float32)):
            ratio, *energies = (_normal(*shape, dtype=dtype) for _ in range(2 * models + 1))
            now, past = energies[:models], energies[models:]
            exponents = torch.rand(populations, models, dtype=torch.float64)
            yield (
                f"weigh_and_resample {shape} {models}",
                _weigh,
                (before, ratio, now, past, exponents, ops.rng_state(2, 6)),
            )


def bad_weighings() -> Iterator[Call]:
    """Return populations in which some or all weights are bad: in a warp, in a block, in many; without
    exponents."""
    for particles, weigh in ((5, False), (33, True), (8193, True)):
        shape = 5, particles
        before = ops.Weights.start(*shape)
        before.log_weights[1, ::3] = -torch.inf
        before.log_weights[2] = -torch.inf
        before.log_weights[3, particles // 2] = torch.nan
        ratio, *energies = (_normal(*shape) for _ in range(5))
        ratio[0, particles // 3] = torch.nan
        energies[0][4, 1::2] = torch.inf
        energies[2][4, 0] = torch.inf
        yield (
            f"weigh_and_resample {shape} bad, {weigh}",
            _weigh,
            (before, ratio, energies[:2], energies[2:], None, ops.rng_state(2, 6), weigh),
        )


def _weigh(
    before: ops.Weights,
    ratio: Tensor,
    now: Sequence[Tensor],
    past: Sequence[Tensor],
    exponents: Tensor | None,
    rng: Tensor,
    weigh: bool = True,
) -> tuple[Tensor, ...]:
    """Return all outputs but the spread of the increments, which the GPU sums in another order."""
    results = ops.weigh_and_resample(
        before, ratio, now, past, rng, exponents=exponents, weigh=weigh
    )
    return results[:-1]


def grams(few: bool = False) -> Iterator[Call]:
    # the kernels are compiled for 2, 4 and 8 scores
    for d in (9, 2049) if few else (1, 8, 9, 2048, 2049):
        for models in (2, 3, 8) if few else (1, 2, 3, 5, 8):
            for dtype in FLOATS[:1] if few else (*FLOATS, *HALVES):
                # sums of whole numbers are exact
                scores = _shifted(torch.randint(-3, 4, (models, 2, 37, d)).to(dtype))
                along = _shifted(torch.randint(-3, 4, (2, 37, d)).to(dtype))
                yield f"score_gram {models, d} {dtype}", ops.score_gram, (scores, along)


def reversals(few: bool = False) -> Iterator[Call]:
    # the kernels are compiled for 1, 2, 4 and 8 models
    for d in (9, 2049) if few else (1, 8, 9, 2048, 2049):
        for models in (1, 3) if few else (1, 2, 3, 8):
            for dtype in FLOATS[:1] if few else (*FLOATS, *HALVES):
                # the scores are equal, and sums of whole numbers are exact
                scores = [_shifted(torch.full((2, 37, d), 2.0, dtype=dtype))] * models
                probes = _shifted(torch.randint(-1, 2, (2, 37, 2, d)).to(dtype))
                products = [_shifted(-probes)] * models
                yield f"reversal {models, d} {dtype}", _reverse, (scores, products, probes)


def _reverse(scores: Sequence[Tensor], products: Sequence[Tensor], probes: Tensor) -> Tensor:
    """Return numbers that a logarithm, which differs between devices, does not enter."""
    exponents = probes.new_full((2, len(scores)), 0.5, dtype=torch.float64)
    levels = probes.new_tensor([1.0, 0.75], dtype=torch.float64)
    coefficients, log_weights = ops.reversal(
        scores, exponents, levels, products=products, probes=probes
    )
    traces = probes.new_zeros((len(scores), 2, 37), dtype=torch.float64)
    _, flat = ops.reversal(scores, exponents, levels, traces=traces)
    return torch.cat([coefficients, (log_weights.isnan() | flat.isnan())[..., None]], -1)


def calls(few: bool = False) -> Iterator[Call]:
    """Yield (name, function, arguments on the CPU).

    few: leave out dtypes and numbers of scores that share memory among threads alike, because racecheck is slow.
    """
    yield from noises()
    yield from probes()
    yield from curvatures(few)
    yield from proposals(few)
    yield from resamplings()
    yield from weighings()
    yield from bad_weighings()
    yield from grams(few)
    yield from reversals(few)


def without_cuda_kernel() -> list[str]:
    """Return operators that would run another kernel on a GPU; Triton's kernels are registered for CUDA too."""
    status = _extension.kernel_status()
    if status["cuda"].startswith("off"):
        return [*OPERATORS]
    by_triton = status["triton"].split(", ")
    return [
        name for name in OPERATORS if name in by_triton or not _extension._has_cuda_kernel(name)
    ]


def same(a: Tensor, b: Tensor) -> bool:
    """Return True for the same numbers, with NaN in the same places."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.isclose(a, b, rtol=0.0, atol=0.0, equal_nan=a.is_floating_point()).all())


def differs(function: Callable[..., Any], arguments: tuple[Any, ...], device: str) -> bool:
    """Return True where an output differs from the CPU's."""
    there = tree_map_only(Tensor, lambda tensor: _shifted(tensor.to(device)), arguments)
    results = [tensor.cpu() for tensor in tree_leaves(function(*there))]
    wanted = tree_leaves(function(*arguments))
    return not all(same(a, b) for a, b in zip(results, wanted, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.sanitize", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--few", action="store_true", help="not every dtype, for racecheck")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        print("sanitize: no CUDA device is available to torch", file=sys.stderr)
        return 2
    if device == "cuda" and (absent := without_cuda_kernel()):
        why = _extension.kernel_status()["cuda"]
        print(f"sanitize: no CUDA kernel of {', '.join(absent)} ({why})", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    listed = [*calls(options.few)]
    wrong = []
    for index, (name, function, inputs) in enumerate(listed, 1):
        # printed before the call, so that the sanitizer's lines follow the name of the call
        print(f"{index} of {len(listed)} calls: {name}", flush=True)
        if differs(function, inputs, device):
            wrong.append(name)
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{len(listed)} calls, {len(wrong)} unlike the CPU", *wrong, sep="\n  ")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
