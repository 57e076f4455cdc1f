"""Test what counts as a launch, a read, a copy or a constant, and which launches are the network's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.harness.launches import Launches
from bench.harness.stand_in import DEVICE, stand_in

pytest.importorskip("triton")


def counted(code, *shape):
    """Return the launches of code(x) for x on the stand-in of a GPU."""
    launches = Launches()
    with stand_in(), launches:
        x = torch.empty(shape or (3, 4), device=DEVICE)
        with launches.counting():
            code(x)
    return launches


@pytest.mark.parametrize(
    ("code", "count"),
    [
        (lambda x: x + 1, 1),
        (lambda x: x.mul_(2), 1),
        (lambda x: torch.cat([x, x]), 1),
        (lambda x: x.sum(1).sqrt(), 2),
        (lambda x: x.t().contiguous(), 1),
        (lambda x: x.new_full((), 2.0), 1),
        (lambda x: torch.zeros(3, device="cuda"), 1),
        (lambda x: torch._foreach_mul_([x, x.clone()], 2.0), 2),
        # views, memory without numbers, and empty results cost no launch
        (lambda x: x.t()[1:].unsqueeze(0).expand(2, -1, -1), 0),
        (lambda x: torch.empty_like(x).new_empty(3).detach(), 0),
        (lambda x: x[:0] * 2, 0),
        (lambda x: torch.ones(3) * 2, 0),
    ],
)
def test_launches(code, count):
    launches = counted(code)
    assert launches.beside.total() == launches.total == count, launches.beside
    assert not launches.reads + launches.copies + launches.constants


@pytest.mark.parametrize(
    "code",
    [
        lambda x: float(x[0, 0]),
        lambda x: x[0].tolist(),
        lambda x: bool(x[0, 0] > 0),
        lambda x: x.cpu(),
        lambda x: torch.empty(3, 4).copy_(x),
    ],
)
def test_reads_by_the_host(code):
    assert counted(code).reads.total() >= 1


@pytest.mark.parametrize("code", [lambda x: x[x > 0], torch.nonzero])
def test_reads_of_sizes(code):
    launches = Launches()
    with stand_in(), launches, launches.counting():
        x = torch.empty(3, device=DEVICE)
        with pytest.raises(NotImplementedError):
            code(x)
    assert launches.reads.total() == 1


def test_copies_from_the_host_and_constants():
    moved = counted(lambda x: x.copy_(torch.zeros(3, 4)))
    assert (moved.copies.total(), moved.constants.total(), moved.total) == (1, 0, 0)
    made = counted(lambda x: torch.tensor([1.0, 2.0], device=x.device))
    assert (made.copies.total(), made.constants.total(), made.total) == (1, 1, 0)


def test_the_stand_in_passes_for_a_gpu_until_the_block_ends():
    with stand_in():
        x = nn.Linear(3, 4).to("cuda").weight
        assert x.is_cuda
        assert x.device == DEVICE == torch.device("cuda", 0)
        assert torch.ones_like(x).device.type == torch.empty(2, device="cuda:0").device.type
        assert not torch.ones(3).is_cuda
        # a tensor of the host does not meet one of the device unnoticed
        with pytest.raises(RuntimeError, match="device"):
            _ = x + torch.ones(4, 3)
    assert not x.is_cuda


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, y):
        return self.layer(y).tanh()


def test_forwards_and_their_derivatives_are_the_networks_own():
    backbone, launches = Backbone(), Launches()
    with stand_in(), launches, launches.watching([backbone]), launches.counting():
        backbone.to(DEVICE)
        x = torch.empty(2, 4, device=DEVICE, requires_grad=True)
        y = 2 * x
        h = backbone(y)
        assert (launches.beside, launches.own.total()) == ({"aten::mul.Tensor": 1}, 2)
        (slope,) = torch.autograd.grad(h, y, torch.empty_like(h), create_graph=True)
        # tanh and the product with the weights
        assert (launches.beside.total(), launches.own.total()) == (1, 4)
        (slope * y).sum().backward(inputs=[x])
        names = launches.own
    assert names["aten::addmm"] == 1
    assert names["aten::tanh_backward"] >= 2
    # the gradient of the product beside the network is beside it as well
    assert "aten::tanh_backward" not in launches.beside
    assert "aten::mm" not in launches.beside
    assert launches.beside["aten::mul.Tensor"] >= 3


def test_launches_within_a_replay_are_not_those_of_the_host():
    launches = Launches()
    with stand_in(), launches, launches.counting():
        x = torch.empty(2, device=DEVICE)
        with launches.replay():
            x = x * 2 + 1
        x.clone()
    assert (launches.captured.total(), launches.total) == (2, 1)
