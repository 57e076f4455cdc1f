"""Time energy and score of image networks at one noise level, which is one NFE of a sampler.

Batches on the CPU have 32 samples, the fewest to which an energy pads. The U-Net for 64 x 64 images and DiT-S
take 2.5 s and 14 s a call on one core, so they run on GPUs only.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.cases.energy import eager_energy, make_inputs
from bench.harness.correctness import close
from bench.harness.flops import forward_flops
from bench.harness.networks import network
from bench.harness.registry import BACKWARD, Case
from bench.rivals.plain_networks import by_torch, plain_formulas
from edmfast.models import EnergyModel

Answer = tuple[Tensor, Tensor]


@functools.cache
def _compiled(name: str, device: torch.device) -> EnergyModel:
    # compile() changes a model, and the same one is timed uncompiled
    model = copy.deepcopy(network(name, device)).eval()
    model.compile()
    return model


def _ours(name: str, x: Tensor, sigma: Tensor) -> Answer:
    with torch.no_grad():
        return _compiled(name, x.device).energy_and_score(x, sigma)


def _uncompiled(name: str, x: Tensor, sigma: Tensor) -> Answer:
    with torch.no_grad():
        return network(name, x.device).energy_and_score(x, sigma)


def _eager(name: str, x: Tensor, sigma: Tensor) -> Answer:
    with plain_formulas(by_torch):
        return eager_energy(network(name, x.device, x.dtype), x, sigma)


@functools.cache
def _transform(name: str, device: torch.device) -> Callable[[Tensor, Tensor], Answer]:
    """Compile the functional gradient of the plain formula, the best that torch offers."""
    model = network(name, device)

    def energy(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        y = (sigma**2 + model.sigma_data**2).rsqrt() * x
        f = model.potential(y, sigma.expand(len(x)).log() / 4)
        energy = 0.5 * y.square().flatten(1).sum(1) - model.sigma_data / sigma * f
        # rows are independent, so the gradient of the sum holds that of each row
        return energy.sum(), energy

    gradient = torch.func.grad(energy, has_aux=True)

    def both(x: Tensor, sigma: Tensor) -> Answer:
        slope, energy = gradient(x, sigma)
        return energy, -slope

    return torch.compile(both, dynamic=False)


def _transformed(name: str, x: Tensor, sigma: Tensor) -> Answer:
    with torch.no_grad(), plain_formulas(by_torch):
        return _transform(name, x.device)(x, sigma)


def _reference(name: str, x: Tensor, sigma: Tensor) -> Answer:
    return _eager(name, x.double(), sigma.double())


def _cast(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Return the function under autocast to bfloat16, as users of CPUs with such products call it."""

    def call(x: Tensor, sigma: Tensor) -> Answer:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(x, sigma)

    return call


def _close_in_norm(output: Answer, truth: Answer) -> None:
    """Check with the tolerance of bfloat16, which has three digits, in the norm of each output."""
    for answer, wanted in zip(output, truth, strict=True):
        assert answer.dtype == torch.float32
        assert (answer.double() - wanted).norm() <= 0.02 * wanted.norm()


def half_case(name: str, shape: tuple[int, ...]) -> Case:
    """Return the case of a network under autocast to bfloat16 on the CPU, against plain torch under the same."""
    return Case(
        name=f"energy/{name} bf16 {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=_cast(functools.partial(_ours, name)),
        baselines={
            "compile of func.grad": _cast(functools.partial(_transformed, name)),
            "eager": _cast(functools.partial(_eager, name)),
            "ours uncompiled": _cast(functools.partial(_uncompiled, name)),
            "ours in float32": functools.partial(_ours, name),
        },
        reference=functools.partial(_reference, name),
        check=_close_in_norm,
        direction=BACKWARD,
        goal=1.0,
        goals={"ours uncompiled": 1.0, "ours in float32": 1.5},
        bounds=("ours uncompiled", "ours in float32"),
        bytes=8 * torch.Size(shape).numel(),
        flops=2 * shape[0] * forward_flops(name, shape[1:]),
        devices=("cpu",),
        rounds=5,
    )


def case(
    name: str, shape: tuple[int, ...], devices: Sequence[str], goal: float, eager: float
) -> Case:
    """Return a case. goal: against the best of torch. eager: against the plain formula with autograd."""
    return Case(
        name=f"energy/{name} {'x'.join(map(str, shape))}",
        shape=shape,
        make_inputs=make_inputs,
        ours=functools.partial(_ours, name),
        baselines={
            "compile of func.grad": functools.partial(_transformed, name),
            "eager": functools.partial(_eager, name),
            "ours uncompiled": functools.partial(_uncompiled, name),
        },
        reference=functools.partial(_reference, name),
        check=close(1e-3, 1e-3),
        direction=BACKWARD,
        goal=goal,
        goals={"eager": eager, "ours uncompiled": 1.0},
        bounds=("ours uncompiled",),
        bytes=8 * torch.Size(shape).numel(),
        flops=2 * shape[0] * forward_flops(name, shape[1:]),
        devices=devices,
        rounds=5,
    )


CPU, GPU = ("cpu",), ("cuda",)
CASES = [
    case("unet32", (32, 3, 32, 32), CPU, 1.0, 1.3),
    case("dit-xs", (32, 4, 16, 16), CPU, 1.0, 1.0),
    half_case("unet32", (32, 3, 32, 32)),
    half_case("dit-xs", (32, 4, 16, 16)),
    case("unet32", (256, 3, 32, 32), GPU, 1.3, 2.0),
    case("unet64", (128, 3, 64, 64), GPU, 1.3, 2.0),
    case("dit-s", (64, 4, 32, 32), GPU, 1.3, 2.0),
]
