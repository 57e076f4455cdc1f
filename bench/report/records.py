"""The files under results/: which there are, and which of a kind is the newest on a device.

A full run is `<date>-<commit>.json`; everything else has its kind before that: `scaling-`, `control-`,
`targets-`, `kernels-`, `startup-` (of installing), `sampler-` (cases of one name), `gpu-check-`.
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
    """A file of results. date: as in its name; content: the parsed JSON."""

    path: Path
    device: str
    kind: str
    date: str
    commit: str
    content: dict[str, Any]

    @property
    def order(self) -> tuple[str, str, str]:
        """Later ones are newer; runs of one day by the hour they were started at."""
        return self.date, str(self.content.get("date", "")), self.commit


def load(folder: Path = RESULTS) -> list[Record]:
    """All of them, oldest first.

    Raises:
        ValueError: a file's name does not say kind, date and commit.
    """
    found = []
    for path in sorted(folder.glob("*/*.json")):
        named = _NAME.fullmatch(path.stem)
        if named is None:
            raise ValueError(f"{path}: expected [kind-]YYYY-MM-DD-commit.json")
        found.append(
            Record(
                path=path,
                device=path.parent.name,
                kind=named["kind"] or RUN,
                date=named["date"],
                commit=named["commit"],
                content=json.loads(path.read_text()),
            )
        )
    return sorted(found, key=lambda record: record.order)


def is_full(record: Record) -> bool:
    """Whether it is a run of all cases that came to its end, measured at full length, of a commit as it is."""
    partial = any(record.content.get(key) for key in ("only", "left_out"))
    return record.kind == RUN and _counts(record) and not partial


def _counts(record: Record) -> bool:
    """Whether it came to its end, at full length, of a commit as it is."""
    ended = record.content.get("complete", True)  # older ones do not say
    return ended and not record.content.get("quick") and "dirty" not in record.commit


def newest(records: list[Record], kind: str) -> dict[str, Record]:
    """The newest of a kind on each device, of those that count."""
    return {record.device: record for record in records if record.kind == kind and _counts(record)}


def beside(shown: Record, records: list[Record], kind: str) -> Record | None:
    """The newest of a kind to show beside a full run: of its device, else of any of the same type."""
    found = newest(records, kind)
    device_type = shown.device.split("-")[0]
    same = [record for device, record in found.items() if device.split("-")[0] == device_type]
    return found.get(shown.device) or max(same, key=lambda record: record.order, default=None)
