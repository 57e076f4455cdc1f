"""Check an implementation before it is timed: a wrong one has no speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.harness.inputs import copy, tensors, unchanged
from bench.harness.registry import Case


def close(rtol: float, atol: float = 0.0) -> Callable[[Any, Any], None]:
    """Return a check that compares every tensor of an output with the reference, in float64."""

    def check(output: Any, truth: Any) -> None:
        got, expected = tensors(output), tensors(truth)
        assert len(got) == len(expected), f"{len(got)} tensors instead of {len(expected)}"
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=atol)

    return check


def failures(case: Case, inputs: tuple[Any, ...]) -> dict[str, str]:
    """Return the implementations that are wrong, raise, or change their inputs, each with the reason."""
    before = copy(inputs)
    # a reference may change its inputs, which must not reach the implementations
    truth = case.reference(*copy(inputs))
    wrong = {}
    for name, implementation in case.implementations.items():
        try:
            output = implementation(*inputs)
            if name not in case.unchecked:
                case.check(output, truth)
                _check_width(output, case)
            assert unchanged(inputs, before), "it changes its inputs"
        # whatever one implementation raises, the others can still be timed
        except Exception as error:
            wrong[name] = reason(error)
            # the failed one may have changed the inputs, and the next one needs the originals
            inputs = copy(before)
    return wrong


def _check_width(output: Any, case: Case) -> None:
    """Refuse outputs narrower than the dtype of the case, which tolerances for another order of summation
    would let pass."""
    bits = torch.finfo(case.dtype).bits
    narrow = {
        t.dtype for t in tensors(output) if t.is_floating_point() and t.element_size() * 8 < bits
    }
    assert not narrow, f"it answers in {narrow} where {case.dtype} is asked for"


def reason(error: Exception) -> str:
    """Return an error as one line of text."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
