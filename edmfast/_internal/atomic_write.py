"""The one way in which edmfast writes a file: checked before any work, and replaced as a whole.

A path may name a regular file or nothing yet. A symbolic link to a regular file is followed, and the file that it
names is replaced. Directories, devices, FIFOs, sockets and links that lead nowhere are refused. A file of the same
kind is replaced; a file of another kind only where the caller says so, and a file that the same call reads never.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edmfast._internal.file_kinds import EMPTY, kind_of

Path_ = str | os.PathLike[str]

_SPECIAL = {
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def check_output(
    path: Path_,
    kind: str,
    *,
    name: str = "path",
    inputs: Iterable[Path_] = (),
    overwrite: bool = False,
) -> Path:
    """Return the path of the regular file that a call may write, with links followed.

    kind: the kind of the file to be written, see `edmfast._internal.file_kinds`. name: what errors call the
    argument. inputs: files that the same call reads. overwrite: allow a file of another kind to be replaced.

    Nothing is changed, but for a file that is made and removed again in the folder, which tells more surely than
    permissions whether files can be made there. Raises FileNotFoundError without a folder, IsADirectoryError for a
    directory, FileExistsError for a file of another kind, PermissionError or OSError where nothing can be written,
    and ValueError for devices, FIFOs, sockets, links that lead nowhere and files that are inputs.
    """
    given = Path(os.fspath(path))
    found = _resolved(given, name)
    for read in inputs:
        if _same_file(found, Path(os.fspath(read))):
            raise ValueError(f"{name} {given} is a file that this call reads: give another one")
    if found.exists():
        _check_kind(found, given, kind, name, overwrite)
    with _temporary(found, name):
        pass
    return found


def check_checkpoint(
    path: Path_, kind: str, resume: Path_ | None, *, resume_name: str, overwrite: bool
) -> Path:
    """Return where a run may write its checkpoints, see `check_output`.

    A checkpoint that is there already is the one that the run resumes from, or it may be replaced only with
    overwrite: a run that starts anew would lose what another one has done. resume_name: what errors call the
    argument `resume`. Raises FileExistsError for such a checkpoint, and as `check_output` does.
    """
    found = check_output(path, kind, name="checkpoint", overwrite=overwrite)
    resumed = resume is not None and _same_file(found, Path(os.fspath(resume)))
    if found.exists() and not (overwrite or resumed) and kind_of(found) == kind:
        raise FileExistsError(
            f"{path} is the checkpoint of an earlier run, which this run would replace: go on with it by "
            f"{resume_name}={str(path)!r}, give another path, or say overwrite=True"
        )
    return found


def check_distinct(**paths: Path_ | None) -> None:
    """Raise ValueError where two of the named outputs are one file."""
    seen: dict[str, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in seen:
            raise ValueError(f"{seen[place]} and {name} are one file, {path}: give two paths")
        seen[place] = name


@contextlib.contextmanager
def replacing(path: Path_) -> Iterator[Path]:
    """Yield the path of an empty file to write; it takes the place of `path` once the block has ended.

    File and folder are flushed to the disk, so that a crash leaves the old file or the new one. The new file has
    the permissions of the old one, or those that the umask gives. Where the block raises, the old file stays and
    nothing else is left. What `path` names is checked here too.
    """
    found = _resolved(Path(os.fspath(path)), "path")
    with _temporary(found, "path") as temporary:
        mode = (found if found.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(stat.S_IMODE(mode))
        _flush(temporary)
        os.replace(temporary, found)
        with contextlib.suppress(OSError):  # some file systems cannot flush a folder
            _flush(found.parent)


def write_or_fall_back(write: Callable[[Path], None], path: Path) -> tuple[Path, OSError | None]:
    """Call write(path), or write(a path in the folder for temporary files) where that fails.

    Returns the path that was written, and the error of the first try. Raises that error where both fail.
    """
    try:
        write(path)
    except OSError as error:
        fallback = Path(tempfile.gettempdir()) / f"edmfast-{secrets.token_hex(4)}-{path.name[-60:]}"
        try:
            write(fallback)
        except OSError:
            raise error from None
        return fallback, error
    return path, None


def _resolved(given: Path, name: str) -> Path:
    """Return the path behind links. Raises for everything that is neither a regular file nor absent."""
    try:
        mode = os.stat(given).st_mode if os.path.lexists(given) else None
    except FileNotFoundError as error:
        raise ValueError(f"{name} {given} is a link to a file that does not exist") from error
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {name}: {error.strerror}", str(given)
        ) from error
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(f"cannot write {given}: it is a folder, and {name} names a file")
    for is_special, what in _SPECIAL.items():
        if mode is not None and is_special(mode):
            raise ValueError(f"cannot write {given}: it is {what}, and {name} names a regular file")
    found = Path(os.path.realpath(given))
    if not found.parent.is_dir():
        raise FileNotFoundError(f"cannot write {given}: there is no folder {found.parent}")
    if mode is None:
        _check_name(found, name)
    elif not os.access(found, os.W_OK):
        raise PermissionError(f"cannot write {given}: it may not be changed")
    return found


def _check_name(found: Path, name: str) -> None:
    """Raise OSError where the file system takes no such name, for example a very long one."""
    try:
        os.lstat(found)
    except FileNotFoundError:
        return
    except OSError as error:
        shown = found.name if len(found.name) < 80 else f"{found.name[:60]}…"
        raise OSError(error.errno, f"cannot write {name}: {error.strerror}", shown) from error


def _check_kind(found: Path, given: Path, kind: str, name: str, overwrite: bool) -> None:
    there = kind_of(found)
    if there not in (kind, EMPTY) and not overwrite:
        article = "an" if there[0] in "aeiou" else "a"
        raise FileExistsError(
            f"{name} {given} holds {article} {there}, which a {kind} would replace: give another path, or say "
            "overwrite"
        )


def _same_file(found: Path, other: Path) -> bool:
    if found.exists() and other.exists():
        return os.path.samefile(found, other)
    return str(found) == os.path.realpath(other)


@contextlib.contextmanager
def _temporary(found: Path, name: str) -> Iterator[Path]:
    """Yield a new empty file beside `found`, and remove it where it is still there at the end."""
    # cut, so that no name becomes too long by what is added here
    start = os.fsdecode(os.fsencode(found.name)[:200])
    temporary = found.with_name(f".{start}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {name} {found}: {error.strerror}", str(found.parent)
        ) from error
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
