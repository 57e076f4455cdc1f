"""Time one training step of a small force field, whose loss holds forces and so is differentiated twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

import edmfast
from bench.harness.correctness import close
from bench.harness.registry import DOUBLE_BACKWARD, Case

FORCE_WEIGHT = 2.0


class ForceField(nn.Module):
    """An energy made of all pairs of atoms: [B, N, 3] -> [B]. A perceptron takes radial features of distances."""

    centres: Tensor

    def __init__(self, width: int = 64, features: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )
        self.register_buffer("centres", torch.linspace(0.5, 4, features))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the energies [B]."""
        apart = positions[:, :, None] - positions[:, None]
        others = 1 - torch.eye(positions.shape[1], dtype=positions.dtype, device=positions.device)
        # the small number keeps the slope of an atom's distance from itself finite
        distance = (apart.square().sum(-1) + 1e-6).sqrt()
        features = torch.exp(-(distance[..., None] - self.centres).square())
        energy: Tensor = (self.layers(features).squeeze(-1) * others).sum((1, 2))
        return energy


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions [B, N, 3], energies [B] and forces [B, N, 3]."""
    generator = torch.Generator().manual_seed(0)
    positions, forces = torch.randn(2, *shape, generator=generator).to(device, dtype)
    return positions, torch.randn(shape[0], generator=generator).to(device, dtype), forces


@functools.cache
def _model(device: torch.device) -> ForceField:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ForceField().to(device)


def _loss(model: nn.Module, positions: Tensor, energy: Tensor, forces: Tensor) -> Tensor:
    positions = positions.detach().requires_grad_()
    found = model(positions)
    (slope,) = torch.autograd.grad(found.sum(), positions, create_graph=True)
    error = (found - energy).square().mean()
    return error + FORCE_WEIGHT * (slope + forces).square().mean()


def eager(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The step as most programs make it."""
    model = _model(inputs[0].device)
    loss = _loss(model, *inputs)
    return loss.detach(), *torch.autograd.grad(loss, [*model.parameters()])


@functools.cache
def _flat(device: torch.device) -> Callable[..., Any]:
    model = _model(device)
    return edmfast.flat_compile(functools.partial(_loss, model), model)


def ours(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The same loss, compiled flat."""
    loss, gradients = _flat(inputs[0].device)(*inputs)
    return loss, *gradients.values()


@functools.cache
def _functional(device: torch.device, compiled: bool) -> Callable[..., Any]:
    """Return the loss written anew with torch.func, which torch.compile can differentiate twice."""
    model = _model(device)
    buffers = dict(model.named_buffers())

    def loss(params: Any, positions: Tensor, energy: Tensor, forces: Tensor) -> Tensor:
        def summed(positions: Tensor) -> tuple[Tensor, Tensor]:
            energies = functional_call(model, (params, buffers), (positions,))
            return energies.sum(), energies

        slope, (_, found) = grad_and_value(summed, has_aux=True)(positions)
        error = (found - energy).square().mean()
        return error + FORCE_WEIGHT * (slope + forces).square().mean()

    step: Callable[..., Any] = grad_and_value(loss)
    return torch.compile(step, fullgraph=True) if compiled else step


def by_func(compiled: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The step with torch.func, compiled or not."""
    device = inputs[0].device
    params = {name: tensor.detach() for name, tensor in _model(device).named_parameters()}
    gradients, loss = _functional(device, compiled)(params, *inputs)
    return loss, *(gradients[name] for name in params)


def reference(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Compute the eager step in float64."""
    model = ForceField().to(inputs[0].device)
    model.load_state_dict(_model(inputs[0].device).state_dict())
    loss = _loss(model.double(), *(tensor.double() for tensor in inputs))
    return loss.detach(), *torch.autograd.grad(loss, [*model.parameters()])


def case(shape: tuple[int, ...], goal: float) -> Case:
    """Return the case of B structures of N atoms. goal: the ratio against the best rival."""
    return Case(
        name=f"flat_compile/force field {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=ours,
        baselines={
            "eager": eager,
            "torch.func": functools.partial(by_func, False),
            "compile of torch.func": functools.partial(by_func, True),
        },
        reference=reference,
        check=close(1e-3, 1e-4),
        direction=DOUBLE_BACKWARD,
        goal=goal,
        goals={"eager": 1.3},
    )


CASES = [case((32, 16, 3), 1.0)]
