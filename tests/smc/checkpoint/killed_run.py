"""Make a run for test_kill: `python -m tests.smc.checkpoint.killed_run CHECKPOINT [WHERE CALL]` prints its steps.

With WHERE and CALL the process kills itself inside the CALL-th write of a checkpoint: "half" leaves half of the
new file's bytes on the disk, "whole" dies when all are written and the new file does not have its name yet.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from edmfast import smc
from edmfast._internal import files
from edmfast.models import EnergyModel
from edmfast.models.backbones import ResidualMLP
from edmfast.targets import Tempered
from tests.grouped import grouped

STEPS = 24
SECONDS_PER_STEP = 0.01


def run(**options):
    """Make the run, which ends in the same bits wherever it is called."""
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=16, depth=1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    levels = torch.logspace(1, -1.5, STEPS + 1, dtype=torch.float64)
    target = Tempered(model, 2.0)
    common = {
        "particles": 40,
        "populations": 3,
        "seed": 5,
        "ess_threshold": 0.95,
        "genealogy": True,
        # energies weigh the first half of the steps, and matched reversals the second
        "weights": smc.Hybrid(above=0.5),
    }
    return smc.sample(target, (2,), levels, **grouped(**common, **options))


def die_inside_write(where, call):
    save, calls = files.save_file, 0

    def save_and_die(tensors, path, **options):
        nonlocal calls
        calls += 1
        save(tensors, path, **options)
        if calls == call:
            if where == "half":
                content = Path(path).read_bytes()
                Path(path).write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    files.save_file = save_and_die


def report(info):
    print(info["i"], flush=True)
    time.sleep(SECONDS_PER_STEP)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_inside_write(sys.argv[2], int(sys.argv[3]))
    run(checkpoint=sys.argv[1], checkpoint_every=1, callback=report)
