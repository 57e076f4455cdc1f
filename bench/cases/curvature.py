"""Time curvatures by probes, and the coefficients that follow them, against plain torch.

The plain versions are those that a careful user writes: a product, a sum and a division; a gather, a mean, and the
bounds. Ours sum in float64, and in an order that does not depend on the number of populations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.registry import Case
from edmfast.ops import curvature, curvature_matched
from edmfast.ops.curvature import reference

A = 1.5


def products_and_probes(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(shape, dtype=dtype, generator=generator).sign()
    products = -torch.rand(shape, dtype=dtype, generator=generator) * probes
    return products.to(device), probes.to(device)


def plain_curvature(products: Tensor, probes: Tensor) -> Tensor:
    return (products * probes).sum(2).double() / (products.shape[2] * A)


def curvatures_and_ancestors(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    values = -torch.rand(shape, dtype=torch.float64, generator=generator)
    ancestors = torch.randint(0, shape[1], shape, dtype=torch.int32, generator=generator)
    levels = torch.tensor([1.0, 0.8], dtype=torch.float64)
    return tuple(tensor.to(device) for tensor in (values, ancestors.sort(1).values, levels))


def plain_matched(values: Tensor, ancestors: Tensor, levels: Tensor) -> Tensor:
    s, u = levels
    tau2 = s * s - u * u
    mean = values.gather(1, ancestors.long()).mean(1)
    kappa = torch.maximum(1 + tau2 * mean, 0.5 * (u / s) ** 2).clamp(max=1.0)
    v_l = (tau2 / A).expand_as(kappa)
    return torch.stack([v_l, kappa * v_l, v_l], 1)


def curvature_case(*shape: int) -> Case:
    elements = torch.Size(shape).numel()
    return Case(
        name=f"curvature/{'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=products_and_probes,
        ours=lambda products, probes: curvature(products, probes, A),
        baselines={
            "eager torch": plain_curvature,
            "compile": torch.compile(plain_curvature, dynamic=False),
        },
        reference=lambda products, probes: reference.curvature(products, probes, None, A),
        # the tolerance leaves room for the float32 sums of the baselines; the tests hold ours to float64
        check=close(rtol=1e-4, atol=1e-5),
        goal=2.0,
        bytes=8 * elements + 8 * shape[0] * shape[1],
    )


def matched_case(*shape: int) -> Case:
    return Case(
        name=f"curvature matched/{'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=curvatures_and_ancestors,
        ours=lambda values, ancestors, levels: curvature_matched(values, ancestors, levels, A),
        baselines={
            "eager torch": plain_matched,
            "compile": torch.compile(plain_matched, dynamic=False),
        },
        reference=lambda values, ancestors, levels: reference.curvature_matched(
            values, ancestors, None, A, levels
        ),
        check=close(rtol=1e-10),
        goal=2.0,
        bytes=12 * shape[0] * shape[1] + 24 * shape[0],
    )


CASES = [
    curvature_case(1, 4096, 64),
    curvature_case(1, 256, 12_288),
    matched_case(1, 1000),
    matched_case(16, 65_536),
]
