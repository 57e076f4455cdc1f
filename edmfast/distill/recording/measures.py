"""The measures of a training run between two records, and their delivery to the loggers."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Sequence

import torch

from edmfast.distill.recording.loggers import Logger
from edmfast.distill.state import RunState


class Recorder:
    """The loggers of a run, called every `every` steps and at the end.

    A logger that fails does not end the run: there is one warning, and it is not called again.
    """

    def __init__(self, state: RunState, loggers: Sequence[Logger], every: int) -> None:
        self.state, self.loggers, self.every = state, [*loggers], every
        self._recorded = state.step
        self.start_clock()

    def start_clock(self) -> None:
        """Measure the speed from the current step on."""
        self._timed, self._since = self.state.step, time.perf_counter()

    def after_step(self) -> None:
        """Record where it is time to do so."""
        step, steps = self.state.step, self.state.config.steps
        if self.loggers and (step % self.every == 0 or step == steps):
            self._record()

    def _record(self) -> None:
        state, config = self.state, self.state.config
        recent = slice(self._recorded, state.step)
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed = (state.step - self._timed) / seconds
        values = {
            "loss": float(state.losses[recent].mean()),
            "gradient_norm": float(state.norms[recent].mean()),
            "learning_rate": config.learning_rate_at(state.step - 1),
            "steps_per_second": speed,
            "samples_per_second": speed * config.batch_size,
            "seconds_left": (config.steps - state.step) / speed if speed else math.inf,
            "memory_gib": memory_gib(state.parameters[0].device),
        }
        for logger in [*self.loggers]:
            try:
                logger(state.step, values)
            except Exception as error:
                self.loggers.remove(logger)
                warnings.warn(
                    f"the logger {type(logger).__name__} failed and is not called again: {error!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        self._recorded = state.step
        self.start_clock()


def memory_gib(device: torch.device) -> float:
    """Return the largest memory so far, in GiB: that of torch on a GPU, and of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows has no such module
        return math.nan
    # the unit is a kibibyte on Linux and a byte on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
