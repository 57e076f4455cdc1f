"""Students: energies of a teacher's architecture or another one, ready to be distilled from it.

start      the network                                           the energy before training
"weights"  with the teacher's weights, its own or copied         scaled to fit the teacher best
"zero"     of the teacher's architecture or another, untrained   exactly that of a Gaussian
"given"    another one, with the weights that it has             whatever these weights give

The Gaussian energy is |x|²/(2 (sigma² + sigma_data²)), that of a network which returns zeros. `initialise_from`
derives the scalars of the first start.

Sources: Thornton et al. 2025, arXiv 2502.12786 (both starts); Karras et al. 2022, arXiv 2206.00364.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_seed
from edmfast.models import protocols
from edmfast.models.calling.foreign import call_backbone, name_of
from edmfast.models.energy import EnergyModel
from edmfast.models.initialise import in_eval_mode, initialise_from
from edmfast.models.preconditioning import check_sigma_data, edm_scaling, expand_sigma

STARTS = ("weights", "zero", "given")
_ROWS = 4
"""The number of samples on which a network that must return zeros is tried."""


def student_from(
    teacher: protocols.Denoiser,
    data: Tensor,
    *,
    start: str = "weights",
    backbone: nn.Module | None = None,
    potential: str = "inner",
    sigma_data: float | None = None,
    seed: int = 0,
    weights_from: nn.Module | None = None,
    **condition: Any,
) -> EnergyModel:
    """Return an energy that is ready to be distilled from a teacher; the teacher stays as it is.

    A start from the teacher's weights learns scores in the fewest steps. The start from zero needs no weights, so
    that any backbone will do, and its energy has no error between modes that training would first have to undo.

    Sources: Thornton et al. 2025, arXiv 2502.12786; Karras et al. 2022, arXiv 2206.00364.

    Args:
        teacher: a `Denoiser`, or any denoiser(x [B, *shape], sigma [B], **condition) -> x0.
        data: one batch [B, *shape] of clean samples, in the units of sigma_data, on the device of the student. A
            few hundred samples are enough. They decide on the scalars of start="weights", and try the network of
            start="zero".
        start: "weights" copies the teacher's weights and fits one scalar per noise level, see `initialise_from`.
            "zero" takes an untrained network that returns zeros, so that the energy is exactly Gaussian,
            |x|²/(2 (sigma² + sigma_data²)). "given" keeps the weights of backbone.
        backbone: the network of the student, which the student takes over. None takes the architecture of the
            teacher: a copy of its `backbone` for "weights", and a new one of the same class and `config` for
            "zero".
        potential: that of `EnergyModel`; start="weights" needs "inner".
        sigma_data: that of the student; None takes the teacher's.
        seed: 64 bits for the noise of the fit, and for the weights of a new network.
        weights_from: the module whose state dictionary start="weights" copies. The default is teacher.backbone,
            which denoisers of other packages do not have.
        condition: conditions of teacher and student for that batch, such as class_label int64 [B].

    Raises:
        TypeError: a teacher without a backbone, where neither backbone nor weights_from is given.
        ValueError: an unknown start, start="given" without a backbone, a network that does not start at zero, or
            what `initialise_from` refuses.
    """
    if start not in STARTS:
        raise ValueError(f"start must be one of {STARTS}, given {start!r}")
    if start == "given" and backbone is None:
        raise ValueError('start="given" needs backbone=, the network with its weights, given None')
    seed, width = as_seed(seed), _sigma_data(teacher, sigma_data)
    if backbone is None:
        source = _network_of(teacher, weights_from, width)
        # the weights of a network that was made for this student are in its source
        weights_from = source if weights_from is None else weights_from
        backbone = copy.deepcopy(source) if start == "weights" else _untrained(source, data, seed)
        # a teacher is often frozen, and its copy is there to be trained
        backbone.requires_grad_(True)
    student = EnergyModel(backbone, potential=potential, sigma_data=width)
    # a teacher of another dtype or device gives its network to the student
    student.to(device=data.device)
    if start == "weights":
        return initialise_from(
            student, teacher, data, seed=seed, weights_from=weights_from, **condition
        )
    if start == "zero":
        with in_eval_mode(student):
            _check_zero(student, data, condition)
    return student


def _sigma_data(teacher: Any, sigma_data: float | None) -> float:
    found = getattr(teacher, "sigma_data", None) if sigma_data is None else sigma_data
    if found is None:
        raise ValueError(
            f"{name_of(teacher)} has no attribute sigma_data: pass sigma_data=, the standard deviation of the data"
        )
    return check_sigma_data(found)


def _network_of(teacher: Any, weights_from: nn.Module | None, sigma_data: float) -> nn.Module:
    source = getattr(teacher, "backbone", None) if weights_from is None else weights_from
    # a denoiser of another preconditioning makes a backbone for that of the student
    if source is None and callable(make := getattr(teacher, "backbone_for", None)):
        source = make(sigma_data)
    if not isinstance(source, nn.Module):
        raise TypeError(
            f"{name_of(teacher)} has no attribute backbone whose architecture a student could take: "
            'pass backbone=, its own network, such as backbone=edmfast.models.UNet(3) with start="zero"'
        )
    return source


def _untrained(source: nn.Module, data: Tensor, seed: int) -> nn.Module:
    """Return a new network of the class and the config of another one, in the dtype of the data."""
    config = getattr(source, "config", None)
    if not isinstance(config, dict):
        raise ValueError(
            f"{name_of(source)} has no config, the arguments of its constructor, that would make a new network: "
            'pass backbone= for start="zero"'
        )
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    # the weights follow from the seed, and the program's random numbers stay as they are
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return type(source)(**config).to(data.dtype)


def _check_zero(student: EnergyModel, data: Tensor, condition: dict[str, Any]) -> None:
    """Raise ValueError where the network of a student returns anything but zeros."""
    clean, rows = data[:_ROWS], min(_ROWS, len(data))
    few: dict[str, Any] = {
        name: value[:rows]
        if isinstance(value, Tensor) and value.dim() and len(value) == len(data)
        else value
        for name, value in condition.items()
    }
    noise = torch.randn(
        clean.shape, generator=generator(0, data.device), dtype=data.dtype, device=data.device
    )
    # one low, one middle and one high level of the table of scales
    for sigma in student.scale.sigmas[3::5]:
        scaling = edm_scaling(expand_sigma(sigma, clean), student.sigma_data)
        y = scaling.c_in * (clean + sigma * noise)
        with torch.no_grad():
            output = call_backbone(student.backbone, y, scaling.c_noise, **few)
        largest = float(output.abs().max()) if output.numel() else 0.0
        if largest != 0:
            raise ValueError(
                f'{name_of(student.backbone)} does not start at zero, as start="zero" needs: its outputs reach '
                f'{largest:.3g}. Set its last layer to zero, or pass start="given" to keep its weights'
            )
