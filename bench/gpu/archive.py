"""Keep what a check has found in two files, rewritten after every stage: summary.json and results.tar.gz.

Both appear whole or not at all, so that an interrupted check leaves what it had.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu import listed
from bench.gpu.stages import Outcome

SUMMARY, ARCHIVE = "summary.json", "results.tar.gz"
EARLIER = "earlier-"
MOST_BYTES = 2 * 2**20
"""The largest part of a file that the archive takes: the end of it."""


class Archive:
    """The results of a check in `folder`, from the files in `work`.

    Files of an earlier check in the folder get the prefix EARLIER. facts: where the check runs.
    """

    def __init__(self, folder: Path, work: Path, facts: dict[str, Any]) -> None:
        self.folder, self.work, self.facts = folder, work, facts
        self.start = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SUMMARY, ARCHIVE):
            if (folder / name).exists():
                os.replace(folder / name, folder / f"{EARLIER}{name}")

    def summary(self, outcomes: Sequence[Outcome], complete: bool) -> dict[str, Any]:
        """Return the content of summary.json."""
        return {
            "kind": "gpu-check",
            **self.facts,
            "complete": complete,
            "seconds": round(time.monotonic() - self.start, 1),
            "stages": [outcome._asdict() for outcome in outcomes],
            "failures": [outcome.name for outcome in outcomes if outcome.bad],
            "results": {
                path.stem: list(listed.records(path).values())
                for path in sorted(self.work.glob("*.jsonl"))
            },
        }

    def keep(self, outcomes: Sequence[Outcome], complete: bool = False) -> dict[str, Any]:
        """Rewrite both files, and return the summary."""
        content = self.summary(outcomes, complete)
        text = json.dumps(content, indent=1, default=str) + "\n"
        with _replacing(self.folder / SUMMARY) as temporary:
            temporary.write_text(text)
        with (
            _replacing(self.folder / ARCHIVE) as temporary,
            tarfile.open(temporary, "w:gz", compresslevel=5) as archive,
        ):
            _add(archive, SUMMARY, text.encode())
            for path in sorted(self.work.rglob("*")):
                if path.is_file():
                    with contextlib.suppress(FileNotFoundError):  # a stage may remove its own files
                        _add(archive, str(path.relative_to(self.work)), _end_of(path))
        return content


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MOST_BYTES))
        return file.read()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(content), int(time.time())
    archive.addfile(entry, io.BytesIO(content))


@contextlib.contextmanager
def _replacing(path: Path) -> Any:
    """Give a temporary path, which takes the place of `path` at the end.

    `edmfast._internal.atomic_write` does more, but it imports torch.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
