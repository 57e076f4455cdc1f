"""The model call of the engine: checked, and protected against models that keep or change tensors.

A foreign model may change its input in place, or return a buffer that it will overwrite at its next call. The
plain answer, `call_denoiser`, copies the input and the result of every call. On the CPU these two copies would
cost as much as a step of a solver, so they are made only where they are needed:

- The first call of a run works on a copy of the states. A model that changed the copy gets copies from then on.
- A later change of the input shows in the tensor's version counter. The states are then computed once more from
  the tensors that made them, which the machine holds for this purpose, and the model gets copies from then on.
- A result that the run needs after another call is protected as `edmfast.sampling.engine.results` says, unless
  nothing else refers to it or to its memory.
- A change of an earlier input that the run still needs is an error.

What is not seen is a change past the version counter, through NumPy or a kernel of the model's own, that a model
makes at a later call and did not make at the first one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.conditions import explained
from edmfast.models.calling.foreign import call_denoiser, is_ours
from edmfast.models.calling.returned import check_denoised
from edmfast.models.protocols import Denoiser
from edmfast.ops._shared.door import same_bits
from edmfast.sampling.engine import host
from edmfast.sampling.engine.results import Results


class Evaluate:
    """The denoiser of one run.

    model: the denoiser. condition: its keyword conditions. x: the states [B, *shape] of the run, whose shape,
        dtype and device those of every call are.
    """

    def __init__(self, model: Denoiser, condition: dict[str, Any], x: Tensor) -> None:
        self.model, self.condition = model, condition
        # our own models check their conditions themselves, and know which of them have no rows
        if not is_ours(model):
            check_condition_rows(model, condition, len(x))
        self.like = x.shape, x.dtype, x.device
        # Copies on an accelerator cost no time of the host, and a comparison would wait for it. Tensors of
        # inference mode count no versions.
        inference = torch.is_inference_mode_enabled() or x.is_inference()
        self.careful = not host.is_host(x.device) or is_ours(model) or inference
        self.first = True
        self.results = Results(1)

    def __call__(
        self, x: Tensor, sigma: Tensor, again: Callable[[], Tensor] | None, *, kept: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (the denoised states, the states x as they were before the call).

        x: [B, *shape]. sigma: [B], which the model may change. again: computes x once more, None where nobody can.
        kept: the result is needed after the next call.
        Raises RuntimeError where the model has changed an earlier result that is lost.
        """
        if self.careful or (again is None and not self.first):
            returned = call_denoiser(self.model, x, sigma, **self.condition)
            self.results.check()
            return returned, x
        lent = x.clone() if self.first else x
        version = lent._version
        returned = self._returned(lent, sigma)
        changed = not self.first and lent._version != version
        self.results.check(again=changed)
        if self.first:
            self.first = False
            self.careful = not same_bits(lent, x)
        elif changed:
            assert again is not None
            self.careful, x = True, again()
        if kept and (self.results.trusted or not _is_alone(returned)):
            returned = self.results.keep(returned)
        return returned, x

    def _returned(self, x: Tensor, sigma: Tensor) -> Tensor:
        condition = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in self.condition.items()
        }
        try:
            returned = self.model(x, sigma, **condition)
        except (TypeError, RuntimeError) as error:
            clearer = explained(error, self.model, x, condition)
            # An error that is not recognised keeps its own traceback.
            if clearer is error:
                raise
            raise clearer from error
        if type(returned) is Tensor and self.like == (
            returned.shape,
            returned.dtype,
            returned.device,
        ):
            return returned
        return check_denoised(self.model, returned, x)


def _references(tensor: Tensor) -> tuple[int, int]:
    """Return the numbers of references to a tensor and of tensors in its memory."""
    storage = tensor.untyped_storage()
    return sys.getrefcount(tensor), torch._C._storage_Use_Count(storage._cdata)


def _least() -> tuple[int, int]:
    # The interpreter's own references differ between its versions.
    fresh = torch.empty(1)
    return _references(fresh)


_LEAST = _least()
# Without the interpreter's lock the counts of other threads are not seen.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()


def _is_alone(tensor: Tensor) -> bool:
    """Return whether the caller's variable is the only reference to a tensor and to its memory.

    Memory that belongs to NumPy or another library cannot be resized, and counts no references.
    """
    if not _COUNTS or not tensor.untyped_storage().resizable():
        return False
    references, users = _references(tensor)
    # The variable of the caller and the parameter here: one reference more than in `_least`.
    return references <= _LEAST[0] + 1 and users <= _LEAST[1]
