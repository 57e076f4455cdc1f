"""One update of the run's state is a step of Adam with the recorded gradients."""

import copy

import torch

from edmfast.distill import DistillConfig
from edmfast.distill.state import RunState
from edmfast.models import EnergyModel, UNet


def test_update_is_adam_whatever_the_strides_of_the_gradients():
    torch.manual_seed(0)
    student = EnergyModel(UNet(1, (8, 16), groups=4)).double()
    expected = copy.deepcopy(student)
    config = DistillConfig(steps=4, warmup_steps=0, schedule="constant", clip_norm=None)
    state = RunState(student, [1, 4, 4], config)
    adam = torch.optim.Adam(expected.parameters(), lr=config.learning_rate, fused=False)
    for _ in range(3):
        gradients = [torch.randn_like(parameter) for parameter in state.parameters]
        for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        adam.step()
        # the double backward of a convolution returns weights in this layout
        turned = [
            gradient.transpose(0, 1).contiguous().transpose(0, 1)
            if gradient.dim() > 1
            else gradient
            for gradient in gradients
        ]
        state.record(torch.zeros(()), turned)
        state.update()
    for parameter, other in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-12, atol=1e-12)
