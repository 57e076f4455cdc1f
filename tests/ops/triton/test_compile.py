"""Every Triton kernel compiles ahead of time, without a GPU, and keeps its values in registers."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled", allow_module_level=True)

from bench.gpu.compile_cases import CASES, compiled
from bench.gpu.compile_report import compilers, usage_of_case


@pytest.fixture(scope="module")
def usages(request) -> Iterator[dict[tuple[str, int], Future]]:
    """Return the usage of the selected cases, compiled on all cores, since one after the other takes minutes."""
    wanted = [
        (item.callspec.params["case"], item.callspec.params["capability"])
        for item in request.session.items
        if getattr(item, "function", None) is test_nothing_spills
    ]
    with compilers() as pool:
        yield {job: pool.submit(usage_of_case, *job) for job in wanted}
        pool.shutdown(cancel_futures=True)


# the large kernels take minutes in all: the nightly tests and the job "cuda" compile every one of them
_LARGE = re.compile("attention|mlp|norm")
_QUICK = re.compile(
    r"attention .* (bfloat16|float32) 64$|mlp (forward|backward) \w+ 64x128x4$|mlp forward rows float32 64x128x4$"
    r"|norm .* (feature maps|large groups) float32"
)


def _every_case() -> Iterator[Any]:
    for case, capability in itertools.product(CASES, (80, 90)):
        quick = not _LARGE.match(case) or (capability == 90 and _QUICK.match(case))
        yield pytest.param(case, capability, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("case", "capability"), [*_every_case()])
def test_nothing_spills(usages, case, capability):
    usage, warps = usages[case, capability].result(timeout=600)
    assert usage.spilled == 0
    assert usage.registers * 32 * warps <= 65536
    # sm_86 and sm_89 have the least shared memory for a block, 99 KB; sm_90 has tiles of its own for attention
    allowed = 48
    if case.startswith("attention"):
        allowed = 227 if capability == 90 else 99
    assert usage.shared <= allowed * 1024


@pytest.mark.parametrize("shape", ["feature maps", "feature maps 16"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_two_programs_of_the_double_backward_of_norms_share_a_multiprocessor(shape, dtype):
    usage, warps = usage_of_case(f"norm double backward {shape} {dtype} held", 90)
    assert usage.spilled == 0
    assert 2 * usage.registers * 32 * warps <= 65536


@pytest.mark.parametrize(
    "case", ["resample large sum", "resample large slot", "noise rows", "weigh 8"]
)
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


@pytest.mark.parametrize(
    "kernel",
    ["forward", "query gradient", "key gradients", "row sums", "query second", "key second"],
)
def test_products_of_attention_are_those_of_hopper(kernel, tmp_path, monkeypatch):
    """Heads of 64 in bfloat16: every product is a wgmma, and programs of one warpgroup share a multiprocessor."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    result = compiled(f"attention {kernel} bfloat16 64", 90)
    text = result.asm["ptx"]
    assert text.count("wgmma.mma_async") > 0
    assert "mma.sync" not in text
    assert result.metadata.num_warps == 4
    assert 2 * (result.metadata.shared + 1024) <= 228 * 1024
