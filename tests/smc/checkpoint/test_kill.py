"""Test that another process resumes a run that was killed without warning, and ends in the same bits."""

import dataclasses
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from edmfast._internal.files import read_tensors
from tests.smc.checkpoint.killed_run import SECONDS_PER_STEP, STEPS, run

ROOT = Path(__file__).parents[3]


def start(path, *arguments):
    command = [
        sys.executable,
        "-m",
        "tests.smc.checkpoint.killed_run",
        str(path),
        *map(str, arguments),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_after(path, step, delay):
    """Kill a run some time after it prints a step; it may be anywhere inside the next steps."""
    child = start(path)
    for line in child.stdout:
        if int(line) == step:
            time.sleep(delay)
            break
    child.kill()
    return child.wait(timeout=60)


def die_inside(path, where, call):
    return start(path, where, call).wait(timeout=60)


def different(result, expected):
    """Return the names of the fields that do not have the same bits."""
    names = [field.name for field in dataclasses.fields(expected)]
    pairs = {name: (getattr(result, name), getattr(expected, name)) for name in names}
    return [
        name
        for name, (a, b) in pairs.items()
        if not (torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b)
    ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return {path: (what was done, exit status)} of runs killed side by side, since importing torch takes
    seconds.
    """
    folder, seed = tmp_path_factory.mktemp("killed"), random.SystemRandom().getrandbits(32)
    draw = random.Random(seed)
    jobs = {}
    for k in range(3):
        step, delay = draw.randint(1, STEPS - 8), draw.uniform(0, 4 * SECONDS_PER_STEP)
        description = f"killed {delay:.4f} s after step {step} (seed {seed})"
        jobs[folder / f"outside{k}" / "run"] = (description, kill_after, (step, delay))
    for where in ("half", "whole"):
        call = draw.randint(2, STEPS - 1)
        description = f"killed with {where} of checkpoint {call} written (seed {seed})"
        jobs[folder / where / "run"] = (description, die_inside, (where, call))
    for path in jobs:
        path.parent.mkdir()
    with ThreadPoolExecutor(2) as pool:
        futures = {
            path: pool.submit(kill, path, *arguments) for path, (_, kill, arguments) in jobs.items()
        }
    return {path: (jobs[path][0], future.result()) for path, future in futures.items()}


@pytest.fixture(scope="module")
def whole():
    return run()


def test_every_killed_run_goes_on_to_the_same_bits(killed, whole):
    assert (
        int(whole.resampled.sum(0).min()) >= 2
    )  # The run resamples, so its weights have a history.
    for path, (description, status) in killed.items():
        assert status == -signal.SIGKILL, description
        tensors, about = read_tensors(path)
        assert 1 <= about["index"] < STEPS, description
        assert tensors["x"].shape == (3, 40, 2), description
        assert different(run(resume_from=path), whole) == [], (
            f"{description}, resumed at {about['index']}"
        )


def test_a_kill_inside_a_write_leaves_the_checkpoint_before(killed):
    for path, (description, _) in killed.items():
        if "written" in description:
            call = int(description.split("checkpoint ")[1].split()[0])
            assert read_tensors(path)[1]["index"] == call - 1, description
            # The unfinished file lies beside it, under a temporary name that no reader opens.
            (rest,) = (p for p in path.parent.iterdir() if p != path)
            assert rest.name.startswith(".run.")
            assert rest.name.endswith(".part")
