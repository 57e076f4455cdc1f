"""Every error, warning and interrupt of a command is one line on stderr with an exit code, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
import typer
from typer.testing import CliRunner

from edmfast import smc
from edmfast.cli import errors as _errors
from edmfast.cli import sample as _sample
from edmfast.cli.main import app
from edmfast.models import EnergyModel, ResidualMLP, save_model

LEVELS = ["--sigma-max", "5", "--sigma-min", "0.1", "--steps", "8"]


@pytest.fixture
def model(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model"
    save_model(EnergyModel(ResidualMLP(2, width=8, depth=1)), path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def raising(error):
    def fail(*_arguments, **_options):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("two\n  lines"), 2, "two lines"),
        (FileNotFoundError(2, "No such file", "x"), 2, "[Errno 2] No such file: 'x'"),
        (MemoryError(), 2, "out of memory: use fewer particles"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            ),
            2,
            "out of memory: DefaultCPUAllocator",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), 2, "out of memory: CUDA out of"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply: maximum"),
        (OverflowError("int too large"), 2, "int too large"),
        (ZeroDivisionError("division by zero"), 2, "division by zero"),
        (ValueError("a" * 2000), 2, "aaa … aaa"),
        (ValueError("bell \a and \x1b[31m"), 2, "bell � and �[31m"),
        (ValueError(), 2, "ValueError"),
        (KeyError("dim"), 1, "unexpected KeyError: 'dim' (this is a fault of edmfast"),
        (AssertionError(), 1, "unexpected AssertionError"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("kept in c"), 130, "kept in c"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "demo", "info"])
def test_every_error_is_one_line(monkeypatch, tmp_path, command, error, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edmfast.cli.sample.sample_command", raising(error))
    monkeypatch.setattr("edmfast.demo.run.run", raising(error))
    monkeypatch.setattr("edmfast._info.info", raising(error))
    done = run(command)
    assert done.exit_code == code
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"edmfast {command}: ")
    start, _, end = message.partition(" … ")
    assert start in line
    assert end in line
    assert len(line) < 700
    assert not isinstance(done.exception, type(error)) or code == 130


def test_a_traceback_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("EDMFAST_TRACEBACK", "1")
    monkeypatch.setattr("edmfast.cli.sample.sample_command", raising(KeyError("dim")))
    assert isinstance(run("sample").exception, KeyError)


def test_warnings_are_one_line(capsys):
    with _errors.errors_on_one_line("sample"):
        warnings.warn("two\nlines", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "edmfast sample: note: two lines\n"


def test_exit_codes_of_a_command_pass():
    with pytest.raises(typer.Exit), _errors.errors_on_one_line("info"):
        raise typer.Exit(3)


def interrupted_at(step, monkeypatch):
    """Raise KeyboardInterrupt when the run is about to make this step."""
    from edmfast.smc.run import Run

    advance = Run.advance

    def stop(self, state):
        if state.index == step:
            raise KeyboardInterrupt
        advance(self, state)

    monkeypatch.setattr(Run, "advance", stop)


def test_an_interrupted_run_says_how_to_continue(model, monkeypatch, tmp_path):
    options = ["sample", "model", *LEVELS, "--checkpoint", "c"]
    assert run(*options, "--out", "whole").exit_code == 0
    (tmp_path / "c").unlink(missing_ok=True)
    with monkeypatch.context() as patched:
        interrupted_at(3, patched)
        done = run(*options, "--out", "p")
    assert done.exit_code == 130
    assert "--resume c continues it" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "p").exists()
    assert run(*options, "--out", "p", "--resume", "c").exit_code == 0
    assert torch.equal(smc.Particles.load("p").x, smc.Particles.load("whole").x)


def test_an_interrupted_run_without_a_checkpoint_says_that_nothing_is_kept(model, monkeypatch):
    interrupted_at(3, monkeypatch)
    done = run("sample", "model", *LEVELS, "--out", "p")
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1].startswith(
        "edmfast sample: interrupted: nothing was written"
    )
    assert not (model.parent / "p").exists()


def test_an_interrupt_while_writing_says_which_file_is_complete(model, monkeypatch):
    monkeypatch.setattr(_sample, "samples_figure", raising(KeyboardInterrupt()))
    done = run("sample", "model", *LEVELS, "--out", "p", "--png", "p.png")
    assert done.exit_code == 130
    assert "interrupted while writing: p is complete" in done.stderr
    assert smc.Particles.load("p").x.shape == (1, 64, 2)


def test_ctrl_c_in_a_separate_process(model):
    command = [sys.executable, "-m", "edmfast.cli", "sample", "model", *LEVELS]
    command += ["--steps", "100000", "--out", "p", "--checkpoint", "c"]
    # a shell may have started this process with SIGINT ignored, and a child inherits that
    program = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command], stderr=subprocess.PIPE, text=True
    )
    try:
        while not os.path.exists("c") and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume c continues it" in errors.splitlines()[-1]


def test_a_closed_pipe_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "edmfast.cli", "info"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


def test_the_demonstration_refuses_bad_arguments_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        "edmfast.demo.run.load_smooth_digits", raising(AssertionError("work was done"))
    )
    done = run("demo", "--out", tmp_path / "file")
    assert done.exit_code == 2
    assert "file: it is not a folder" in done.stderr
    done = run("demo", "--out", tmp_path / "file" / "below")
    assert done.exit_code == 2
    for seed in ("-1", str(2**64)):
        done = run("demo", "--out", tmp_path / "out", "--seed", seed)
        assert done.exit_code == 2
        assert "seed must be an integer from 0" in done.stderr
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = run("demo", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "cannot write to the folder" in done.stderr
    monkeypatch.undo()
    monkeypatch.setattr(
        "edmfast.demo.run.load_smooth_digits", raising(AssertionError("work was done"))
    )
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("demo", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "pip install 'edmfast[demo]'" in done.stderr


def test_an_interrupted_training_names_the_option_that_continues_it(capsys):
    said = "interrupted at step 3: continue with resume_from='runs/i/run.safetensors'"
    with pytest.raises(typer.Exit), _errors.errors_on_one_line("distill"):
        raise KeyboardInterrupt(said)
    line = "edmfast distill: interrupted at step 3: --resume continues the run\n"
    assert capsys.readouterr().err == line
