"""The step traced as one flat graph and compiled, once for each of the two or three modes of a run.

The score is a gradient, which torch.compile cannot trace; so the whole step is first traced by make_fx
into one graph of plain operators, in which ours are single nodes. That graph has no breaks
(fullgraph=True), and on a GPU it is captured as a CUDA graph. Where tracing or compiling fails, the step
runs eagerly after one warning that names the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from edmfast.smc.proposals import Step
from edmfast.smc.step import Law, Mode, Moving, advance

Flat = Callable[..., tuple[Tensor, ...]]


class CompiledStep:
    """Called as `advance` is, without the law."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.graphs: dict[Mode, Flat] = {}
        self.failed = False

    def __call__(
        self, moving: Moving, step: Step, rng: Tensor, next_rng: Tensor, mode: Mode
    ) -> Moving:
        if self.failed:
            return advance(self.law, moving, step, rng, next_rng, mode)
        inputs = (*_as_tensors(step, moving.x.device), rng, next_rng, *moving.flat())
        try:
            if mode not in self.graphs:
                self.graphs[mode] = self._compile(inputs, mode)
            outputs = self.graphs[mode](*inputs)
        # Whatever the tracer or the compiler stumbles over, the eager step is still right.
        except Exception as error:
            reason = (str(error).strip() or "no message").splitlines()[0]
            warnings.warn(
                f"compile=True failed, the run goes on eagerly: {type(error).__name__}: {reason}",
                stacklevel=2,
            )
            self.failed = True
            return advance(self.law, moving, step, rng, next_rng, mode)
        # a CUDA graph writes its outputs to the same place at every replay
        if moving.x.is_cuda:
            outputs = tuple(output.clone() for output in outputs)
        return Moving.of(outputs)

    def _compile(self, inputs: tuple[Tensor, ...], mode: Mode) -> Flat:
        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            index, s, u, rng, next_rng, *rest = tensors
            step = Step(index, s, u)
            return advance(self.law, Moving.of(rest), step, rng, next_rng, mode).flat()

        graph = make_fx(flat)(*inputs)
        mode_of_compiler = "reduce-overhead" if inputs[0].is_cuda else None
        return torch.compile(graph, fullgraph=True, dynamic=False, mode=mode_of_compiler)


def _as_tensors(step: Step, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """index int64 [], s and u float64 []; filled on the device, which does not wait for it."""
    index = torch.empty((), dtype=torch.int64, device=device).fill_(step.index)
    s, u = (torch.empty((), dtype=torch.float64, device=device).fill_(v) for v in (step.s, step.u))
    return index, s, u
