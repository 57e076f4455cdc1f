"""Time energy and score of a network at one noise level, which is one NFE of a sampler."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.networks import mlp_flops, mlp_products, network
from bench.harness.registry import BACKWARD, Case
from bench.rivals.plain_networks import by_formula, plain_formulas
from edmfast.models import EnergyModel
from edmfast.targets import Product

SIGMA, EXPERTS = 0.7, 4
Answer = tuple[Tensor, Tensor]


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # numbers are drawn on the CPU, so that every device gets the same ones
    x = torch.randn(shape, generator=generator).to(device, dtype)
    return x, torch.tensor(SIGMA, dtype=dtype, device=device)


@functools.cache
def _compiled(name: str, device: torch.device) -> EnergyModel:
    # compile() changes a model, and the same one is timed uncompiled
    model = copy.deepcopy(network(name, device)).eval()
    model.compile()
    return model


@functools.cache
def _transformed(name: str, device: torch.device) -> Callable[[Tensor, Tensor], Answer]:
    """Compile the functional gradient, the best that torch offers."""
    model = network(name, device)

    def energy(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        energy = model.energy(x, sigma)
        return energy.sum(), energy

    gradient = torch.func.grad(energy, has_aux=True)

    def both(x: Tensor, sigma: Tensor) -> Answer:
        slope, energy = gradient(x, sigma)
        return energy, -slope

    return torch.compile(both, dynamic=False)


def eager_energy(model: EnergyModel, x: Tensor, sigma: Tensor, **condition: Tensor) -> Answer:
    """Compute the formula of the energy, and its gradient by autograd, as a user would write it."""
    leaf = x.detach().requires_grad_()
    c_in = (sigma**2 + model.sigma_data**2).rsqrt()
    y, levels = c_in * leaf, sigma.expand(len(x))
    f = model.potential(y, levels.log() / 4, **condition)
    energy = 0.5 * y.square().flatten(1).sum(1) - model.sigma_data / sigma * f
    # rows are independent, so the gradient of the sum holds that of each row
    (slope,) = torch.autograd.grad(energy.sum(), leaf)
    return energy.detach(), -slope


def mlp_case(
    shape: tuple[int, ...],
    goal: float,
    devices: Sequence[str] = ("cpu", "cuda"),
    floor: float = 0.0,
) -> Case:
    """Return a case of the perceptron.

    floor: the wanted fraction of the measured matrix-product rate on a GPU, or 0.
    """
    name = "mlp"

    def ours(x: Tensor, sigma: Tensor) -> Answer:
        with torch.no_grad():
            return _compiled(name, x.device).energy_and_score(x, sigma)

    def eager(x: Tensor, sigma: Tensor) -> Answer:
        return eager_energy(network(name, x.device), x, sigma)

    def uncompiled(x: Tensor, sigma: Tensor) -> Answer:
        with torch.no_grad():
            return network(name, x.device).energy_and_score(x, sigma)

    def transformed(x: Tensor, sigma: Tensor) -> Answer:
        with torch.no_grad():
            return _transformed(name, x.device)(x, sigma)

    def products(x: Tensor, sigma: Tensor) -> None:
        mlp_products(x.shape[0], x.device, training=False)

    def reference(x: Tensor, sigma: Tensor) -> Answer:
        model = network(name, x.device, torch.float64)
        with plain_formulas(by_formula):
            return eager_energy(model, x.double(), sigma.double())

    return Case(
        name=f"energy/{name} {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=ours,
        baselines={
            "eager": eager,
            "compile of func.grad": transformed,
            "ours uncompiled": uncompiled,
            "2 F products": products,
        },
        reference=reference,
        check=close(1e-3, 1e-3),
        direction=BACKWARD,
        goal=goal,
        goals={"2 F products": 1 / 1.4, "ours uncompiled": 1.0},
        bounds=("2 F products", "ours uncompiled"),
        unchecked=("2 F products",),
        bytes=8 * torch.Size(shape).numel(),
        flops=2 * mlp_flops(shape[0]),
        floor_goals={"cuda": floor} if floor else {},
        devices=devices,
    )


@functools.cache
def _experts(device: torch.device, dtype: torch.dtype = torch.float32) -> list[EnergyModel]:
    """Return four different networks of one shape."""
    models = [copy.deepcopy(network("mlp", device, dtype)) for _ in range(EXPERTS)]
    for index, model in enumerate(models):
        for parameter in model.parameters():
            # networks that differ show a mix-up of two
            parameter.detach().mul_(1 + 0.1 * index)
    return models


def product_case(shape: tuple[int, ...]) -> Case:
    def ours(x: Tensor, sigma: Tensor) -> Answer:
        with torch.no_grad():
            return Product(_experts(x.device)).energy_and_score(x, sigma)

    def one_by_one(x: Tensor, sigma: Tensor) -> Answer:
        with torch.no_grad():
            pairs = [model.energy_and_score(x, sigma) for model in _experts(x.device)]
        return sum_of(pairs)

    def eager(x: Tensor, sigma: Tensor) -> Answer:
        return sum_of([eager_energy(model, x, sigma) for model in _experts(x.device)])

    def reference(x: Tensor, sigma: Tensor) -> Answer:
        models = _experts(x.device, torch.float64)
        with plain_formulas(by_formula):
            return sum_of([eager_energy(model, x.double(), sigma.double()) for model in models])

    def sum_of(pairs: list[Answer]) -> Answer:
        energies, scores = zip(*pairs, strict=True)
        return torch.stack(energies).sum(0), torch.stack(scores).sum(0)

    return Case(
        name=f"energy/product of {EXPERTS} {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=ours,
        baselines={"eager": eager, "four calls of ours": one_by_one},
        reference=reference,
        check=close(1e-3, 1e-3),
        direction=BACKWARD,
        goal=1.5,
        goals={"four calls of ours": 1.5},
        bounds=("four calls of ours",),
        bytes=8 * torch.Size(shape).numel(),
        flops=2 * EXPERTS * mlp_flops(shape[0]),
    )


CASES = [
    mlp_case((4096, 64), 1.4),
    mlp_case((256, 64), 1.4),
    product_case((256, 64)),
    mlp_case((2**20, 64), 3.0, devices=("cuda",), floor=0.4),
]
