"""The settings of `edmfast distill`, from a TOML file and from options, which win.

    out = "runs/cifar10"            # the folder of checkpoints, model and records
    device = "cuda"                 # by default a GPU where there is one

    [teacher]                       # path, and other arguments of load_teacher
    path = "edm-cifar10.pkl"

    [data]                          # path, and other arguments of open_data; or samples of the teacher:
    path = "cifar10.zip"            # generate = 50000, shape = [3, 32, 32], nfe = 35
    flip = true

    [student]                       # kind, start, potential, sigma_data, network and fit_samples
    start = "weights"

    [student.config]                # the arguments of the student's network, where network is given

    [train]                         # the fields of DistillConfig but for checkpoint
    steps = 100000

    [log]                           # json, tensorboard (a folder), wandb (a table: arguments of wandb.init)
    json = true

`teacher = "…"` and `data = "…"` are short for a table that has only a path. Paths start at the working folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edmfast._internal.json_text import parse_json
from edmfast.distill import DistillConfig

SETTINGS = "settings.json"
"""The file of the settings in the folder of a run."""
KINDS = ("energy", "denoiser", "two_heads")
_OF_TEACHER = ("path", "network", "config", "sigma_data", "key", "dtype", "condition_names")
_OF_DATA: tuple[str, ...] = (
    "path",
    "labels",
    "flip",
    "keys",
    "channels_last",
    "scale",
    "mean",
    "std",
)
_OF_DATA += ("keep_in_memory", "workers", "generate", "shape", "nfe", "batch_size")
_OF_STUDENT = ("kind", "start", "potential", "sigma_data", "network", "config", "fit_samples")
_OF_TRAINING = tuple(
    field.name for field in dataclasses.fields(DistillConfig) if field.name != "checkpoint"
)
_OF_LOG = ("json", "tensorboard", "wandb")
_SECTIONS = {
    "teacher": _OF_TEACHER,
    "data": _OF_DATA,
    "student": _OF_STUDENT,
    "train": _OF_TRAINING,
    "log": _OF_LOG,
}
_TABLES = {"teacher": ("config", "condition_names"), "student": ("config",), "log": ("wandb",)}
"""The settings that are tables, whose entries have names of three parts."""
_TOP = ("out", "device", *_SECTIONS)
_TEXT, _TABLE, _SWITCH = (str, Path), (dict,), (bool,)
_TYPES: dict[str, tuple[type, ...]] = {
    "out": _TEXT,
    "teacher.path": _TEXT,
    "teacher.network": _TEXT,
    "teacher.config": (*_TEXT, *_TABLE),
    "teacher.dtype": _TEXT,
    "teacher.condition_names": _TABLE,
    "data.path": _TEXT,
    "data.shape": (list,),
    "student.kind": _TEXT,
    "student.start": _TEXT,
    "student.potential": _TEXT,
    "student.network": _TEXT,
    "student.config": _TABLE,
    "log.json": _SWITCH,
    "log.tensorboard": (*_SWITCH, *_TEXT),
    "log.wandb": (*_SWITCH, *_TABLE),
}
"""The types of settings that are not numbers, since a file can hold anything in their place."""
_WORDS = {str: "a text", dict: "a table", bool: "true or false", list: "a list"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run: one dictionary for each section, with the names of the settings that were given."""

    out: Path
    device: str | None
    teacher: dict[str, Any]
    data: dict[str, Any]
    student: dict[str, Any]
    train: dict[str, Any]
    log: dict[str, Any]

    def text(self) -> str:
        """Return the settings as one JSON text, for the folder of the run."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n"


def read_settings(
    file: Path | None, options: Mapping[str, Any], changes: Sequence[str], *, resume: bool = False
) -> Settings:
    """Return the settings of a file with those of the command line over them.

    options: values by dotted names, such as "train.steps"; None is left out. changes: texts NAME=VALUE with such
    names, whose values are those of TOML. Raises ValueError for unknown names, with the nearest known one, for
    values that cannot be read, and where there is no folder for the results.

    resume: start from the settings in the folder of the run, where no file is given.
    """
    if file is None and resume and options.get("out") is not None:
        earlier = Path(options["out"]) / SETTINGS
        file = earlier if earlier.is_file() else None
    table = {} if file is None else _read(file)
    where = "the options" if file is None else str(file)
    for name in ("teacher", "data"):
        if isinstance(table.get(name), str):
            table[name] = {"path": table[name]}
    _check_names(table, _TOP, where, "")
    for section, names in _SECTIONS.items():
        values = table.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"{where}: {section} must be a table, given {values!r}")
        _check_names(values, names, where, f"{section}.")
    given = {name: value for name, value in options.items() if value is not None}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(
                f"--set takes NAME=VALUE, such as train.ema_decay=0.9999, given {change!r}"
            )
        given[name.strip()] = _value(name, text)
    for name, value in given.items():
        _put(table, name, value)
    _check_types(table)
    if not table.get("out"):
        raise ValueError("there is no folder for the results: give --out FOLDER")
    device = table.get("device")
    sections = {name: table[name] for name in _SECTIONS}
    return Settings(Path(table["out"]), None if device is None else str(device), **sections)


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    """Set a value by its dotted name."""
    section, dot, key = name.partition(".")
    if not dot:
        if name in ("teacher", "data"):
            table[name] = {**table[name], "path": value}
            return
        _check_names({name: value}, _TOP, "--set", "")
        if name in _SECTIONS:
            raise ValueError(f"--set {name} names a table: set one of {_names_in(name)}")
        table[name] = value
        return
    if section not in _SECTIONS:
        _check_names({section: value}, tuple(_SECTIONS), "--set", "")
    outer, dot, inner = key.partition(".")
    if dot and outer in _TABLES.get(section, ()):
        inside = table[section].setdefault(outer, {})
        _check_types(table)
        if not isinstance(inside, dict):
            raise ValueError(f"{section}.{outer} must be a table, given {inside!r}")
        inside[inner] = value
        return
    _check_names({key: value}, _SECTIONS[section], "--set", f"{section}.")
    table[section][key] = value


def _names_in(section: str) -> str:
    return ", ".join(f"{section}.{name}" for name in _SECTIONS[section])


def _check_names(values: Mapping[str, Any], known: Sequence[str], where: str, prefix: str) -> None:
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = (
                f", did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(known)}"
            )
            raise ValueError(f"{where} has the unknown setting {prefix}{name}{meant}")


def _check_types(table: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting of another type than the one that it needs."""
    for name, accepted in _TYPES.items():
        section, dot, key = name.partition(".")
        values = table[section] if dot else table
        value = values.get(key if dot else section)
        if value is not None and not isinstance(value, accepted):
            words = " or ".join(_WORDS[kind] for kind in accepted if kind in _WORDS)
            raise ValueError(f"{name} must be {words}, given {value!r}")


def _read(file: Path) -> dict[str, Any]:
    if file.suffix == ".json":
        return parse_json(str(file), file.read_text("utf-8"))
    toml = _toml()
    try:
        table: dict[str, Any] = toml.loads(file.read_text("utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as TOML: {error}") from error
    return table


def _value(name: str, text: str) -> Any:
    """Return a value as TOML writes it; a text that is no such value is itself, so that quotes are not needed."""
    toml = _toml()
    try:
        table = toml.loads(f"value = {text}")
        # a second line would be another setting, and get lost
        if len(table) == 1:
            return table["value"]
        raise ValueError(f"--set {name} has a value of several lines: {text!r}")
    except toml.TOMLDecodeError:
        if "\n" in text or '"' in text:
            raise ValueError(f"--set {name} has a value that cannot be read: {text!r}") from None
        return text.strip()


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    import tomli

    return tomli
