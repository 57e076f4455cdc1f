"""Test that runs over the ranks of a process group have the bits of one process, also when a rank dies.

A process takes seconds to start, so one launch runs all cases of a number of ranks.
"""

import functools
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from edmfast import smc

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)

from tests.process_groups import run_ranks, torchrun
from tests.smc.distributed import distributed_worker as worker

SCRIPT = Path(worker.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def killed(folder):
    """Return the exit codes and output of two ranks of which one dies."""
    return run_ranks(SCRIPT, folder, "kill", timeout=100)


@pytest.fixture(scope="module")
def outcomes(folder, killed):
    """Return a function from a number of ranks to {case: differences}; it resumes what two ranks left behind."""

    @functools.cache
    def launch(ranks):
        done = torchrun(ranks, SCRIPT, folder, "cases")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return json.loads((folder / f"{ranks}.json").read_text())

    return launch


def test_the_others_are_told_when_a_rank_dies(killed, folder):
    codes, output = killed
    assert codes[1] == -9, output
    assert codes[0] == 0, output
    assert (folder / "told 0").read_text()


def test_one_process_goes_on_where_a_rank_died(killed, folder):
    path = folder / "killed.safetensors"
    resumed = worker.sample(worker.target(), worker.KILLED, resume_from=path)
    assert worker.differing(resumed, worker.sample(worker.target(), worker.KILLED)) == []


# with three ranks a sum over ranks has an order, and five populations cannot be split evenly
@pytest.mark.parametrize("ranks", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_bits_of_one_process(outcomes, ranks):
    differences = outcomes(ranks)
    wrong = {name: differing for name, differing in differences.items() if differing}
    assert wrong == {}
    assert {"killed", "weights of a level", "labels, particles"} <= set(differences)


def test_a_split_without_a_group_changes_nothing():
    for split in ("populations", "particles"):
        alone = worker.sample(worker.target(), {"split": split, "populations": 1})
        assert worker.differing(alone, worker.sample(worker.target(), {"populations": 1})) == []
    with pytest.raises(ValueError, match="unknown split"):
        smc.sample(
            worker.target(),
            (2,),
            [2.0, 1.0],
            particles=4,
            distribution=smc.Distribution(split="ranks"),
        )
    assert torch.isfinite(alone.x).all()
