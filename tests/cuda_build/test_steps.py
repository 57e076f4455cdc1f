"""Steps of runs and of training on fake tensors of a CUDA device: nothing waits, and the stand-in counts alike."""

import pytest

from bench.gpu import launches
from bench.harness.fake_cuda import fake_cuda
from bench.harness.stand_in import DEVICE


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


@pytest.mark.parametrize("name", launches.STEPS)
@pytest.mark.filterwarnings("error:compile=True failed", "ignore:Accessing the data pointer")
def test_captured_steps(name):
    counted = launches.of_step(launches.STEPS[name], compile=True, machine=fake_cuda)
    assert counted.captured["edmfast::weigh_and_resample"] == 1
    assert counted.reads + counted.copies == {}
    assert counted.total <= 1


@pytest.mark.parametrize("name", launches.STEPS)
@pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")
def test_whole_runs(name):
    step = launches.STEPS[name]
    result = launches.whole_run(step, machine=fake_cuda)
    assert result.x.shape == (2, 16, *step.shape)
    for values in (result.x, result.log_weights, result.log_z, result.ess, result.survivors):
        assert values.device == DEVICE


@pytest.mark.parametrize("settings", [{}, {"difference_weight": 0.1}, {"compile": True}])
@pytest.mark.filterwarnings("error:compile=True failed", "ignore:Accessing the data pointer")
def test_steps_of_training(settings):
    counted = launches.of_training(machine=fake_cuda, **settings)
    assert counted.reads + counted.copies + counted.constants == {}
    on_stand_in = launches.of_training(**settings)
    assert (counted.beside, counted.own) == (on_stand_in.beside, on_stand_in.own)
