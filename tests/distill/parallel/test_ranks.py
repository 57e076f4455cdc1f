"""Training on several ranks gives the weights of one process with the same batch, also after a rank was killed.

A process takes seconds to start, so that one launch trains all cases of a number of ranks.
"""

from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)

from tests.distill.parallel import training_worker as worker
from tests.process_groups import torchrun

SCRIPT = Path(worker.__file__)
CASES = ("plain", "images", "losses of energies", "time scores", "items", "stream")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def launch(folder):
    """Return a function that trains cases on a number of ranks, and returns the process that torchrun was."""

    def run(ranks, *cases):
        return torchrun(ranks, SCRIPT, folder, *cases)

    return run


@pytest.fixture(scope="module")
def alone(folder):
    """Return a function that trains a case in this process, and returns its weights and losses."""
    done = {}

    def run(case):
        if case not in done:
            worker.write(worker.train(case, None, folder), folder / "alone.safetensors")
            done[case] = load_file(folder / "alone.safetensors")
        return done[case]

    return run


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def check(ranks, launch, alone, folder, cases):
    finished = launch(ranks, "errors", *cases)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]
    for case in cases:
        found = load_file(folder / f"{case}-{ranks}.safetensors")
        assert largest_difference(found, alone(case)) < 1e-6, case
    assert (folder / f"errors-{ranks}.txt").read_text() == "{}"


def test_two_ranks_give_the_result_of_one_process(launch, alone, folder):
    check(2, launch, alone, folder, CASES)


@pytest.mark.slow
def test_four_ranks_and_graphs_give_the_result_of_one_process(launch, alone, folder):
    check(4, launch, alone, folder, (*CASES, "compiled"))


def test_a_killed_run_goes_on_with_any_number_of_ranks(launch, alone, folder):
    whole = alone("plain")
    for ranks in (1, 2):
        killed = launch(ranks, "killed")
        assert killed.returncode != 0
        assert (folder / "killed.safetensors").exists()
        assert not (folder / f"killed-{ranks}.safetensors").exists()
        worker.write(worker.train("resumed", None, folder), folder / "alone.safetensors")
        difference = largest_difference(load_file(folder / "alone.safetensors"), whole)
        # one rank alone goes on bit for bit
        assert difference == 0 if ranks == 1 else difference < 1e-6
        if ranks == 1:
            (folder / "killed.safetensors").unlink()
    finished = launch(2, "resumed")
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]
    assert largest_difference(load_file(folder / "resumed-2.safetensors"), whole) < 1e-6
