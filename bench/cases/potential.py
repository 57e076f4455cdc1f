"""Time the passes around a network that make its energy and score, and their double backward.

Sampling: the cotangent from y before the network; then E and the score from h, the pulled-back cotangent, and y.
Training: the two backward passes of these. The network itself is not part of the job.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.registry import DOUBLE_BACKWARD, FORWARD, Case
from edmfast.ops.potential import reference as reference_module
from edmfast.ops.potential.operator import potential_field


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return h, y and the pulled-back cotangent [B, d], weight and c_in [B]."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, *shape, generator=generator).to(device, dtype)
    numbers = torch.rand(2, shape[0], generator=generator).to(device, dtype) + 0.5
    return (*states.unbind(), *numbers.unbind())


def ours(h: Tensor, y: Tensor, pullback: Tensor, w: Tensor, c_in: Tensor) -> tuple[Tensor, ...]:
    """Do as the energies of `edmfast.models` do where no derivative is recorded."""
    cotangent = w[:, None] * y
    numbers = torch.stack([w, c_in * w, c_in, -c_in], 1)
    energy, score = potential_field(h, pullback, y, numbers)
    return energy, cotangent, score


def _before(y: Tensor, w: Tensor) -> Tensor:
    return w[:, None] * y


def _after(
    h: Tensor, y: Tensor, pullback: Tensor, w: Tensor, c_in: Tensor
) -> tuple[Tensor, Tensor]:
    energy = 0.5 * y.square().sum(1) - w * (h * y).sum(1)
    return energy, c_in[:, None] * (w[:, None] * h + pullback - y)


def eager(h: Tensor, y: Tensor, pullback: Tensor, w: Tensor, c_in: Tensor) -> tuple[Tensor, ...]:
    energy, score = _after(h, y, pullback, w, c_in)
    return energy, _before(y, w), score


_compiled_before = torch.compile(_before, dynamic=False)
_compiled_after = torch.compile(_after, dynamic=False)


def compiled(h: Tensor, y: Tensor, pullback: Tensor, w: Tensor, c_in: Tensor) -> tuple[Tensor, ...]:
    """Compile two graphs, because the network pulls the cotangent back between them."""
    cotangent = _compiled_before(y, w)
    energy, score = _compiled_after(h, y, pullback, w, c_in)
    return energy, cotangent, score


def reference(*inputs: Tensor) -> tuple[Tensor, ...]:
    return eager(*(tensor.double() for tensor in inputs))


def _double_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return a, b, h, y and the cotangent's cotangent [B, d]; c, e and weight [B]."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, *shape, generator=generator).to(device, dtype)
    numbers = torch.randn(3, shape[0], generator=generator).to(device, dtype)
    return (*states.unbind(), *numbers.unbind())


def _double(
    a: Tensor, b: Tensor, h: Tensor, y: Tensor, v: Tensor, c: Tensor, e: Tensor, w: Tensor
) -> tuple[Tensor, ...]:
    return torch.ops.edmfast.potential_double_backward(a, b, c, e, v, h, y, w)


def _double_eager(
    a: Tensor, b: Tensor, h: Tensor, y: Tensor, v: Tensor, c: Tensor, e: Tensor, w: Tensor
) -> tuple[Tensor, ...]:
    crossed = (a * y).sum(1) + (b * h).sum(1)
    ew, ce = (e * w)[:, None], (c * e)[:, None]
    return (
        (b * y).sum(1) - w * crossed - c * (h * y).sum(1),
        w[:, None] * b + c[:, None] * y,
        -ew * b - ce * y,
        e[:, None] * b - ew * a - ce * h + c[:, None] * v,
        (b * v).sum(1) - e * crossed,
    )


def _double_reference(
    a: Tensor, b: Tensor, h: Tensor, y: Tensor, v: Tensor, c: Tensor, e: Tensor, w: Tensor
) -> tuple[Tensor, ...]:
    wide = (tensor.double() for tensor in (a, b, c, e, v, h, y, w))
    return reference_module.potential_double_backward(*wide)


def _case(rows: int, elements: int) -> Case:
    return Case(
        name=f"potential/{rows}x{elements}",
        shape=(rows, elements),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"eager": eager, "compile": compiled},
        reference=reference,
        check=close(1e-4, 1e-3),
        direction=FORWARD,
        goal=1.0,
        # per row: h, y and the pulled-back cotangent in, cotangent and score out; weight, c_in and energy
        bytes=4 * rows * (5 * elements + 3),
    )


def _double_case(rows: int, elements: int) -> Case:
    return Case(
        name=f"potential/double {rows}x{elements}",
        shape=(rows, elements),
        make_inputs=_double_inputs,
        ours=_double,
        baselines={
            "eager": _double_eager,
            "compile": torch.compile(_double_eager, dynamic=False),
        },
        reference=_double_reference,
        check=close(1e-4, 1e-3),
        direction=DOUBLE_BACKWARD,
        goal=1.0,
        # per row: five states and three numbers in, three states and two numbers out
        bytes=4 * rows * (8 * elements + 5),
    )


CASES = [_case(1000, 2), _case(4096, 64), _case(256, 12288), _double_case(4096, 64)]
