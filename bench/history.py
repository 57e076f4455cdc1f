"""`python -m bench.history bench.json FOLDER`: files a measurement as <device>/<date>-<commit>.json.

That is how `bench/results` and the branch bench-history keep them. Exit status: 0 filed, 2 bad usage,
which includes a measurement of a tree with changes: nobody could repeat it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Copies the file and prints where to."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("file", type=Path, help="of bench.run --json")
    parser.add_argument("folder", type=Path, help="made where it is absent")
    options = parser.parse_args(arguments)
    try:
        header = json.loads(options.file.read_text())
        place = machine.folder(header["device"], header["device_name"])
        name = f"{header['date'][:10]}-{header['commit']}.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.file} is no file of bench.run: {error}")
    if header["commit"] == "unknown" or header["commit"].endswith("-dirty"):
        parser.error(f"{options.file} is of no commit but of {header['commit']!r}")
    path = options.folder / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.file, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
