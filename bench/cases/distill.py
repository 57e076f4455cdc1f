"""Time one step of distilling an energy: the loss and all parameter gradients, by a double backward."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.flops import forward_flops
from bench.harness.networks import mlp_flops, mlp_products, network
from bench.harness.registry import DOUBLE_BACKWARD, Case
from bench.rivals.plain_networks import by_formula, plain_formulas
from edmfast.distill.gradients import GradientFunction, gradient_function
from edmfast.distill.loss import TrainingLoss


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, sigma [B] and the teacher's answer, shaped like x."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, *shape, generator=generator).to(device, dtype)
    # the weight of the loss has no bound at levels near 0
    sigma = torch.rand(shape[0], generator=generator).to(device, dtype) + 0.3
    return x, sigma, target


@functools.cache
def _step(name: str, device: torch.device, compile: bool, plain: bool) -> GradientFunction:
    """Return the step. plain: True for plain formulas, so that no compiled graph of another variant is reused."""
    loss = TrainingLoss(network(name, device), 0.0)
    return gradient_function(loss, dict(loss.named_parameters()), compile=compile)


def _batch(x: Tensor, sigma: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {"x": x, "sigma": sigma, "target": target}


def _plain(name: str, compile: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The step as torch alone can do it: without our operators, and with attention's L x L matrix in memory.

    torch.compile has no second derivative, so both derivatives are traced into one graph, as ours are.
    """
    with plain_formulas(by_formula):
        return _run(name, compile, True, *inputs)


def _run(name: str, compile: bool, plain: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
    loss, gradients = _step(name, inputs[0].device, compile, plain)(_batch(*inputs))
    return loss, *gradients


def reference(name: str, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Compute the formulas of energy, denoiser and loss, with autograd twice, in float64."""
    x, sigma, target = (tensor.double() for tensor in inputs)
    model = network(name, x.device, torch.float64)
    leaf, data = x.requires_grad_(), model.sigma_data
    level = sigma.view(-1, *[1] * (x.dim() - 1))
    with plain_formulas(by_formula), torch.enable_grad():
        y = leaf * (level.square() + data**2).rsqrt()
        f = model.potential(y, sigma.log() / 4)
        energy = 0.5 * y.square().flatten(1).sum(1) - data / sigma * f
        (slope,) = torch.autograd.grad(energy.sum(), leaf, create_graph=True)
        denoised = leaf - level.square() * slope
        weight = (level.square() + data**2) / (level * data).square()
        loss = (weight * (denoised - target).square()).mean()
        gradients = torch.autograd.grad(loss, [*model.parameters()], materialize_grads=True)
    return loss.detach(), *gradients


def case(
    name: str,
    shape: tuple[int, ...],
    goal: float,
    devices: Sequence[str] = ("cpu", "cuda"),
    eager: float | None = None,
    memory: float = 1.0,
) -> Case:
    """Return the case of a network.

    goal: the ratio of times against the best rival. eager, memory: those of time and of peak memory against plain
    torch without a compiler.
    """

    def products(x: Tensor, sigma: Tensor, target: Tensor) -> None:
        mlp_products(x.shape[0], x.device, training=True)

    is_mlp = name == "mlp"
    products_name = ("6 F products",) if is_mlp else ()
    return Case(
        name=f"distill/{name} {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=partial(_run, name, True, False),
        baselines={
            "eager": partial(_plain, name, False),
            "compile": partial(_plain, name, True),
            "ours uncompiled": partial(_run, name, False, False),
        }
        | ({"6 F products": products} if is_mlp else {}),
        reference=partial(reference, name),
        check=close(1e-3, 1e-4),
        direction=DOUBLE_BACKWARD,
        goal=goal,
        goals={"ours uncompiled": 1.0}
        | ({"6 F products": 1 / 1.6} if is_mlp else {})
        | ({"eager": eager} if eager else {}),
        memory_goals={"eager": memory},
        bounds=("ours uncompiled", *products_name),
        unchecked=products_name,
        bytes=8 * torch.Size(shape).numel(),
        flops=6 * (mlp_flops(shape[0]) if is_mlp else shape[0] * forward_flops(name, shape[1:])),
        devices=devices,
    )


CASES = [
    case("mlp", (4096, 64), 1.6),
    case("unet", (128, 1, 8, 8), 1.3),
    case("ddpmpp-s", (8, 3, 32, 32), 1.0, devices=("cpu",), eager=1.3),
    case("mlp", (2**17, 64), 2.0, devices=("cuda",)),
    case("unet", (1024, 1, 8, 8), 1.5, devices=("cuda",)),
    case("unet32", (128, 3, 32, 32), 1.5, devices=("cuda",)),
    case("dit-s", (16, 4, 32, 32), 1.5, devices=("cuda",)),
    case("ddpmpp-32", (64, 3, 32, 32), 1.0, devices=("cuda",), eager=1.5, memory=1.5),
    case("adm-64", (8, 3, 64, 64), 1.0, devices=("cuda",), eager=1.5, memory=1.5),
]
