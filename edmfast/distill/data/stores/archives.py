"""The two places of image sets: a folder and a `.zip` file. Nothing is extracted."""

from __future__ import annotations

import abc
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO

IMAGES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
SUFFIXES = IMAGES | {".npy"}
"""The files that are samples: images, and single arrays."""
LABEL_FILE = "dataset.json"
_LARGEST = 1 << 29
"""The largest size of one file in bytes. A compressed entry that is larger is more likely an attack."""


class Archive(abc.ABC):
    """A set of named files.

    Attributes:
        where: its path, for error messages.
        names: the names of the samples, sorted, with slashes between folders.
        sizes: their sizes in bytes.
        checks: their checksums, where the archive has them.
    """

    where: str
    names: list[str]
    sizes: list[int]
    checks: list[int] | None = None

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file. Threads may call this at once."""

    @abc.abstractmethod
    def start(self, name: str) -> IO[bytes]:
        """Return an open file, of which the first bytes can be read without the rest."""

    @abc.abstractmethod
    def label_file(self) -> bytes | None:
        """Return the content of `dataset.json`, or None where there is none."""

    def path_of(self, name: str) -> str:
        """Return how error messages call a file."""
        return f"{self.where}: {name}"


class Folder(Archive):
    """The images in a folder and the folders in it. Hidden files and folders are left out."""

    def __init__(self, path: Path) -> None:
        self.where, self._path = str(path), path
        found: list[tuple[str, int]] = []
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in files:
                if _is_sample(name):
                    file = Path(folder) / name
                    found.append((file.relative_to(path).as_posix(), file.stat().st_size))
        self.names, self.sizes = _sorted(found, self.where)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self._path / name).read_bytes()

    def start(self, name: str) -> IO[bytes]:
        """Return an open file."""
        return (self._path / name).open("rb")

    def label_file(self) -> bytes | None:
        """Return the content of `dataset.json`, or None where there is none."""
        path = self._path / LABEL_FILE
        return path.read_bytes() if path.is_file() else None


class Zip(Archive):
    """The images in a `.zip` file. Hidden entries are left out.

    Raises ValueError for a file that is no zip file, and for entries that are encrypted, larger than 512 MiB,
    there twice, or named by an absolute path or by "..".
    """

    def __init__(self, path: Path) -> None:
        self.where, found = str(path), []
        try:
            self._zip = zipfile.ZipFile(path)
            self._entries: dict[str, zipfile.ZipInfo] = {}
            for info in self._zip.infolist():
                name = info.filename
                if info.is_dir() or not (_is_sample(name) or name == LABEL_FILE):
                    continue
                self._check(info)
                self._entries[name] = info
                if name != LABEL_FILE:
                    found.append((name, info.file_size))
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise ValueError(f"{path} is not a readable .zip file: {error}") from error
        self.names, self.sizes = _sorted(found, self.where)
        self.checks = [self._entries[name].CRC for name in self.names]

    def read(self, name: str) -> bytes:
        """Return the content of an entry, whose checksum is verified."""
        with self.start(name) as file:
            try:
                return file.read()
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                raise ValueError(f"{self.path_of(name)} cannot be read: {error}") from error

    def start(self, name: str) -> IO[bytes]:
        """Return an open entry."""
        try:
            return self._zip.open(self._entries[name])
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{self.path_of(name)} cannot be read: {error}") from error

    def label_file(self) -> bytes | None:
        """Return the content of `dataset.json`, or None where there is none."""
        return self.read(LABEL_FILE) if LABEL_FILE in self._entries else None

    def _check(self, info: zipfile.ZipInfo) -> None:
        where, name = self.path_of(repr(info.filename)), info.filename
        # nothing is extracted, but a file with such names was not made by an honest program
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise ValueError(f"{where} is named outside of the file: refused")
        if name in self._entries:
            raise ValueError(f"{where} is in the file twice")
        if info.flag_bits & 1:
            raise ValueError(f"{where} is encrypted")
        if info.file_size > _LARGEST:
            raise ValueError(
                f"{where} has {info.file_size} bytes, more than the {_LARGEST} that one file may have"
            )


def _is_sample(name: str) -> bool:
    parts = name.split("/")
    # some systems add hidden copies of every file
    hidden = (
        any(part.startswith(".") and not part.startswith("..") for part in parts)
        or parts[0] == "__MACOSX"
    )
    return not hidden and Path(parts[-1]).suffix.lower() in SUFFIXES


def _sorted(found: list[tuple[str, int]], where: str) -> tuple[list[str], list[int]]:
    if not found:
        raise ValueError(
            f"{where} has no image: accepted are files that end with {', '.join(sorted(SUFFIXES))}"
        )
    found.sort()
    return [name for name, _ in found], [size for _, size in found]
