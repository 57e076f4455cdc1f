"""What a step of a run asks of a GPU, counted on tensors that stand in for those of a GPU."""

import pytest
import torch

from bench.gpu import launches
from edmfast.targets import Tilted

pytest.importorskip("triton")


@pytest.mark.parametrize("name", launches.STEPS)
def test_no_step_waits_for_the_device_or_copies_to_it(name):
    counted = launches.of_step(launches.STEPS[name])
    assert counted.total > 0
    assert counted.reads + counted.copies + counted.constants == {}


def test_a_step_of_training_neither():
    counted = launches.of_training()
    # the loss, the gradients, their clipping, Adam, and the average of the weights
    assert counted.own["edmfast::mlp_potential_backward"] == 1
    assert (
        counted.beside["aten::_fused_adam_"] == counted.beside["aten::_foreach_lerp_.Scalar"] == 1
    )
    assert counted.reads + counted.copies + counted.constants == {}


def waits(x0):
    return x0[:, 0] * float(x0.sum())


def copies(x0):
    return x0[:, 0] * torch.tensor([2.0], device=x0.device)


@pytest.mark.parametrize(
    ("reward", "kinds"), [(waits, ["reads"]), (copies, ["copies", "constants"])]
)
def test_a_reward_that_makes_the_host_wait_is_found(reward, kinds):
    step = launches.Step(lambda: Tilted(launches.perceptron(), reward, 0.5, ramp=None))
    counted = launches.of_step(step)
    asked = [kind for kind in ("reads", "copies", "constants") if getattr(counted, kind)]
    assert asked == kinds
