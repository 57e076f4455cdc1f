"""Count how many derivatives of each operator are right, by dtype and device.

Command: `python -m bench.report.derivatives [--write]`.

Each order is differentiated in all inputs together and compared with the plain formula in float64; the error
may be twice that of the plain formula in the same dtype and arithmetic. The first order that is not right must
raise. With --write the table in docs/derivatives.md is replaced; columns of devices that are not here are left as
they are.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bench.harness.three_tf32 import arithmetic_of
from edmfast import ops
from edmfast.ops.potential import reference

PAGE = Path(__file__).parents[2] / "docs" / "derivatives.md"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda")
MOST = 3
UNTRIED = "untried"


class Case(NamedTuple):
    """An operator of floating-point tensors and its formula; all outputs come in one tuple."""

    shapes: Sequence[tuple[int, ...]]
    ours: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., tuple[Tensor, ...]]
    dtypes: Sequence[torch.dtype] = DTYPES
    """That all its inputs may have."""


def _attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return (torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v,)


def _small(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Draw at a third of the usual size, so that third derivatives of products of eight inputs stay small."""
    return lambda *inputs: function(*(tensor / 3 for tensor in inputs))


def _perceptron(x: Tensor, numbers: Tensor, shifts: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    entry, bias, layer, exit, exit_bias = weights
    network = ops.Perceptron(entry, bias, [layer], exit, exit_bias)
    return ops.mlp_potential(x, numbers, shifts, network)


def _plain_perceptron(
    x: Tensor, numbers: Tensor, shifts: Tensor, *weights: Tensor
) -> tuple[Tensor, ...]:
    entry, bias, layer, exit, exit_bias = weights
    c, w, a, b = numbers.unsqueeze(2).unbind(1)
    y = c * x
    hidden = y @ entry.T + bias
    z = hidden @ layer.T + shifts
    h = (hidden + functional.silu(z)) @ exit.T + exit_bias
    with torch.enable_grad():
        f = w[:, 0] * (h * y).sum(1)
        (slope,) = torch.autograd.grad(f.sum(), y, create_graph=True)
    return 0.5 * y.square().sum(1) - f, a * slope + b * y


@cache
def _numbers_at(device: torch.device) -> Tensor:
    return torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64, device=device)


CASES = {
    "attention": Case(
        [(2, 3, 17, 16), (2, 3, 23, 16), (2, 3, 23, 16)],
        lambda *inputs: (ops.attention(*inputs),),
        _attention,
    ),
    "group_norm": Case(
        [(2, 6, 4), (6,), (6,)],
        lambda x, w, b: (ops.group_norm(x, 1, w, b, silu=True),),
        lambda x, w, b: (functional.silu(functional.group_norm(x, 1, w, b)),),
    ),
    "layer_norm": Case(
        [(3, 5, 8), (3, 8), (3, 8)],
        lambda x, s, t: (ops.layer_norm(x, scale=s, shift=t),),
        lambda x, s, t: (functional.layer_norm(x, x.shape[-1:]) * (1 + s[:, None]) + t[:, None],),
    ),
    "linear_combination": Case(
        [(3, 7)] * 3,
        lambda *inputs: (ops.linear_combination(inputs, _numbers_at(inputs[0].device)),),
        lambda x, y, z: (0.5 * x - 2.0 * y + 3.0 * z,),
    ),
    "mlp_potential": Case(
        [(5, 4), (5, 4), (5, 8), (8, 4), (8,), (8, 8), (4, 8), (4,)],
        _small(_perceptron),
        _small(_plain_perceptron),
        (torch.float64, torch.float32),
    ),
    "potential": Case([(6, 37), (6, 37), (6,)], ops.potential, reference.potential),
    "potential_assemble": Case(
        [(6, 37), (6, 37), (6, 37), (6, 3)],
        lambda *inputs: (ops.potential_assemble(*inputs),),
        lambda *inputs: (reference.potential_assemble(*inputs),),
    ),
    "rms_norm": Case(
        [(3, 5, 8), (8,)],
        lambda *inputs: (ops.rms_norm(*inputs),),
        lambda x, w: (functional.rms_norm(x, x.shape[-1:], w, 1e-6),),
    ),
}
REFUSING = {
    "curvature": lambda x: ops.curvature(x, torch.zeros_like(x)),
    "curvature_matched": lambda x: ops.curvature_matched(
        x[..., 0].double(),
        torch.zeros(2, 3, dtype=torch.int32),
        torch.tensor([1.0, 0.5], dtype=torch.float64),
    ),
    "propagate": lambda x: ops.propagate(
        x,
        x,
        torch.zeros(2, 3, dtype=torch.int32),
        torch.ones(2, 3, dtype=torch.float64),
        ops.rng_state(0, 0),
    ),
    "resample": lambda x: ops.resample(x[..., 0], rng=ops.rng_state(0, 0)),
    "reversal": lambda x: ops.reversal(
        x,
        torch.ones(2, 1, dtype=torch.float64),
        torch.tensor([1.0, 0.5], dtype=torch.float64),
        traces=torch.zeros(1, 2, 3, dtype=torch.float64),
    ),
    "score_gram": lambda x: ops.score_gram(x[None]),
    "systematic_resample": lambda x: ops.systematic_resample(x[..., 0], torch.rand(2)),
}


def _draw(case: Case) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in case.shapes]


def _orders(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], most: int
) -> list:
    """Yield the values, then gradients of a fixed combination of the previous order; stop where one raises."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    generator = torch.Generator().manual_seed(1)
    values = [function(*leaves)]
    try:
        for _ in range(most):
            total = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
            for value in values[-1]:
                weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                # a combination that is not linear makes the next order depend on the values
                total = total + (value.double() * weights.to(value.device)).sin().sum()
            values.append(torch.autograd.grad(total, leaves, create_graph=True))
            # a gradient that is cut from its graph would pass for one without further orders
            assert all(gradient.requires_grad for gradient in values[-1])
    except RuntimeError as error:
        # our refusals name the derivative, and any other error is a fault
        if "derivative" not in str(error):
            raise
    return values


def right_orders(name: str, dtype: torch.dtype, device: str) -> int:
    """Count the correct derivatives of the operator, at most MOST. Raise AssertionError for a wrong one."""
    case = CASES[name]
    inputs = [tensor.to(device=device, dtype=dtype) for tensor in _draw(case)]
    truth = _orders(case.plain, [tensor.double() for tensor in inputs], MOST)
    # tensor cores lose two bits of float32, and so does the plain formula beside them
    with arithmetic_of(name, dtype, device):
        plain = _orders(case.plain, inputs, MOST)
    ours = _orders(case.ours, inputs, MOST)
    # in float64 the truth is no more precise than the plain formula
    floor = (64 if dtype == torch.float64 else 2) * torch.finfo(dtype).eps
    for order, values in enumerate(ours):
        for a, b, wanted in zip(values, plain[order], truth[order], strict=True):
            error = (a.double() - wanted).abs().max()
            allowed = 2 * (b.double() - wanted).abs().max() + floor * wanted.abs().max().clamp(
                min=1
            )
            assert error <= allowed, f"{name}, order {order}: error {error:g} > {allowed:g}"
    return len(ours) - 1


def refuses(name: str) -> bool:
    """Return True where an operator without derivatives raises for inputs that require grad."""
    try:
        REFUSING[name](torch.randn(2, 3, 4, requires_grad=True))
    except RuntimeError:
        return True
    return False


def row(name: str, before: Sequence[str]) -> list[str]:
    """Return the cells of a row. `before`: its present cells, of which those of absent devices are kept."""
    cells: list[str] = []
    for device in DEVICES:
        for dtype in DTYPES:
            old = before[len(cells)] if len(before) > len(cells) else UNTRIED
            if dtype not in CASES[name].dtypes:
                cells.append("no")
                continue
            here = device == "cpu" or torch.cuda.is_available()
            orders = right_orders(name, dtype, device) if here else None
            cells.append(old if orders is None else "all" if orders == MOST else str(orders))
    return cells


def table(text: str) -> str:
    """Return the table in Markdown. `text`: the page that holds the present one."""
    heads = [f"{d.upper()} {str(t).removeprefix('torch.')}" for d in DEVICES for t in DTYPES]
    lines = ["| operator | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in CASES:
        line = re.search(rf"^\| `{name}` \|(.*)\|$", text, re.MULTILINE)
        before = [cell.strip() for cell in line[1].split("|")] if line else []
        lines.append(f"| `{name}` | " + " | ".join(row(name, before)) + " |")
    names = ", ".join(f"`{name}`" for name in REFUSING if refuses(name))
    lines += ["", f"No derivative, inputs that require grad raise: {names}."]
    return "\n".join(lines)


BEGIN, END = "<!-- derivatives: python -m bench.report.derivatives --write -->\n", "\n<!-- end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report.derivatives", description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/derivatives.md"
    )
    options = parser.parse_args(arguments)
    text = PAGE.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    made = table(text[start:stop])
    print(made)
    if options.write:
        PAGE.write_text(text[:start] + made + text[stop:])
    return int(made != text[start:stop])


if __name__ == "__main__":
    sys.exit(main())
