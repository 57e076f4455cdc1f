"""What a step of the scheduler returns."""

from __future__ import annotations

from torch import Tensor

from edmfast.ops import linear_combination


class StepOutput:
    """The result of a step: `prev_sample`, the samples of the next call, and `pred_original_sample`.

    The predicted clean samples are computed when they are first read, since most pipelines never do. They need the
    step's sample and model output as they were, so reading them after these were changed in place raises a
    RuntimeError. The result can be indexed by name or number, as that of diffusers.
    """

    __slots__ = ("_coefficients", "_known", "_tensors", "_versions", "prev_sample")

    def __init__(
        self,
        prev_sample: Tensor,
        tensors: tuple[Tensor, ...],
        coefficients: tuple[float, ...],
        known: Tensor | None = None,
    ) -> None:
        self.prev_sample = prev_sample
        self._known = known
        self._tensors, self._coefficients = tensors, coefficients
        self._versions = None if known is not None else _versions(tensors)

    @property
    def pred_original_sample(self) -> Tensor:
        """The clean samples that the model's output predicts, like `prev_sample`."""
        if self._known is None:
            if _versions(self._tensors) != self._versions:
                raise RuntimeError(
                    "pred_original_sample was first read after the step's sample or model_output was changed in "
                    "place: read it before"
                )
            self._known = linear_combination(self._tensors, self._coefficients)
        return self._known

    def to_tuple(self) -> tuple[Tensor, Tensor]:
        """Return (prev_sample, pred_original_sample)."""
        return self.prev_sample, self.pred_original_sample

    def __getitem__(self, key: str | int) -> Tensor:
        if isinstance(key, str):
            if key not in ("prev_sample", "pred_original_sample"):
                raise KeyError(key)
            value: Tensor = getattr(self, key)
            return value
        return self.prev_sample if key == 0 else self.to_tuple()[key]


def _versions(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    # tensors of torch.inference_mode count no changes
    return tuple(-1 if tensor.is_inference() else tensor._version for tensor in tensors)
