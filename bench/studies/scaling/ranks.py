"""The axis of ranks: smc.sample over gloo processes of this machine, by populations and by particles.

Where ranks outnumber cores their wall time says little; the bytes that they send are the same on any machine.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from json import loads
from pathlib import Path
from typing import Any

import torch

from bench.cases import sampler_targets
from bench.harness import machine
from bench.harness.timing import Effort, Timing
from bench.studies.scaling.axes import Axis, Extras, Times
from bench.studies.scaling.worker import PARTICLES, POPULATIONS

SIZES, QUICK_SIZES, ROUNDS = (1, 2, 4), (1, 2), 5
_TIMEOUT = 150


@functools.cache
def launch(world: int, rounds: int) -> dict[str, Any]:
    """Return the results of the ranks, by split.

    rounds 0 takes no times. Raise RuntimeError where a rank failed.
    """
    path = os.pathsep.join(filter(None, [str(machine.ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.studies.scaling.worker", folder]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(world), str(rounds)],
                env=environment,
                cwd=machine.ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            error_texts = [process.communicate(timeout=_TIMEOUT)[1] for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        for process, errors in zip(ranks, error_texts, strict=True):
            if process.returncode:
                raise RuntimeError(f"a rank failed: {errors[-500:]}")
        answer: dict[str, Any] = loads((Path(folder) / "answer.json").read_text())
        return answer


def check(split: str, device: torch.device, world: int = 2) -> None:
    """Check that any number of ranks gives the bits of one process, whose log Z is the exact one."""
    results = launch(world, 0)[split]
    assert results["right"], "the ranks have other bits than one process"
    log_z = torch.tensor(results["log_z"], dtype=torch.float64)
    exact = -math.log(2 * math.pi * sampler_targets.SIGMA_MAX**2)  # the density is normalised
    ratio = (log_z - exact).exp()
    error = ratio.std().item() / math.sqrt(len(ratio))
    assert abs(ratio.mean().item() - 1) < 5 * error, f"Z is {ratio.mean():.4f} ± {error:.4f} of it"


def clock(split: str, sizes: Sequence[int], device: torch.device, effort: Effort) -> Times:
    times = launch(max(sizes), ROUNDS)[split]["times"]
    if not times:
        raise RuntimeError("the ranks have other bits than one process")
    return {size: Timing(**times[str(size)]) for size in sizes}


def extras(split: str, sizes: Sequence[int], device: torch.device) -> Extras:
    """Return totals over all ranks: bytes sent per step on average, at the start, and to gather the result;
    states."""
    results = launch(max(sizes), ROUNDS)[split]
    sent = [results["sent"][str(size)] for size in sizes]
    return {
        "bytes/step": [numbers[1] / results["steps"] for numbers in sent],
        "bytes to start": [float(numbers[0]) for numbers in sent],
        "bytes to gather": [float(numbers[2]) for numbers in sent],
        "states moved/resampling": [numbers[3] / max(results["resampled"], 1) for numbers in sent],
    }


AXES = [
    Axis(
        name=f"ranks-{split}",
        unit="ranks",
        job=f"smc.sample of {POPULATIONS} x {PARTICLES} particles in 2 dimensions over gloo processes, "
        f"split={split!r}, on {os.cpu_count()} cores",
        sizes=SIZES,
        quick=QUICK_SIZES,
        check=functools.partial(check, split),
        clock=functools.partial(clock, split),
        extras=functools.partial(extras, split),
        devices=("cpu",),
    )
    for split in ("populations", "particles")
]
