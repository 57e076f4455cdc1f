"""The axes of networks: tokens of an attention to second order, and models of a product."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.cases import attention as bench_attention
from bench.studies import attention_memory
from bench.studies.scaling.axes import Axis, Extras
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.targets import Product

ROWS = 4096


def make_attention(length: int, device: torch.device) -> Callable[[], Any]:
    inputs = bench_attention.make_inputs((1, length, bench_attention.WIDTH), torch.float32, device)
    return functools.partial(bench_attention.ours, *inputs)


def check_attention(device: torch.device) -> None:
    inputs = bench_attention.make_inputs((2, 300, bench_attention.WIDTH), torch.float32, device)
    bench_attention.check(bench_attention.ours(*inputs), bench_attention.reference(*inputs))


def attention_extras(sizes: Sequence[int], device: torch.device) -> Extras:
    """Measure peaks on the CPU, each in a process of its own."""
    if device.type != "cpu":
        return {}
    return {"peak MiB": [attention_memory.peak(length, "ours") for length in sizes]}


def _product(count: int) -> Product:
    """Return energies of one shape with different weights."""
    models = []
    with torch.random.fork_rng(devices=[]):
        for index in range(count):
            torch.manual_seed(index)
            model = EnergyModel(ResidualMLP(**ResidualMLP.PRESETS["2-D"]))
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
            models.append(model)
    return Product(models)


def make_product(count: int, device: torch.device) -> Callable[[], Any]:
    product = _product(count).to(device)
    x = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0)).to(device)

    @torch.no_grad()
    def call() -> Any:
        return product.energy_and_score(x, 0.5)

    return call


def check_product(device: torch.device) -> None:
    """Compare with the sum of the members, each by itself in float64."""
    energy, score = make_product(3, device)()
    wide = _product(3).to(device).double()
    x = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0)).to(device).double()
    with torch.no_grad():
        parts = [model.energy_and_score(x, 0.5) for model in wide.models]
    for result, terms in zip((energy, score), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(result.double(), sum(terms), rtol=1e-4, atol=1e-4)


AXES = [
    Axis(
        name="L",
        unit="tokens",
        job="attention of one head of width 64: forward, backward and double backward",
        sizes=(128, 256, 512, 1024, 2048, 4096),
        quick=(128, 256, 512),
        make=make_attention,
        check=check_attention,
        extras=attention_extras,
        rounds=5,
    ),
    Axis(
        name="models",
        unit="models",
        job=f"energy and score of a Product of perceptrons in 2 dimensions, {ROWS} states",
        sizes=(1, 2, 3, 4, 6, 8),
        quick=(1, 2, 4),
        make=make_product,
        check=check_product,
    ),
]
