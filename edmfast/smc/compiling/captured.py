"""Compiled steps captured as CUDA graphs, which read and write one set of tensors.

A graph reads its inputs where they lay when it was captured. A run hands the particles from one step to the next,
so every tensor of a state has one buffer, which the graph of a step reads at its start and overwrites at its end.
The number of the step is a tensor too, which the graph raises by one, and the numbers that a run records at every
level are written to a table on the device. So the host does nothing in a step but replay a graph.

Modes of a step may differ in the shape of a tensor, such as an empty kernel at the last level. Each shape has a
buffer of its own, and tensors are copied where modes change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

Replay = Callable[[], None]


class CapturedSteps:
    """The buffers of a run and the graphs that work on them.

    index: int64 [1], the number of the next step. trace: [T, C, P], to which a graph writes one row. state: the
    buffers that the last step wrote.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.index = torch.zeros(1, dtype=torch.int64, device=device)
        self.steps, self.trace = steps, torch.empty(0, device=device)
        self.state: list[Tensor] = []
        self._known = -1
        self._buffers: dict[Hashable, Tensor] = {}
        self._graphs: dict[Hashable, tuple[Replay, list[Tensor]]] = {}
        self._captures = CudaGraphs(device)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def inputs(self, state: Sequence[Tensor]) -> list[Tensor]:
        """Return the buffers of a state, with its numbers in them."""
        buffers = [self._buffer(place, tensor) for place, tensor in enumerate(state)]
        moved = [pair for pair in zip(buffers, state, strict=True) if pair[0] is not pair[1]]
        if moved:
            torch._foreach_copy_([to for to, _ in moved], [of for _, of in moved])
        return buffers

    def seek(self, index: int) -> None:
        """Let the next step be the one of a number, which costs a launch where it does not follow the last one."""
        if self._known != index:
            self.index.fill_(index)
            self._known = index

    def capture(
        self,
        key: Hashable,
        call: Callable[..., tuple[Tensor, ...]],
        inputs: list[Tensor],
        record: Callable[[tuple[Tensor, ...]], Tensor],
    ) -> None:
        """Capture a compiled step.

        call: (index, *inputs) -> the tensors of the next state. record: makes the row [C, P] of the trace of them.
        """
        # the first call compiles kernels and chooses among them, which cannot be captured
        outputs = self._captures.warmed_up(lambda: call(self.index, *inputs))
        row = record(outputs)
        if self.trace.dim() != 3:
            self.trace = row.new_zeros((self.steps + 1, *row.shape))
        buffers = [self._buffer(place, tensor) for place, tensor in enumerate(outputs)]

        def step() -> None:
            outputs = call(self.index, *inputs)
            self.index.add_(1)
            self.trace.index_copy_(0, self.index, record(outputs)[None])
            _store(outputs, buffers)

        self._graphs[key] = self._captures.captured(step), buffers

    def replay(self, key: Hashable) -> list[Tensor]:
        """Make the next step from the numbers in the buffers, and return the buffers of the state after it."""
        replay, buffers = self._graphs[key]
        index = self._known
        # an interrupt on the way leaves a number that agrees with no step
        self.state, self._known = buffers, -1
        replay()
        self._known = index + 1
        return buffers

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor is a buffer, which the next step overwrites."""
        return any(tensor is buffer for buffer in self._buffers.values())

    def level(self) -> int:
        """Return the number of the level whose state the buffers hold. It waits for the device."""
        return int(self.index)

    def _buffer(self, place: int, like: Tensor) -> Tensor:
        key = place, tuple(like.shape), like.dtype
        if key not in self._buffers:
            self._buffers[key] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self._buffers[key]


class CudaGraphs:
    """Captures functions as CUDA graphs of a device, which share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # one pool serves all graphs, since what outlives a step lies in the buffers
        self.pool: Any = None

    def warmed_up(self, call: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return call(), made on a stream of its own, as the first call of what is captured later must be."""
        current, stream = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            outputs = call()
        current.wait_stream(stream)
        return outputs

    def captured(self, step: Callable[[], None]) -> Replay:
        """Return a function that repeats a step on the GPU. The step itself has no effect."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self.device),
            torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"),
        ):
            step()
        self.pool = self.pool or graph.pool()
        return graph.replay


def _store(outputs: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
    """Copy outputs to buffers. Outputs may be inputs that a step has passed on, and then lie in a buffer."""
    memories = {buffer.untyped_storage()._cdata for buffer in buffers}
    pairs = []
    for output, buffer in zip(outputs, buffers, strict=True):
        if output is buffer or output.numel() == 0:
            continue
        memory = output.untyped_storage()._cdata
        if memory == buffer.untyped_storage()._cdata:
            continue
        # a buffer that another one passes its numbers on to may be overwritten first
        pairs.append((buffer, output.clone() if memory in memories else output))
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [of for _, of in pairs])
