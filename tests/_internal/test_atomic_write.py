"""Files are written whole or not at all, unsuitable paths are refused, and nothing is left behind."""

import os
import socket
import stat
import subprocess
import sys

import pytest

from edmfast import analytic, smc
from edmfast._internal.atomic_write import (
    check_distinct,
    check_output,
    replacing,
    write_or_fall_back,
)
from edmfast.models import EnergyModel, ResidualMLP, save_model
from edmfast.targets import Offsets

MODEL = EnergyModel(ResidualMLP(2, width=8, depth=1))
MIXTURE = analytic.GaussianMixture(means=[[0.0, 0.0]], stds=[1.0])
PARTICLES = smc.sample(MIXTURE, (2,), [5.0, 1.0], particles=4)
WRITERS = {
    "model": lambda path, **options: save_model(MODEL, path, **options),
    "particles": PARTICLES.save,
    "calibration": smc.Calibration((2.0, 1.0), (0.5,), (0.1,)).save,
    "offsets": Offsets((2.0, 1.0), ((0.0, 0.0), (0.0, 0.0))).save,
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_of_the_same_kind_is_replaced(write, tmp_path):
    for _ in range(2):
        write(tmp_path / "file")
        assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_another_kind_is_kept(write, kind, tmp_path):
    path = tmp_path / "file"
    WRITERS[kind](path)
    before = path.read_bytes()
    if WRITERS[kind] is write:
        return
    with pytest.raises(FileExistsError, match="overwrite"):
        write(path)
    assert path.read_bytes() == before
    write(path, overwrite=True)
    assert path.read_bytes() != before
    assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b"my notes", b"{}", b'{"edmfast": 3}', b"[" * 100_000])
def test_a_file_of_another_program_is_kept(write, content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match="edmfast did not write"):
        write(path)
    assert path.read_bytes() == content
    assert entries(tmp_path) == ["notes.txt"]


def test_an_empty_file_may_be_filled(write, tmp_path):
    (tmp_path / "file").touch()
    write(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size > 0


def test_a_link_to_a_file_is_followed(write, tmp_path):
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_size > 0
    assert entries(tmp_path) == ["link", "real"]


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


SPECIAL = {
    "folder": (lambda path: path.mkdir(), "a folder"),
    "link to a folder": (lambda path: path.symlink_to(path.parent), "a folder"),
    "broken link": (lambda path: path.symlink_to(path.parent / "none"), "does not exist"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot write"),
    "fifo": (make_fifo, "a FIFO"),
    "socket": (make_socket, "a socket"),
    "link to a device": (lambda path: path.symlink_to("/dev/null"), "a device"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_anything_but_a_regular_file_is_refused(write, kind, tmp_path, monkeypatch):
    make, message = SPECIAL[kind]
    monkeypatch.chdir(tmp_path)  # The system limits the length of a socket's name.
    place = tmp_path / "place"
    make(place.relative_to(tmp_path) if kind == "socket" else place)
    before = stat.S_IFMT(os.lstat(place).st_mode)
    with pytest.raises((ValueError, OSError), match=message):
        write(place)
    assert stat.S_IFMT(os.lstat(place).st_mode) == before
    assert entries(tmp_path) == ["place"]


def test_devices_stay_devices(write):
    with pytest.raises(ValueError, match="a device"):
        write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("name", ["none/file", "x" * 300, "file/below"])
def test_impossible_paths_are_refused(write, name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write"):
        write(tmp_path / name)
    assert entries(tmp_path) == ["file"]


def test_the_longest_possible_name_is_accepted(write, tmp_path):
    write(tmp_path / ("x" * 255))
    write(tmp_path / ("é" * 127))


def test_a_file_that_may_not_be_changed_is_kept(write, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch(mode=0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # The superuser may change every file.
    with pytest.raises(PermissionError, match="may not be changed"):
        write(path)


def test_a_folder_without_write_access_is_refused_before_the_work():
    with pytest.raises(OSError, match="cannot write checkpoint"):
        check_output("/proc/run", "model", name="checkpoint")


def test_permissions_are_those_of_the_old_file(write, tmp_path):
    path = tmp_path / "file"
    write(path)
    path.chmod(0o600)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_inputs_are_never_outputs(tmp_path):
    save_model(MODEL, tmp_path / "model")
    (tmp_path / "link").symlink_to("model")
    for path in ("model", "link", "../" + tmp_path.name + "/model"):
        with pytest.raises(ValueError, match=r"out .* is a file that this call reads"):
            check_output(
                tmp_path / path, "model", name="out", inputs=[tmp_path / "model"], overwrite=True
            )


def test_two_outputs_are_two_files(tmp_path):
    check_distinct(out=tmp_path / "a", png=tmp_path / "b", calibration=None)
    with pytest.raises(ValueError, match="out and png are one file"):
        check_distinct(out=tmp_path / "a", png=tmp_path / "." / "a")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises((OSError, KeyboardInterrupt)), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["file"]


def test_a_disk_that_fills_on_flushing_is_noticed(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(MODEL, tmp_path / "model")
    assert entries(tmp_path) == []


SIZE_LIMITED = """
import resource, signal, sys, torch
from edmfast._internal.files import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    write_tensors(sys.argv[1], {"a": torch.zeros(1 << 16)}, {}, kind="model")
except OSError as error:
    print("refused", error)
"""


def test_a_file_that_the_system_cuts_off_is_an_os_error(tmp_path):
    path = tmp_path / "model"
    process = subprocess.run(
        [sys.executable, "-c", SIZE_LIMITED, str(path)], capture_output=True, text=True, check=False
    )
    assert "refused" in process.stdout, process.stderr
    assert entries(tmp_path) == []


def test_a_fallback_is_written_where_the_first_place_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def write(path):
        if path.name == "out":
            raise OSError("full")
        path.write_text("kept")

    path, failure = write_or_fall_back(write, tmp_path / "none" / "out")
    assert path.parent == tmp_path
    assert path.read_text() == "kept"
    assert str(failure) == "full"

    def never(path):
        raise OSError(f"full at {path.name}")

    with pytest.raises(OSError, match="full at out"):
        write_or_fall_back(never, tmp_path / "out")


def test_plots_are_checked_before_they_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    save_model(MODEL, tmp_path / "model.png")
    with pytest.raises(FileExistsError, match="holds a model"):
        PARTICLES.plot(tmp_path / "model.png")
    for name in ("a.png", "a.pdf", "a.svg", "a"):
        for _ in range(2):
            PARTICLES.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
