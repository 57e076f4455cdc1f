"""Pairs of noise and sample from a teacher's ODE, for the whole path or for its phases.

For one phase, a pair is (eps, x_0) with x_0 the end of the ODE that starts at sigma_max eps. For several phases
the schedule is cut into equal runs of steps. A pair of the phase from level s down to level e starts at a noised
sample x_s = x + s n and runs the ODE to x_e. The line through both ends is that of the pair

    eps = (x_e - x_s)/(e - s),    x_0 = x_s - s eps,

whose states x_0 + sigma eps serve for sigma in [e, s]. Its denoiser takes one Euler step from x_s to x_e.

Source: Wang et al. 2024, "Rectified Diffusion: Straightness Is Not Your Need in Rectified Flow", arXiv 2410.07303,
in variance-exploding notation: x_t/alpha_t is the state, and sigma_t/alpha_t the noise level.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.noise_levels import as_noise_levels, check_squares
from edmfast._internal.numbers import as_int, as_seed, as_shape
from edmfast._internal.progress import progress_bar
from edmfast.distill.objectives.pairs import PATTERN, NoisePairs, load_pairs, read_pairs
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.calling.origin import name_of
from edmfast.models.protocols import Denoiser
from edmfast.ops import standard_normal

Sampler = Callable[[Denoiser, Tensor, Tensor], Tensor]
"""A function (model, x [B, *shape], sigmas [T + 1]) -> x at sigmas[-1], such as `sampling.sample_heun`."""

_STREAM, _STEP = 6, 1 << 30


def ddim(model: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Return the end [B, *shape] of Euler steps of the teacher's ODE, which are those of DDIM.

    Source: Song et al. 2020, arXiv 2010.02502, in the variance-exploding notation of Karras et al. 2022.
    """
    levels = sigmas.tolist()
    for s, u in itertools.pairwise(levels):
        denoised = model(x, x.new_full((len(x),), s))
        x = denoised + u / s * (x - denoised)
    return x


@torch.no_grad()
def make_pairs(
    teacher: Denoiser,
    shape: Sequence[int],
    count: int,
    sigmas: Tensor | Sequence[float],
    *,
    sampler: Sampler | None = None,
    labels: Tensor | None = None,
    num_classes: int = 0,
    data: Tensor | None = None,
    phases: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> NoisePairs:
    """Make pairs of noise and sample by the teacher's ODE, for `train_rectified`.

    The noise of pair k follows from the seed and from k alone, so that the pairs do not depend on the batch size.
    With a folder each batch is written as soon as it is made, and a later call with the same settings makes only
    the batches that are missing.

    Source: Wang et al. 2024, arXiv 2410.07303.

    Args:
        teacher: the denoiser, called as teacher(x, sigma [B]) -> x0, with class_label where there are labels.
        shape: the shape of one sample.
        count: the number of pairs.
        sigmas: the noise levels [T + 1] of the ODE, strictly decreasing, of which the last may be 0.
        sampler: a function (model, x, sigmas) -> x at sigmas[-1] that follows the ODE, such as
            `edmfast.sampling.sample_heun`; by default the Euler steps of DDIM.
        labels: class labels int64 [count], which the teacher receives as the condition class_label.
        num_classes: the label that means unconditional, which training needs for label_dropout.
        data: clean samples [n, *shape], to which the noise of the starting states is added, pair k to sample
            k mod n. They are needed for several phases. Without them a path starts at sigmas[0] times its noise.
        phases: the number of equal parts of the schedule; pair k belongs to phase k mod phases.
        batch_size: the number of pairs that are made at once.
        seed: 64 bits.
        dtype: the dtype of the samples.
        device: the device of the pairs, on which the teacher is called.
        folder: a folder for the pairs, which is made where it does not exist.
        progress: show a bar.

    Returns:
        The pairs.

    Raises:
        TypeError: numbers or tensors of another kind.
        ValueError: noise levels out of order, phases that do not divide the steps or have no data, labels or data
            of another shape, a sampler that returns another shape, or a folder with pairs of other settings or of
            another teacher.
    """
    shape, count = as_shape("shape", shape), as_int("count", count, least=1)
    batch_size = as_int("batch_size", batch_size, least=1)
    phases, seed = as_int("phases", phases, least=1), as_seed(seed)
    num_classes = as_int("num_classes", num_classes, least=0)
    levels = as_noise_levels(sigmas)
    check_squares(levels, dtype)
    if (len(levels) - 1) % phases:
        raise ValueError(
            f"phases must divide the {len(levels) - 1} steps of sigmas, given {phases}"
        )
    if phases > 1 and data is None:
        raise ValueError(f"phases={phases} needs data, whose noised samples start the later phases")
    if data is not None and (data.shape[1:] != shape or len(data) == 0):
        raise ValueError(f"data must be [n, *shape] with shape {[*shape]}, given {[*data.shape]}")
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != (count,)):
        raise ValueError(f"labels must be int64 [{count}], given {labels.dtype} {[*labels.shape]}")
    maker = _Maker(teacher, shape, levels, sampler or ddim, data, phases, seed, dtype, device)
    starts = range(0, count, batch_size)
    place = None if folder is None else _Folder(folder, maker, count, batch_size, labels)
    parts = []
    with progress_bar(len(starts), desc="pairs", disable=not progress) as bar:
        for start in starts:
            rows = slice(start, min(start + batch_size, count))
            if place is None or not place.path(start).exists():
                of_rows = None if labels is None else labels[rows].to(device)
                pairs = maker.make(torch.arange(rows.start, rows.stop), of_rows, num_classes)
                if place is None:
                    parts.append(pairs)
                else:
                    pairs.save(place.path(start), settings=place.settings)
            bar.update()
    if place is not None:
        return load_pairs(place.folder).to(device, dtype)
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("noise", "clean", "low", "high")
    }
    given = None if labels is None else labels.to(device)
    return NoisePairs(**joined, labels=given, num_classes=num_classes)


class _Maker:
    """The settings with which pairs are made."""

    def __init__(
        self,
        teacher: Denoiser,
        shape: tuple[int, ...],
        levels: list[float],
        sampler: Sampler,
        data: Tensor | None,
        phases: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.teacher, self.shape, self.levels, self.sampler = teacher, shape, levels, sampler
        self.data, self.phases, self.seed = data, phases, seed
        self.dtype, self.device = dtype, device

    def make(self, numbers: Tensor, labels: Tensor | None, num_classes: int) -> NoisePairs:
        """Return the pairs of some numbers, which are consecutive."""
        like = torch.empty(1, len(numbers), *self.shape, dtype=self.dtype, device=self.device)
        first = int(numbers[0])
        noise = standard_normal(
            like, seed=self.seed, step=_STEP, stream=_STREAM, first_particle=first
        )[0]
        clean, low, high = (
            torch.empty_like(noise),
            noise.new_empty(len(noise)),
            noise.new_empty(len(noise)),
        )
        eps = torch.empty_like(noise)
        steps = (len(self.levels) - 1) // self.phases
        for phase in range(self.phases):
            own = (numbers % self.phases == phase).nonzero()[:, 0].to(self.device)
            if len(own) == 0:
                continue
            sigmas = self.levels[phase * steps : (phase + 1) * steps + 1]
            s, e = sigmas[0], sigmas[-1]
            start = s * noise[own]
            if self.data is not None:
                rows = numbers[own.cpu()] % len(self.data)
                start = start + self.data[rows.to(self.data.device)].to(start)
            end = self._end(start, sigmas, None if labels is None else labels[own])
            # the whole path from noise keeps its end as it is, without a round trip through the line
            whole = e == 0 and self.data is None
            eps[own] = noise[own] if whole else (end - start) / (e - s)
            clean[own] = end if whole else start - s * eps[own]
            high[own], low[own] = s, e if e > 0 else sigmas[-2]
        return NoisePairs(eps, clean, low, high, labels, num_classes)

    def _end(self, start: Tensor, sigmas: list[float], labels: Tensor | None) -> Tensor:
        condition: dict[str, Any] = {} if labels is None else {"class_label": labels}

        def model(x: Tensor, sigma: Tensor, /, *args: Any, **options: Any) -> Tensor:
            return call_denoiser(self.teacher, x, sigma, *args, **condition, **options)

        levels = torch.tensor(sigmas, dtype=start.dtype, device=start.device)
        end = self.sampler(model, start, levels)
        if not isinstance(end, Tensor) or end.shape != start.shape:
            kind = [*end.shape] if isinstance(end, Tensor) else type(end).__name__
            raise ValueError(f"the sampler must return states {[*start.shape]}, given {kind}")
        return end.to(start.dtype)


class _Folder:
    """A folder of pairs, one file for each batch, whose settings are those of the call."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        maker: _Maker,
        count: int,
        batch_size: int,
        labels: Tensor | None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, Any] = {
            "shape": [*maker.shape],
            "count": count,
            "batch_size": batch_size,
            "sigmas": maker.levels,
            "phases": maker.phases,
            "seed": maker.seed,
            "dtype": str(maker.dtype),
            "labels": _digest(labels),
            "data": _digest(maker.data),
        }
        files = sorted(self.folder.glob(PATTERN))
        if not files:
            return
        pairs, metadata = read_pairs(files[0])
        settings = metadata.get("settings")
        for name, value in self.settings.items():
            there = settings.get(name) if isinstance(settings, dict) else None
            if there != value:
                raise ValueError(
                    f"{folder} holds pairs of other settings: {name} is {there!r} there and {value!r} here"
                )
        # one pair shows another teacher or sampler, at the price of one path
        number = int(files[0].stem.removeprefix("pairs-"))
        first = None if pairs.labels is None else pairs.labels[:1].to(maker.device)
        again = maker.make(torch.tensor([number]), first, pairs.num_classes).clean[0].cpu()
        if not torch.allclose(again, pairs.clean[0], rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{folder} holds pairs of another teacher or sampler: the first pair of {name_of(maker.teacher)} "
                "differs"
            )

    def path(self, start: int) -> Path:
        """Return the file of the batch that begins with pair `start`."""
        return self.folder / f"pairs-{start:010d}.safetensors"


def _digest(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:32]
