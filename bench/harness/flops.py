"""Count the flops of one forward of a network, F, by torch on tensors without data.

Energy and score need at least 2 F (a forward and the adjoint of the input), a probe of the score's Jacobian
2 F more, and a training step of an energy 6 F.
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
    """Return F of the network `name` for one sample of a shape.

    condition: a label for networks that need one. Matrix products, convolutions and attention count; a
    multiplication with its addition is two flops.
    """
    # torch's counter does not know our operator and would count no flops for it
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.edmfast.attention: _attention}
    )
    with FakeTensorMode():
        network = BUILDERS[name]()
        # with two samples, work that does not depend on the batch size is not taken for work per sample
        labels = {key: torch.full((2,), label) for key, label in condition.items()}
        with counter:
            network(torch.zeros(2, *shape), torch.zeros(2), **labels)
    return counter.get_total_flops() // 2


def _attention(q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> int:
    """Count the products of q with k, and of the result with v, for shapes [..., L, width]."""
    batch = torch.Size(q[:-2]).numel()
    return 2 * batch * q[-2] * k[-2] * (q[-1] + v[-1])
