"""Every operator and its derivatives run on fake tensors of a CUDA device, and nothing waits for the device."""

import pytest
import torch

from bench.harness.fake_cuda import fake_cuda
from bench.harness.launches import Launches
from tests.gpu.calls import CALLS, outputs
from tests.test_house import defined_schemas


def counted(name):
    launches = Launches()
    with fake_cuda(), launches:
        call = CALLS[name]("cuda")
        with launches.counting():
            results = outputs(call)
    return results, launches


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_the_cpu_in_shape_and_dtype(name):
    results, launches = counted(name)
    expected = outputs(CALLS[name]("cpu"))
    assert [(r.shape, r.dtype) for r in results] == [(e.shape, e.dtype) for e in expected]
    assert {r.device for r in results} == {torch.device("cuda", 0)}
    assert any(operator.startswith("edmfast::") for operator in launches.beside + launches.own)
    assert launches.reads + launches.copies + launches.constants == {}


def test_every_operator_was_called():
    called = set()
    for name in CALLS:
        _, launches = counted(name)
        called |= {o.removeprefix("edmfast::") for o in launches.beside + launches.own}
    assert {*defined_schemas()} - called == set()
