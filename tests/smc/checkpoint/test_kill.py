"""A run that is killed without warning goes on from its checkpoint, in another process, to the same bits."""

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

ROOT = Path(__file__).parents[2]


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
    """Kills a run some time after it tells of a step, which may be anywhere inside the next ones."""
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
    """Names of the fields that do not have the same bits."""
    names = [field.name for field in dataclasses.fields(expected)]
    pairs = {name: (getattr(result, name), getattr(expected, name)) for name in names}
    return [
        name
        for name, (a, b) in pairs.items()
        if not (torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b)
    ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """{path: (what was done, exit status)} of runs killed side by side: an import of torch takes seconds."""
    folder, seed = tmp_path_factory.mktemp("killed"), random.SystemRandom().getrandbits(32)
    draw = random.Random(seed)
    jobs = {}
    for k in range(3):
        step, delay = draw.randint(1, STEPS - 8), draw.uniform(0, 4 * SECONDS_PER_STEP)
        told = f"killed {delay:.4f} s after step {step} (seed {seed})"
        jobs[folder / f"outside{k}" / "run"] = (told, kill_after, (step, delay))
    for where in ("half", "whole"):
        call = draw.randint(2, STEPS - 1)
        told = f"killed with {where} of checkpoint {call} written (seed {seed})"
        jobs[folder / where / "run"] = (told, die_inside, (where, call))
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
    assert int(whole.resampled.sum(0).min()) >= 2  # there is something to remember
    for path, (told, status) in killed.items():
        assert status == -signal.SIGKILL, told
        tensors, about = read_tensors(path)
        assert 1 <= about["index"] < STEPS, told
        assert tensors["x"].shape == (3, 40, 2), told
        assert different(run(resume_from=path), whole) == [], f"{told}, resumed at {about['index']}"


def test_a_kill_inside_a_write_leaves_the_checkpoint_before(killed):
    for path, (told, _) in killed.items():
        if "written" in told:
            call = int(told.split("checkpoint ")[1].split()[0])
            assert read_tensors(path)[1]["index"] == call - 1, told
            # what was being written lies beside it, under a name nobody reads
            (rest,) = (p for p in path.parent.iterdir() if p != path)
            assert rest.name.startswith(".run.")
            assert rest.name.endswith(".part")
