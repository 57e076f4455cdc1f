"""Read the files under results/, and find the newest of each kind on a device.

A full run is `<date>-<commit>.json`. Other names begin with their kind: `scaling-`, `control-`, `targets-`,
`learned-`, `fokker-planck-`, `kernels-`, `startup-` (installing), `training-` and `sampler-` (some cases),
`repeats-` (the ratios of several full runs), `gpu-check-`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness import machine

RESULTS = machine.ROOT / "bench" / "results"
RUN = "run"
_NAME = re.compile(r"(?:(?P<kind>[a-z-]+?)-)?(?P<date>\d{4}-\d\d-\d\d)-(?P<commit>[0-9a-z-]+)")


class Record(NamedTuple):
    """A file of results. date: as in its name. content: the parsed JSON."""

    path: Path
    device: str
    kind: str
    date: str
    commit: str
    content: dict[str, Any]

    @property
    def order(self) -> tuple[str, str, str]:
        """A sort key that grows with time; runs of one day are ordered by the hour of their start."""
        return self.date, str(self.content.get("date", "")), self.commit


def load(folder: Path = RESULTS) -> list[Record]:
    """Return all records, oldest first.

    Raises:
        ValueError: the name of a file does not give kind, date and commit.
    """
    loaded = []
    for path in sorted(folder.glob("*/*.json")):
        named = _NAME.fullmatch(path.stem)
        if named is None:
            raise ValueError(f"{path}: expected [kind-]YYYY-MM-DD-commit.json")
        loaded.append(
            Record(
                path=path,
                device=path.parent.name,
                kind=named["kind"] or RUN,
                date=named["date"],
                commit=named["commit"],
                content=json.loads(path.read_text()),
            )
        )
    return sorted(loaded, key=lambda record: record.order)


def is_full(record: Record) -> bool:
    """Return True for a finished, full-length run of all cases, at a commit without changes."""
    partial = any(record.content.get(key) for key in ("only", "left_out"))
    return record.kind == RUN and _counts(record) and not partial


def _counts(record: Record) -> bool:
    """Return True for a finished, full-length run at a commit without changes."""
    ended = record.content.get("complete", True)  # older files do not say
    # nobody can repeat a measurement of a tree with changes
    return ended and not record.content.get("quick") and "dirty" not in record.commit


def newest(records: list[Record], kind: str) -> dict[str, Record]:
    """Return the newest record of a kind on each device, among those that count."""
    return {record.device: record for record in records if record.kind == kind and _counts(record)}


def beside(shown: Record, records: list[Record], kind: str) -> Record | None:
    """Return the newest record of a kind to show beside a full run: of its device, or else of any device of
    the same type."""
    newest_of = newest(records, kind)
    device_type = shown.device.split("-")[0]
    same = [record for device, record in newest_of.items() if device.split("-")[0] == device_type]
    return newest_of.get(shown.device) or max(same, key=lambda record: record.order, default=None)
