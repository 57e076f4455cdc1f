"""File a measurement as <device>/<date>-<commit>.json: `python -m bench.report.history bench.json FOLDER`.

`bench/results` and the branch bench-history keep files under these names. A measurement that a budget cut short
is filed with the names of the cases that it left out. Exit status: 0 filed, 2 bad usage. Bad usage includes a
measurement of a tree with changes (which nobody could repeat), a quick run, a run of some cases only, and an
unfinished run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.harness import machine
from bench.report.measured import unfinished


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy the file and print its new path."""
    parser = argparse.ArgumentParser(prog="python -m bench.report.history", description=__doc__)
    parser.add_argument("file", type=Path, help="of bench.run --json")
    parser.add_argument("folder", type=Path, help="made where it is absent")
    options = parser.parse_args(arguments)
    try:
        header = json.loads(options.file.read_text())
        place = machine.folder(header["device"], header["device_name"])
        name = f"{header['date'][:10]}-{header['commit']}.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.file} is no file of bench.run: {error}")
    # the hash only, as in the names under bench/results
    if not re.fullmatch("[0-9a-f]+", header["commit"]):
        parser.error(f"{options.file} is of no commit but of {header['commit']!r}")
    if why := _partial(header):
        parser.error(f"{options.file} {why}")
    path = options.folder / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.file, path)
    print(path)
    if header.get("left_out"):
        print(f"its budget left {len(header['left_out'])} cases out", file=sys.stderr)
    return 0


def _partial(header: dict[str, Any]) -> str:
    """Return why a measurement is no record of its commit; empty where it is one."""
    if header.get("quick"):
        return "is a quick look"
    if header.get("only"):
        return f"has only the cases with {header['only']!r} in their names"
    return "is of a bench.run that did not come to its end" if unfinished(header) else ""


if __name__ == "__main__":
    sys.exit(main())
