"""Steps of runs and of training on fake tensors of a CUDA device: nothing waits, and the stand-in counts alike."""

import pytest

from bench.gpu import launches
from bench.harness.fake_cuda import fake_cuda


@pytest.mark.parametrize("name", launches.STEPS)
def test_eager_steps(name):
    step = launches.STEPS[name]
    counted = launches.of_step(step, machine=fake_cuda)
    assert counted.reads + counted.copies == {}
    # budgets and constants are checked with the stand-in, which every build of torch has
    on_stand_in = launches.of_step(step)
    # without a device, fake tensors take a number that is assigned from the CPU: a fill in place of two launches
    if not counted.constants:
        assert counted.beside == on_stand_in.beside
    # the libraries of convolutions choose layouts, which only torch's own fake tensors know
    assert {*(counted.own - on_stand_in.own)} <= {"aten::clone"}
    assert on_stand_in.own - counted.own == {}


@pytest.mark.parametrize("difference_weight", [0.0, 0.1])
def test_steps_of_training(difference_weight):
    counted = launches.of_training(difference_weight=difference_weight, machine=fake_cuda)
    assert counted.reads + counted.copies + counted.constants == {}
    on_stand_in = launches.of_training(difference_weight=difference_weight)
    assert (counted.beside, counted.own) == (on_stand_in.beside, on_stand_in.own)
