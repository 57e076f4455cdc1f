"""Training data from a teacher: samples of its probability-flow ODE, for those who have no data.

The noise of sample i follows from the seed and i alone, so that a run can stop and go on, and be made longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_int, as_seed, as_shape
from edmfast._internal.progress import progress_bar
from edmfast.models.calling.conditions import check_accepted
from edmfast.models.calling.origin import name_of
from edmfast.models.protocols import Denoiser
from edmfast.ops.noise import standard_normal
from edmfast.sampling import get_sigmas_karras, noise_sampler, sample
from edmfast.sampling.engine import Solver
from edmfast.sampling.solvers import Heun
from edmfast.teachers.generated_file import GeneratedFile

_START_STREAM = 1
"""The stream of the counter that starts of sampling runs are drawn from."""
_LEVELS, _LOWEST, _HIGHEST = 18, 0.002, 80.0


def generated_data(
    teacher: Denoiser,
    shape: Sequence[int],
    count: int,
    *,
    sigmas: Sequence[float] | Tensor | None = None,
    solver: Solver | None = None,
    class_labels: int | Sequence[int] | Tensor | None = None,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw samples of a teacher, which `distill` takes as data.

    With a path, the samples are written to a file now and then, and when the run is interrupted. The same call
    goes on with the samples in the file, also with a larger count. `distill` and `open_data` take the path of a
    complete file.

    Args:
        teacher: a denoiser teacher(x [B, *shape], sigma [B], **condition) -> x0 like x.
        shape: the shape of one sample.
        count: the number of samples.
        sigmas: the noise levels of the ODE, strictly decreasing to 0. By default the 18 levels from 80 to 0.002 of
            Karras et al. 2022, arXiv 2206.00364, which belong to data with a standard deviation of about 0.5.
        solver: an object of `edmfast.sampling.solvers`; Heun's method by default, of the same source.
        class_labels: a class label for each sample [count]; or an integer K, and sample i has the label i modulo
            K; or None for a teacher without classes.
        seed: the seed of all noise. That of sample i follows from the seed and i alone.
        path: the safetensors file to write.
        batch_size: the number of samples that are drawn at once.
        device, dtype: those of the states that the teacher is called with. By default those of its first
            floating-point parameter, and the CPU and float32 where it has none.
        overwrite: replace the file at the path even if it has samples of other settings, or is another file.
        progress: show a bar, or a line now and then where stderr is no terminal.

    Returns:
        The samples [count, *shape] on the CPU, or (samples, labels int64 [count]) with class_labels.

    Raises:
        TypeError: arguments of another kind, or a teacher that does not accept class labels.
        ValueError: labels of another number, levels that do not fit the solver, or a file of other settings or of
            another teacher.
        FileExistsError: a file of another kind at the path, without overwrite.
        FloatingPointError: samples that are not finite; the error names the first one.
    """
    count = as_int("count", count, least=1)
    batch_size = as_int("batch_size", batch_size, least=1)
    seed, shape = as_seed(seed), as_shape("shape", shape)
    solver = Heun() if solver is None else solver
    labels = _labels(class_labels, count)
    if labels is not None:
        check_accepted(teacher, ["class_label"], f"the teacher {name_of(teacher)}")
    own_device, own_dtype = _place_of(teacher)
    dtype = own_dtype if dtype is None else dtype
    like = torch.empty((), device=own_device if device is None else device, dtype=dtype)
    levels = _levels(sigmas).to(like)

    def draw(first: int, last: int) -> Tensor:
        start = standard_normal(
            like.expand(1, last - first, *shape),
            seed=seed,
            stream=_START_STREAM,
            first_particle=first,
        )
        x = levels[0] * start[0]
        condition = {} if labels is None else {"class_label": labels[first:last].to(x.device)}
        noise = noise_sampler(x, seed=seed, first_sample=first)
        made = sample(
            teacher, x, levels, solver, extra_args=condition, noise_sampler=noise, disable=True
        )
        finite = made.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            bad = first + int(finite.int().argmin())
            raise FloatingPointError(f"the teacher's sample {bad} is not finite")
        return made.cpu()

    samples = torch.empty((count, *shape), dtype=dtype)
    settings = {
        "seed": seed,
        "shape": [*shape],
        "dtype": str(dtype),
        "sigmas": levels.tolist(),
        "solver": repr(solver),
    }
    file = None if path is None else GeneratedFile(path, settings, count, overwrite=overwrite)
    with _evaluating(teacher):
        done = 0 if file is None else file.read_into(samples, labels, draw, batch_size)
        bar = progress_bar(count, unit="samples", initial=done, disable=not progress)
        try:
            with bar:
                while done < count:
                    last = min(done + batch_size, count)
                    samples[done:last] = draw(done, last)
                    bar.update(last - done)
                    done = last
                    if file is not None and file.is_due():
                        file.write(samples[:done], labels)
        finally:
            # an interruption keeps what is drawn
            if file is not None and file.lacks(done):
                file.write(samples[:done], labels)
    return samples if labels is None else (samples, labels)


def _labels(class_labels: Any, count: int) -> Tensor | None:
    if class_labels is None:
        return None
    if isinstance(class_labels, (Sequence, np.ndarray)) or getattr(class_labels, "ndim", 0) > 0:
        labels = torch.as_tensor(class_labels)
        if labels.dtype.is_floating_point or labels.dtype in (torch.bool, torch.complex64):
            raise TypeError(f"class_labels must be integers, given {labels.dtype}")
        if labels.shape != (count,):
            raise ValueError(
                f"class_labels must be one for each of count = {count} samples, given {[*labels.shape]}"
            )
        return labels.to("cpu", torch.int64)
    return torch.arange(count) % as_int("class_labels", class_labels, least=1)


def _levels(sigmas: Any) -> Tensor:
    if sigmas is None:
        return get_sigmas_karras(_LEVELS, _LOWEST, _HIGHEST)
    levels = torch.as_tensor(sigmas, dtype=torch.float64)
    if levels.dim() != 1 or len(levels) < 2 or float(levels[-1]) != 0:
        raise ValueError(
            f"sigmas must be at least two levels that end with 0, given {levels.tolist()}"
        )
    return levels


def _place_of(teacher: Any) -> tuple[torch.device, torch.dtype]:
    if isinstance(teacher, nn.Module):
        for parameter in teacher.parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def _evaluating(teacher: Any) -> Iterator[None]:
    """Put a module into eval mode, and restore its mode at the end."""
    # dropout would make the samples random
    was_training = isinstance(teacher, nn.Module) and teacher.training
    if was_training:
        teacher.eval()
    try:
        yield
    finally:
        if was_training:
            teacher.train()
