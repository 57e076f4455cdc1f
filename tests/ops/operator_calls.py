"""Calls of every operator over a sweep of sizes, layouts, dtypes and absent arguments.

A tensor comes in the layouts in which callers may pass it: contiguous, transposed, cut out of a larger one, or
expanded from one row. Numbers are valid, so that every implementation can run the calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
LAYOUTS = ("contiguous", "transposed", "cut", "expanded")


class Call(NamedTuple):
    """An operator, a text that tells its calls apart, and the arguments."""

    operator: str
    label: str
    arguments: tuple[Any, ...]


def laid_out(layout: str, *shape: int, dtype: torch.dtype = F32) -> Tensor:
    """Return a tensor of ones in a layout."""
    if layout == "transposed":
        order = range(len(shape) - 1, -1, -1)
        return torch.ones(*reversed(shape), dtype=dtype).permute(*order)
    if layout == "cut":
        wide = torch.ones(*(size + 1 for size in shape), dtype=dtype)
        return wide[tuple(slice(1, None) for _ in shape)]
    if layout == "expanded":
        return torch.ones(*(1 for _ in shape), dtype=dtype).expand(shape)
    return torch.ones(*shape, dtype=dtype)


def named(operator: str, *label: object) -> tuple[str, str]:
    """Return the operator and a text of the label, the first two fields of a call."""
    return operator, ", ".join(map(str, label))


def attentions() -> Iterator[Call]:
    """Yield calls of attention and its derivatives."""
    sizes = [
        (2, 3, 5, 7, 16, 24),
        (1, 1, 1, 1, 16, 16),
        (1, 2, 40, 33, 8, 8),
        (2, 2, 4, 5, 130, 16),
        (0, 2, 4, 5, 16, 16),
        (2, 2, 0, 5, 16, 16),
        (2, 2, 4, 0, 16, 16),
        (2, 2, 4, 20, 16, 16),
    ]
    for (b, h, length, m, d, e), layout, dtype in itertools.product(
        sizes, ("heads last", *LAYOUTS), (F32, BF16, F64)
    ):
        if layout == "heads last":  # as a network makes them
            shapes = (b, length, h, d), (b, m, h, d), (b, m, h, e)
            q, k, v = (torch.ones(*shape, dtype=dtype).transpose(1, 2) for shape in shapes)
        else:
            shapes = (b, h, length, d), (b, h, m, d), (b, h, m, e)
            q, k, v = (laid_out(layout, *shape, dtype=dtype) for shape in shapes)
        mask = torch.ones(b, m, dtype=torch.bool) if layout in ("cut", "expanded") else None
        options = mask, 0.1, layout in ("heads last", "cut")
        label = f"{(b, h, length, m, d, e)}", layout, dtype
        grad = laid_out("contiguous" if layout == "heads last" else layout, b, h, length, e)
        grad = grad.to(dtype) if layout == "contiguous" else grad.expand(b, h, length, e).to(dtype)
        lse = torch.ones(b, h, length, dtype=F64 if dtype == F64 else F32)
        out = torch.ones(b, h, length, e, dtype=dtype)
        yield Call(*named("attention", *label), (q, k, v, *options))
        rest = grad, q, k, v, out, lse, *options
        yield Call(*named("attention_backward", *label), rest)
        yield Call(*named("attention_double_backward", *label), (q, k, v, *rest))
        for tangents in ((q, k, v), (None, k, None)):
            full = *label, f"tangents of {'all' if tangents[2] is v else 'k'}"
            yield Call(*named("attention_jvp", *full), (*tangents, q, k, v, *options))


def _states(shape: tuple[int, int, int], layout: str, dtype: torch.dtype) -> Tensor:
    """Return states [N, C, S] of a norm in a layout that its public functions pass."""
    n, c, s = shape
    if layout == "channels last":
        return torch.ones(n, s, c, dtype=dtype).mT
    return laid_out(layout, n, c, s, dtype=dtype)


def norms() -> Iterator[Call]:
    """Yield calls of the norms and their derivatives."""
    shapes = [(2, 8, 5), (1, 8, 5), (2, 8, 1), (4, 6, 1500), (1, 8, 1), (3, 1, 5), (0, 8, 5)]
    layouts = ("channels last", *LAYOUTS)
    for shape, layout, dtype in itertools.product(shapes, layouts, (F32, BF16, F64)):
        n, c, _ = shape
        groups, wide = 1 if c == 1 else 2, F64 if dtype == F64 else F32
        x = _states(shape, layout, dtype)
        for rows in {1, n} if layout in ("channels last", "contiguous") else {1}:
            if rows == 0 or (n == 0 and rows != 1):
                continue
            scale = laid_out("expanded" if layout == "cut" else "contiguous", rows, c, dtype=wide)
            label = shape, layout, dtype, f"scale [{rows}, {c}]"
            options = True, layout != "cut"
            yield Call(*named("group_norm_silu", *label), (x, scale, scale, groups, 1e-5, *options))
            statistics = torch.ones(n, groups, dtype=wide)
            for other in {"contiguous", layout, "expanded"}:
                grad = _states(shape, other, dtype)
                rest = grad, x, scale, scale, statistics, statistics, *options
                full = *label, f"grad {other}"
                yield Call(*named("group_norm_silu_backward", *full), rest)
                for weights in ((scale, scale), (None, None)):
                    second = grad, *weights, *rest
                    full = *label, f"grad {other}", f"weights {weights[0] is not None}"
                    yield Call(*named("group_norm_silu_double_backward", *full), second)


def potentials() -> Iterator[Call]:
    """Yield calls of the inner-product potential, its derivatives and the assembly of scores."""
    for batch, d, layout, dtype in itertools.product((5, 1, 0), (7, 1), LAYOUTS, (F32, F64)):
        y, h = laid_out(layout, batch, d, dtype=dtype), laid_out(layout, batch, d, dtype=dtype)
        weight, numbers = (laid_out(layout, batch, *n, dtype=dtype) for n in ((), (3,)))
        label = batch, d, layout, dtype
        yield Call(*named("potential", *label), (h, y, weight))
        for e, v in ((weight, y), (weight, None), (None, y)):
            full = *label, f"e {e is not None}", f"v {v is not None}"
            yield Call(*named("potential_backward", *full), (e, v, h, y, weight))
            second = h, y, weight, e, v, h, y, weight
            yield Call(*named("potential_double_backward", *full), second)
        yield Call(*named("potential_assemble", *label), (h, h, y, numbers))
        for rows in (batch, 1):
            row = laid_out(layout, rows, 4, dtype=dtype)
            yield Call(*named("potential_field", *label, rows), (h, h, y, row))
        yield Call(*named("potential_assemble_backward", *label), (y, h, h, y, numbers))


def perceptrons(weights: tuple[torch.dtype, ...] = (F32, F64)) -> Iterator[Call]:
    """Yield calls of residual perceptrons and their derivative, with weights of these dtypes."""
    sizes = itertools.product((1, 2), (0, 1, 3), (1, 6, 0), (False, True), (False, True), weights)
    for models, depth, batch, one_row, shared, dtype in sizes:
        states = F64 if dtype == F64 else F32
        for layout, width in (("contiguous", 32), ("transposed", 32), ("expanded", 300)):
            # each of these alone is enough beside the plain layout
            if layout != "contiguous" and (one_row or depth == 3):
                continue
            if (depth == 3 or batch == 0) and (one_row or models == 1):
                continue
            d = 4
            x = laid_out(layout, batch, d, dtype=states)
            numbers = laid_out(layout, models, 1 if one_row else batch, 4, dtype=states)
            rows = 1 if shared else batch

            def each(count: int, *shape: int, layout: str = layout) -> list[Tensor]:
                return [laid_out(layout, *shape, dtype=dtype) for _ in range(count)]  # noqa: B023, it is called in this round only

            lists = (
                each(models, rows, depth * width),
                each(models, width, d),
                each(models, width),
                each(models * depth, width, width),
                each(models, d, width),
                each(models, d),
            )
            label = (
                f"K {models}, depth {depth}, B {batch}, width {width}",
                f"{'one row' if one_row else 'rows'} of coefficients",
                f"shifts {'shared' if shared else 'of each row'}",
                layout,
                dtype,
            )
            for save in {False, depth > 0}:
                full = *label, f"save {save}"
                yield Call(*named("mlp_potential", *full), (x, numbers, *lists, save))
            along = laid_out(layout, batch, d, dtype=states)
            yield Call(*named("mlp_potential_probe", *label), (x, along, numbers, *lists))
            e = laid_out(layout, models, batch, dtype=states)
            v = laid_out(layout, models, batch, d, dtype=states)
            for inputs, wanted in ((True, True), (True, False), (False, True)):
                full = *label, f"inputs {inputs}", f"weights {wanted}"
                nothing = torch.empty(0, dtype=states)
                arguments = e, v, x, numbers, *lists, nothing, inputs, wanted
                yield Call(*named("mlp_potential_backward", *full), arguments)
