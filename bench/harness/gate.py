"""Keep the check and the inputs of one case at a time, for tests of the same case that follow each other."""

from __future__ import annotations

import gc
from typing import Any

import torch

from bench.harness import machine
from bench.harness.correctness import failures
from bench.harness.inputs import rotation
from bench.harness.registry import Case


class Gate:
    """Remember the last case only: two at once may not fit into memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.release()

    def release(self) -> None:
        """Forget the case, so that its memory is free before the next one takes its own."""
        self._case: Case | None = None
        self._copies: list[tuple[Any, ...]] = []
        self._wrong: dict[str, str] = {}
        gc.collect()

    def __call__(self, case: Case) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
        """Return copies of the inputs to take in turn, and the reasons of the implementations that failed."""
        if case is not self._case:
            self.release()
            inputs = case.make_inputs(case.shape, case.dtype, self.device)
            self._wrong = failures(case, inputs)
            self._copies = rotation(inputs, machine.cache_bytes(self.device))
            self._case = case
        return self._copies, self._wrong
