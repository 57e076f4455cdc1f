"""The result of a step of the scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from edmfast.ops import linear_combination


class StepOutput:
    """The result of a step: `prev_sample`, the samples of the next call, and `pred_original_sample`.

    The predicted clean samples are computed when they are first read, since most pipelines never do. They need the
    step's sample and model output as they were, so reading them after these were changed in place raises a
    RuntimeError. The result can be indexed by name or number, as that of diffusers.
    """

    __slots__ = ("_known", "_output", "_sample", "_versions", "_weights", "prev_sample")

    def __init__(
        self,
        prev_sample: Tensor,
        sample: Tensor,
        output: Tensor,
        weights: Any,
        known: Tensor | None = None,
    ) -> None:
        self.prev_sample = prev_sample
        self._sample, self._output, self._weights = sample, output, weights
        self._known = known
        self._versions = version(sample), version(output)

    @property
    def pred_original_sample(self) -> Tensor:
        """The clean samples that the model's output predicts, like `prev_sample`."""
        if self._known is None:
            if (version(self._sample), version(self._output)) != self._versions:
                raise RuntimeError(
                    "pred_original_sample was first read after the step's sample or model_output was changed in "
                    "place: read it before"
                )
            self._known = linear_combination((self._sample, self._output), self._weights)
        return self._known

    def to_tuple(self) -> tuple[Tensor, Tensor]:
        """Return (prev_sample, pred_original_sample), of which the second is computed when it is first read."""
        return StepPair((self.prev_sample, self))

    def __getitem__(self, key: str | int) -> Tensor:
        if isinstance(key, str):
            if key not in ("prev_sample", "pred_original_sample"):
                raise KeyError(key)
            value: Tensor = getattr(self, key)
            return value
        return self.prev_sample if key == 0 else self.to_tuple()[key]


class StepPair(tuple[Any, Any]):
    """The pair (prev_sample, pred_original_sample) of a step, which pipelines nearly always index by 0."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, 0) if key == 0 else tuple(self)[key]

    def __iter__(self) -> Iterator[Any]:
        first, second = tuple.__iter__(self)
        yield first
        yield second.pred_original_sample if isinstance(second, StepOutput) else second

    def __eq__(self, other: object) -> bool:
        return tuple(self) == other

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        return repr(tuple(self))


def version(tensor: Tensor) -> int:
    """Return the number of changes in place of a tensor, which those of torch.inference_mode do not count."""
    return -1 if tensor.is_inference() else tensor._version
