"""The teacher, the data and the student of `edmfast distill`, as its settings describe them."""

from __future__ import annotations

import inspect
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_int, as_seed
from edmfast.cli.request import device_of, shape_of
from edmfast.cli.training.ranks import Ranks
from edmfast.cli.training.settings import KINDS, Settings
from edmfast.cli.working_folder import working_folder
from edmfast.distill import open_data
from edmfast.distill.data import TrainingData
from edmfast.models import Denoiser, EnergyModel, TwoHeads, student_from
from edmfast.models.backbones import BACKBONES
from edmfast.models.calling.conditions import accepted_conditions, has_no_classes
from edmfast.sampling import get_sigmas_karras
from edmfast.teachers import generated_data, load_teacher

_FIT_SAMPLES = 256
_NFE = 35
_LOWEST, _HIGHEST = 0.002, 80.0
"""The levels of the teacher's samples for data with a standard deviation of a half (Karras et al. 2022)."""
GENERATED = "generated.safetensors"
"""The file for samples of the teacher, in the folder of the run."""


def device_for(settings: Settings) -> torch.device:
    """Return the device of the run: the one in the settings, or this rank's GPU, or the CPU."""
    if settings.device is not None:
        return device_of(settings.device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def read_teacher(settings: Settings, device: torch.device) -> Any:
    """Return the teacher, or None where the mode needs none and none is given."""
    options = dict(settings.teacher)
    path = options.pop("path", None)
    options.pop("condition_names", None)
    if path is None:
        if settings.train.get("mode", "distill") == "distill":
            raise ValueError('there is no teacher: give --teacher FILE, or train.mode = "dsm"')
        return None
    if "dtype" in options:
        options["dtype"] = _dtype(options["dtype"])
    with working_folder():
        teacher = load_teacher(path, **options)
    if not isinstance(teacher, nn.Module):
        # a function has no tensors to move, and computes where its arguments are
        return teacher
    return teacher.to(device).requires_grad_(False)


def read_data(settings: Settings, teacher: Any, ranks: Ranks) -> TrainingData:
    """Return the training data: a file or folder, or samples of the teacher."""
    options = dict(settings.data)
    count = options.pop("generate", None)
    if count is None:
        if "path" not in options:
            raise ValueError(
                "there are no data: give --data PATH, or --generate N for samples of the teacher"
            )
        for name in ("shape", "nfe", "batch_size"):
            if options.pop(name, None) is not None:
                raise ValueError(f"data.{name} goes with data.generate, which is not given")
        # most files of images have labels, and most teachers have no classes
        if teacher is not None and has_no_classes(teacher):
            options["labels"] = options.get("labels", False)
        return open_data(options.pop("path"), **options)
    if teacher is None:
        raise ValueError("data.generate needs a teacher, given none")
    unknown = options.keys() - {"shape", "nfe", "batch_size"}
    if unknown:
        raise ValueError(f"data.{min(unknown)} has no meaning for samples of the teacher")
    shape = options.get("shape") or shape_of_teacher(teacher)
    count = as_int("data.generate", count, least=1)
    return _generated(settings, teacher, count, tuple(shape), ranks)


def _generated(
    settings: Settings, teacher: Any, count: int, shape: tuple[int, ...], ranks: Ranks
) -> TrainingData:
    """Return samples of the teacher, which the first rank draws into a file in the folder of the run."""
    path = settings.out / GENERATED
    nfe = as_int("data.nfe", settings.data.get("nfe", _NFE), least=1)
    width = 2 * float(getattr(teacher, "sigma_data", 0.5))
    # a teacher that says so has learned these levels only
    lowest = max(_LOWEST * width, float(getattr(teacher, "sigma_min", 0)))
    highest = min(_HIGHEST * width, float(getattr(teacher, "sigma_max", math.inf)))
    classes = getattr(getattr(teacher, "backbone", teacher), "num_classes", None)
    options: dict[str, Any] = {
        # Heun's method calls the teacher twice a step, but once in the last one
        "sigmas": get_sigmas_karras((nfe + 1) // 2, lowest, highest),
        "class_labels": classes or None,
        "seed": as_seed(settings.train.get("seed", 0)),
        "path": path,
        "batch_size": as_int("data.batch_size", settings.data.get("batch_size", 64), least=1),
    }
    if ranks.first:
        generated_data(teacher, shape, count, **options)
    ranks.wait()
    return open_data(path)


def shape_of_teacher(teacher: Any) -> tuple[int, ...]:
    """Return the shape of one sample where the teacher's network fixes it. Raises ValueError where it does not."""
    shape = shape_of(teacher)
    if shape is None:
        raise ValueError(
            "the teacher does not say the shape of a sample: give data.shape, such as [3, 32, 32]"
        )
    return shape


def make_student(
    settings: Settings, teacher: Any, data: TrainingData, device: torch.device
) -> nn.Module:
    """Return the student on the device, before its training."""
    options = settings.student
    two_heads = settings.train.get("mode") == "two_heads"
    kind = options.get("kind", "two_heads" if two_heads else "energy")
    if kind not in KINDS:
        raise ValueError(f"student.kind must be one of {', '.join(KINDS)}, given {kind!r}")
    seed = as_seed(settings.train.get("seed", 0))
    # the weights of a new network follow from the seed of the run
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(options)
    sigma_data = options.get("sigma_data", getattr(teacher, "sigma_data", 0.5))
    if kind == "two_heads" or (kind == "denoiser" and network is not None):
        if network is None:
            raise ValueError(f'student.kind = "{kind}" needs student.network')
        cls = TwoHeads if kind == "two_heads" else Denoiser
        return cls(network, sigma_data=sigma_data).to(device)
    if kind == "denoiser":
        raise ValueError('student.kind = "denoiser" needs student.network')
    potential = options.get("potential", "inner")
    if teacher is None:
        if network is None:
            raise ValueError("without a teacher, student.network must be given")
        return EnergyModel(network, potential=potential, sigma_data=sigma_data).to(device)
    count = as_int("student.fit_samples", options.get("fit_samples", _FIT_SAMPLES), least=1)
    batch, labels = _some(data, count, seed)
    if network is None:
        # the student takes the network of the teacher, and with it the dtype
        batch = batch.to(_dtype_of(teacher, batch))
    condition: dict[str, Any] = {}
    accepted = accepted_conditions(teacher)
    renamed = "class_label" in settings.teacher.get("condition_names", {})
    if labels is not None and (renamed or accepted is None or "class_label" in accepted):
        condition["class_label"] = labels.to(device)
    default = "weights" if network is None else "zero"
    return student_from(
        teacher,
        batch.to(device),
        start=options.get("start", default),
        backbone=network,
        potential=potential,
        sigma_data=sigma_data,
        seed=seed,
        **condition,
    )


def _network(options: dict[str, Any]) -> nn.Module | None:
    name, config = options.get("network"), options.get("config")
    if name is None:
        if config is not None:
            raise ValueError("student.config needs student.network")
        return None
    if name not in BACKBONES:
        raise ValueError(f"student.network must be one of {', '.join(BACKBONES)}, given {name!r}")
    try:
        return BACKBONES[name](**(config or {}))
    except TypeError as error:
        # the text names __init__ and an argument of it
        said = str(error).replace(f"{name}.__init__() ", "")
        accepted = ", ".join(inspect.signature(BACKBONES[name]).parameters)
        raise ValueError(
            f"student.config does not fit {name} ({said}), whose arguments are {accepted}: "
            "--set student.config.ARGUMENT=VALUE sets one of them"
        ) from error


def _some(data: TrainingData, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    drawn = data.draw(0, count, generator(seed, data.device))
    return data.rows(drawn, slice(0, count))


def _dtype_of(teacher: Any, batch: torch.Tensor) -> torch.dtype:
    parameters = teacher.parameters() if isinstance(teacher, nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), batch.dtype)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"teacher.dtype must be a dtype such as float32, given {name!r}")
    return dtype


def check_folder(out: Path) -> None:
    """Make the folder of the run. Raises NotADirectoryError where the path is a file."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file, where a folder is needed")
    out.mkdir(parents=True, exist_ok=True)
