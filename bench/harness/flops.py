"""Flops of one forward of a network, F, counted by torch on tensors without data.

Energy and score need 2 F at the least (a forward, and the adjoint of the input), a probe of the score's Jacobian
two more, a training step of an energy 6 F.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from bench.harness.networks import BUILDERS


@functools.cache
def forward_flops(name: str, shape: tuple[int, ...], **condition: int) -> int:
    """F of the network `name` for one sample of a shape; condition: a label, for networks that want one.

    Matrix products, convolutions and attention count, with two flops for a multiplication and its sum.
    """
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.edmfast.attention: _attention}
    )
    with FakeTensorMode():
        network = BUILDERS[name]()
        # two samples: what depends on the batch alone is then not mistaken for a part of one
        given = {key: torch.full((2,), label) for key, label in condition.items()}
        with counter:
            network(torch.zeros(2, *shape), torch.zeros(2), **given)
    return counter.get_total_flops() // 2


def _attention(q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> int:
    """Of shapes [..., L, width]: the products of q with k, and of what they give with v."""
    batch = torch.Size(q[:-2]).numel()
    return 2 * batch * q[-2] * k[-2] * (q[-1] + v[-1])
