"""Test that the gate accepts right answers and names every wrong one."""

from __future__ import annotations

import pytest
import torch

from bench.harness.correctness import close, failures


def gate(case):
    return failures(case, case.make_inputs(case.shape, case.dtype, torch.device("cpu")))


def test_right_answers_pass(case):
    assert gate(case()) == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x, factor: x * factor + 1e-3, "not close"),
        (lambda x, factor: x * float("nan"), "not close"),
        (lambda x, factor: (x * factor, x), "2 tensors instead of 1"),
        (lambda x, factor: x.mul_(factor), "it changes its inputs"),
        (lambda x, factor: 1 / 0, "ZeroDivisionError"),
        (lambda x, factor: None, "0 tensors instead of 1"),
        (lambda x, factor: x.roll(1) * factor, "not close"),
    ],
)
def test_a_wrong_answer_is_named_and_leaves_the_others_their_inputs(case, wrong, message):
    messages = gate(case(baselines={"wrong": wrong, "right": torch.mul}))
    assert list(messages) == ["wrong"]
    assert message in messages["wrong"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_of_the_width_is_too_little_whatever_the_tolerance(case, dtype):
    narrow = case(
        baselines={"half": lambda x, factor: (x * factor).to(dtype)}, check=close(0.1, 0.1)
    )
    assert "answers in {" in gate(narrow)["half"]
    assert gate(case(**vars(narrow) | {"dtype": dtype})) == {}


def test_close_goes_through_nested_outputs():
    check = close(0.0, atol=0.1)
    check((torch.ones(2), [torch.zeros(1)]), (torch.ones(2).double(), [torch.zeros(1) + 0.05]))
    with pytest.raises(AssertionError):
        check((torch.ones(2),), (torch.ones(2) + 0.2,))
