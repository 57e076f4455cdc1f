"""Every operator, derivatives included, captured by a CUDA graph and replayed with other inputs.

On the CPU, where nothing is captured, a replay is a second call.
"""

from __future__ import annotations

import pytest
import torch

from tests.gpu.calls import CALLS, change, outputs


def captured(call, device):
    """(a function that runs the call again, what it writes)."""
    if device == "cpu":
        found = outputs(call)

        def again():
            for old, new in zip(found, outputs(call), strict=True):
                old.copy_(new)

        return again, found
    # kernels are compiled, and memory is found, before the capture
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            outputs(call)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = outputs(call)
    return graph.replay, found


@pytest.mark.parametrize("name", CALLS)
def test_a_replay_has_the_bits_of_a_call(name, device):
    call = CALLS[name](device)
    before = [value.clone() for value in outputs(call)]
    replay, found = captured(call, device)
    change(call[1])
    replay()
    wanted = outputs(call)
    assert any(not torch.equal(a, b) for a, b in zip(wanted, before, strict=True))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs) or name in ATOMIC
        torch.testing.assert_close(ours, theirs, equal_nan=True)


ATOMIC = ("layer_norm", "rms_norm", "group_norm", "mlp_potential")
"""Around these are torch's own sums and products, whose order on a GPU nobody promises."""
