"""The tests of Triton kernels are skipped where the interpreter cannot run, and for no other reason."""

from __future__ import annotations

import pytest

probe = pytest.importorskip("tests.ops.triton.interpreter_probe", exc_type=ImportError)


@pytest.mark.parametrize(
    "text",
    [
        "only 0-dimensional arrays can be converted to Python scalars",
        "TypeError('only 0-dimensional arrays can be converted to Python scalars')",
        "Conversion of an array with ndim > 0 to a scalar is deprecated",
    ],
)
def test_the_refusal_of_numpy_is_a_reason(text):
    assert "NumPy" in probe.reason_of(TypeError(text))


def test_other_errors_are_none():
    with pytest.raises(TypeError, match="unsupported operand"):
        probe.reason_of(TypeError("unsupported operand"))


def test_the_interpreter_runs_a_loop(interpreter):
    assert interpreter.submit(probe.why_not).result(timeout=120) == ""
