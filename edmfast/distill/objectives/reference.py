"""The reference model of pairwise sample optimisation: what the student was before the training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edmfast.distill.parallel import Replicas
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.protocols import Denoiser


class Reference:
    """A frozen denoiser: a model of the caller, the student without its adapters, or a copy of the student.

    model: None takes the student itself inside its context manager `disable_adapter()`, as models with adapters of
    PEFT have one, and else a copy of the student in eval mode, on all ranks of a group that of rank 0.
    """

    def __init__(
        self, model: Denoiser | None, student: nn.Module, group: dist.ProcessGroup | None = None
    ) -> None:
        self.switch: Any = None
        if model is None and callable(getattr(student, "disable_adapter", None)):
            self.switch = student.disable_adapter
        # a copy of the weights at the start of the run; a resumed run gets the same start from the caller
        self.model: Any = (
            student if self.switch else copy.deepcopy(student) if model is None else model
        )
        if isinstance(self.model, nn.Module) and self.model is not student:
            self.model.eval()
        if model is None and self.switch is None and group is not None:
            state = self.model.state_dict()
            device = next(iter(state.values())).device
            # the run starts all students with the weights of rank 0
            Replicas(group, device).share(state.values())

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Return the denoised states, like x."""
        with self.switch() if self.switch else contextlib.nullcontext():
            return call_denoiser(self.model, x, sigma, **condition)


@contextlib.contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put all parts of a model in eval mode, and each back into its own mode at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
