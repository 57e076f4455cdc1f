"""Test what a step of a run asks of a GPU, counted on tensors that stand in for those of a GPU."""

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


# tracing images takes seconds; tests/cuda_build does it
PLANE = [name for name, step in launches.STEPS.items() if step.shape == (2,)]
# outside of the replay the host keeps the ancestors of a genealogy, or the acceptances of a corrector
KEPT = {"perceptron, genealogy": 1, "MALA": 1}


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.filterwarnings("error:compile=True failed")
def test_a_captured_step_leaves_nothing_to_the_host(name):
    counted = launches.of_step(launches.STEPS[name], compile=True)
    assert counted.captured["edmfast::weigh_and_resample"] == 1
    assert counted.reads + counted.copies + counted.constants == {}
    assert counted.total == KEPT.get(name, 0)


BUDGETS = {
    "perceptron, ancestral": 4,
    "perceptron, calibrated": 4,
    "perceptron, genealogy": 4,
    "perceptron, probed": 8,
    "perceptron, hybrid above": 8,
    "perceptron, hybrid below": 8,
    "perceptron, reversal probed": 8,
    "power": 4,
    "product of two, ancestral": 6,
    "product of two, probed": 8,
    "guided": 6,
    "U-Net, ancestral": 4,
    "U-Net, probed": 13,
    "DiT, ancestral": 4,
    "DiT, probed": 13,
}


@pytest.mark.parametrize("name", BUDGETS)
def test_launches_beside_the_network(name):
    counted = launches.of_step(launches.STEPS[name])
    assert counted.beside.total() <= BUDGETS[name], counted.beside


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.filterwarnings("error:compile=True failed")
def test_a_step_of_training_neither(compile):
    counted = launches.of_training(compile=compile)
    # the loss, the gradients, their clipping, Adam, and the average of the weights
    assert counted.own["edmfast::mlp_potential_backward"] == 1
    assert (
        counted.beside["aten::_fused_adam_"] == counted.beside["aten::_foreach_lerp_.Scalar"] == 1
    )
    assert counted.reads + counted.copies + counted.constants == {}


def waits(x0):
    return x0[:, 0] * float(x0.detach().sum())


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
