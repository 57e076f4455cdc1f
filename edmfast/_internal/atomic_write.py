"""Atomic writing of files, the one way in which edmfast writes: checked before any work, replaced as a whole.

A path may name a regular file or nothing yet. A symbolic link to a regular file is followed, and the file behind
it is replaced. Directories, devices, FIFOs, sockets and broken links are refused. A file of the same kind is
replaced. A file of another kind is replaced only with overwrite=True, and a file that the same call reads is never
replaced.
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

PathLike = str | os.PathLike[str]
Wording = Callable[[str], str]
"""A function from arguments, such as "overwrite=True", to the words with which a caller writes them."""

_SPECIAL = {
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def check_output(
    path: PathLike,
    kind: str,
    *,
    name: str = "path",
    inputs: Iterable[PathLike] = (),
    overwrite: bool | None = False,
    wording: Wording = str,
) -> Path:
    """Return the path of the regular file that a call may write, with links followed.

    kind: the kind of the file to be written, see `edmfast._internal.file_kinds`. name: the name of the
    argument in error messages. inputs: files that the same call reads. overwrite: allow a file of another kind to
    be replaced; None where the caller has no such argument. wording: how error messages write that argument.

    A file is created in the folder and removed again, because that shows more reliably than permissions whether
    files can be created there. Nothing else is changed. Raises FileNotFoundError without a folder,
    IsADirectoryError for a directory, FileExistsError for a file of another kind, PermissionError or OSError where
    nothing can be written, and ValueError for devices, FIFOs, sockets, broken links and files among the inputs.
    """
    requested = Path(os.fspath(path))
    resolved = _resolved(requested, name)
    for input_path in inputs:
        if _same_file(resolved, Path(os.fspath(input_path))):
            raise ValueError(
                f"{name} {requested} is a file that this call reads: give another path"
            )
    if resolved.exists():
        _check_kind(resolved, requested, kind, name, overwrite, wording)
    with _temporary(resolved, name):
        pass
    return resolved


def check_checkpoint(
    path: PathLike,
    kind: str,
    resume: PathLike | None,
    *,
    resume_name: str,
    overwrite: bool,
    wording: Wording = str,
) -> Path:
    """Return the path to which a run may write its checkpoints, see `check_output`.

    An existing checkpoint must be the one that the run resumes from, or overwrite must be true, because a new run
    would destroy the work of an earlier one. resume_name: the name of the argument `resume` in error
    messages. wording: how they write both arguments. Raises FileExistsError for such a checkpoint, and as
    `check_output` does.
    """
    resolved = check_output(path, kind, name="checkpoint", overwrite=overwrite, wording=wording)
    is_resumed = resume is not None and _same_file(resolved, Path(os.fspath(resume)))
    if resolved.exists() and not (overwrite or is_resumed) and kind_of(resolved) == kind:
        raise FileExistsError(
            f"{path} is the checkpoint of an earlier run, which this run would replace: continue that run with "
            f"{wording(f'{resume_name}={str(path)!r}')}, give another path, or pass "
            f"{wording('overwrite=True')}"
        )
    return resolved


def check_distinct(**paths: PathLike | None) -> None:
    """Raise ValueError where two of the named outputs are the same file."""
    seen: dict[str, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        # Two names may lead to one file by links.
        place = os.path.realpath(path)
        if place in seen:
            raise ValueError(f"{seen[place]} and {name} are one file, {path}: give two paths")
        seen[place] = name


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield the path of an empty file to write. At the end of the block it replaces the file `path`.

    File and folder are flushed to the disk, so that a crash leaves the old file or the new one. The new file has
    the permissions of the old one, or those that the umask gives. Where the block raises, the old file stays and
    nothing else is left. The path is checked as by `check_output`, except for its kind.
    """
    resolved = _resolved(Path(os.fspath(path)), "path")
    with _temporary(resolved, "path") as temporary:
        # The mode is taken before the block, which may put another file in the place of the
        # temporary one.
        mode = (resolved if resolved.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(stat.S_IMODE(mode))
        # Without the flush a crash could leave the new name with no content.
        _flush(temporary)
        os.replace(temporary, resolved)
        # Some file systems cannot flush a folder.
        with contextlib.suppress(OSError):
            _flush(resolved.parent)


def write_or_fall_back(write: Callable[[Path], None], path: Path) -> tuple[Path, OSError | None]:
    """Call write(path), or write(a path in the folder for temporary files) where that fails.

    Returns (the path that was written, the error of the first attempt or None). Raises that error where both fail.
    """
    try:
        write(path)
    except OSError as error:
        # The end of a name holds its suffix, and the random digits keep two runs apart.
        fallback = Path(tempfile.gettempdir()) / f"edmfast-{secrets.token_hex(4)}-{path.name[-60:]}"
        try:
            write(fallback)
        # The first error tells of the path that the caller named.
        except OSError:
            raise error from None
        return fallback, error
    return path, None


def _resolved(requested: Path, name: str) -> Path:
    """Return the path with links followed. Raises unless it names a regular file or nothing."""
    try:
        mode = os.stat(requested).st_mode if os.path.lexists(requested) else None
    except FileNotFoundError as error:
        raise ValueError(f"{name} {requested} is a link to a file that does not exist") from error
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {name}: {error.strerror}", str(requested)
        ) from error
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(
            f"cannot write {requested}: it is a folder, and {name} must name a file"
        )
    for is_special, description in _SPECIAL.items():
        if mode is not None and is_special(mode):
            raise ValueError(
                f"cannot write {requested}: it is {description}, and {name} must name a regular file"
            )
    resolved = Path(os.path.realpath(requested))
    if not resolved.parent.is_dir():
        raise FileNotFoundError(f"cannot write {requested}: there is no folder {resolved.parent}")
    if mode is None:
        _check_name(resolved, name)
    elif not os.access(resolved, os.W_OK):
        raise PermissionError(f"cannot write {requested}: it may not be changed")
    return resolved


def _check_name(path: Path, name: str) -> None:
    """Raise OSError where the file system does not accept the file's name, for example because it is too long."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        shown = path.name if len(path.name) < 80 else f"{path.name[:60]}…"
        raise OSError(error.errno, f"cannot write {name}: {error.strerror}", shown) from error


def _check_kind(
    resolved: Path,
    requested: Path,
    kind: str,
    name: str,
    overwrite: bool | None,
    wording: Wording,
) -> None:
    existing = kind_of(resolved)
    # An empty file holds no work that could be lost.
    if existing not in (kind, EMPTY) and not overwrite:
        article = "an" if existing[0] in "aeiou" else "a"
        advice = "" if overwrite is None else f", or pass {wording('overwrite=True')}"
        raise FileExistsError(
            f"{name} {requested} holds {article} {existing}, which a {kind} would replace: give another path"
            f"{advice}"
        )


def _same_file(resolved: Path, other: Path) -> bool:
    # samefile also finds hard links and file systems that ignore case, but needs both files.
    if resolved.exists() and other.exists():
        return os.path.samefile(resolved, other)
    return str(resolved) == os.path.realpath(other)


@contextlib.contextmanager
def _temporary(resolved: Path, name: str) -> Iterator[Path]:
    """Yield a new empty file in the folder of `resolved`, and remove it if it still exists at the end."""
    # The name is cut, so that the addition does not make it too long.
    start = os.fsdecode(os.fsencode(resolved.name)[:200])
    # Only within one folder, and so one file system, is replacing atomic.
    temporary = resolved.with_name(f".{start}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write {name} {resolved}: {error.strerror}", str(resolved.parent)
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
