"""Snapshots of power-function averages: one safetensors file for each average and step.

Tensors: average.<parameter> for the trained parameters, and rest.<name> for everything else in the state of the
student. Metadata: the step, sigma_rel, gamma, and the descriptions of student, settings and data that tell runs
apart.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from edmfast._internal.file_kinds import EMA_SNAPSHOT, kind_of
from edmfast._internal.files import read_metadata, read_tensors, write_tensors
from edmfast.distill.config import DistillConfig

if TYPE_CHECKING:
    from edmfast.distill.state import RunState

FORMAT, VERSION = "edmfast-ema-snapshot", 1


def folder_of(config: DistillConfig) -> Path | None:
    """Return the folder in which a run writes its snapshots, or None for a run without profiles."""
    if not config.ema_profiles:
        return None
    if config.snapshot_folder is not None:
        return Path(config.snapshot_folder)
    assert config.checkpoint is not None
    checkpoint = Path(config.checkpoint)
    return checkpoint.with_name(f"{checkpoint.stem}-ema")


def prepare_folder(config: DistillConfig, *, new: bool, overwrite: bool) -> None:
    """Make the folder of the snapshots of a run, which must hold none of an earlier run.

    new: the run starts at step 0, instead of continuing one whose snapshots are there. overwrite: remove the
    snapshots of an earlier run. Raises FileExistsError where there are such snapshots, without overwrite, and
    NotADirectoryError for a path that is no folder.
    """
    folder = folder_of(config)
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"snapshot_folder must be a folder, given the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    earlier = snapshots_in(folder) if new else []
    if earlier and not overwrite:
        raise FileExistsError(
            f"{folder} holds {len(earlier)} snapshots of an earlier run, such as {earlier[-1].name}: continue "
            "that run with resume_from, give another snapshot_folder, or pass overwrite=True"
        )
    for path in earlier:
        # another rank may have removed it
        path.unlink(missing_ok=True)


def snapshots_in(folder: Path) -> list[Path]:
    """Return the snapshots in a folder, sorted by name and so by step."""
    files = (path for path in sorted(folder.glob("*.safetensors")) if path.is_file())
    return [path for path in files if kind_of(path) == EMA_SNAPSHOT]


class Snapshots:
    """The writer of the snapshots of a run, which does nothing for a run without profiles.

    speaks: this rank writes, while the others only give their shares of sharded averages.
    """

    def __init__(self, state: RunState, speaks: bool = True) -> None:
        self.state, self.folder, self.speaks = state, folder_of(state.config), speaks
        self.failed = False

    def due(self, done: int) -> bool:
        """Return whether snapshots are written after this number of steps."""
        config = self.state.config
        last = done == config.steps
        return self.folder is not None and (last or done % config.snapshot_every == 0)

    def write(self) -> None:
        """Write one file for each average. The first failure warns, and the run goes on. All ranks must call."""
        state, names = self.state, [*self.state.trained]
        student = state.student.state_dict()
        rest = {name: tensor for name, tensor in student.items() if name not in state.trained}
        rest = self._whole(rest)
        for index, group in enumerate(state.profiles.groups(names).values()):
            average = self._whole(group)
            if not self.speaks:
                continue
            try:
                self._write(index, average, rest)
            except OSError as error:
                self._warn(error)

    def _whole(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors, on the first rank alone where each rank holds a share of them."""
        sharding = self.state.sharding
        return named if sharding is None else sharding.whole(named)

    def _warn(self, error: OSError) -> None:
        if not self.failed:
            warnings.warn(
                f"the snapshots of step {self.state.step} could not be written to {self.folder} ({error}): the "
                "run goes on",
                RuntimeWarning,
                stacklevel=7,
            )
        self.failed = True

    def _write(self, index: int, average: dict[str, Tensor], rest: dict[str, Tensor]) -> None:
        assert self.folder is not None
        state, width = self.state, self.state.profiles.widths[index]
        tensors = {f"average.{name}": tensor for name, tensor in average.items()}
        tensors |= {f"rest.{name}": tensor for name, tensor in rest.items()}
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "step": state.step,
            "sigma_rel": width,
            "gamma": state.profiles.gammas[index],
            "run": state.identity(),
        }
        path = self.folder / f"step-{state.step:09d}-{width!r}.safetensors"
        write_tensors(path, tensors, metadata, kind=EMA_SNAPSHOT, overwrite=True)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a snapshot, without its tensors. Raises ValueError for another file."""
    return _checked(path, read_metadata(path))


def read_snapshot(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Return (average, rest, metadata) of a snapshot. Raises ValueError for another or a corrupt file."""
    tensors, metadata = read_tensors(path)
    _checked(path, metadata)
    groups: dict[str, dict[str, Tensor]] = {"average": {}, "rest": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        if group not in groups or not name:
            raise ValueError(f"{path} is corrupt: a snapshot holds no tensor {key}")
        groups[group][name] = tensor
    return groups["average"], groups["rest"], metadata


def _checked(path: str | os.PathLike[str], metadata: dict[str, Any]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        contents = f"{metadata.get('format')!r} version {metadata.get('version')}"
        raise ValueError(f"{path} holds {contents}, not {FORMAT!r} version {VERSION}")
    step, gamma = metadata.get("step"), metadata.get("gamma")
    if type(step) is not int or step < 1 or not isinstance(gamma, float) or not gamma > -1:
        raise ValueError(f"{path} is corrupt: it has the step {step!r} and the gamma {gamma!r}")
    return metadata
