"""Raw operators refuse what they cannot read, and no call ends the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edmfast import ops

CALLS = Path(__file__).with_name("raw_calls.py")
RAW = torch.ops.edmfast


def run_from(first: int) -> tuple[int, list[list]]:
    """Return (exit status, lines) of a process that makes all calls from number `first` on."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, str(CALLS), str(first)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_no_raw_call_ends_the_process_or_is_judged_wrongly(compiled):
    first, deaths, wrong, count = 0, [], [], 0
    for _ in range(5):
        status, lines = run_from(first)
        finished = [line for line in lines if len(line) == 4]
        count += len(finished)
        wrong += [f"{line[1]}: {line[3]}" for line in finished if not line[2]]
        if status == 0:
            break
        assert lines, f"no call was made, exit status {status}"
        deaths.append(f"{lines[-1][1]}: exit status {status}")
        first = lines[-1][0] + 1
    assert (deaths, wrong) == ([], [])
    assert count > 200


def test_errors_name_the_argument_and_both_shapes(compiled):
    x, ancestors = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int32)
    rng, numbers = ops.rng_state(0, 0), torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"coefficients must be \[2, 3\], got \[1, 3\]"):
        RAW.propagate(x, [x], ancestors, numbers, rng, None, 0, 0)
    with pytest.raises(RuntimeError, match="ancestors must be of dtype Int, got Long"):
        RAW.propagate(x, [x], ancestors.long(), numbers, rng, None, 0, 0)
    with pytest.raises(ValueError, match="one device, got"):
        RAW.propagate(x, [x.to("meta")], ancestors, numbers, rng, None, 0, 0)


@pytest.mark.parametrize("place", [0, 5000, 20_479])
@pytest.mark.parametrize("value", [-1, 20_480, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("d", [2, 7])
def test_ancestors_that_name_no_particle_are_refused(place, value, d):
    x = torch.randn(2, 20_480, d)
    ancestors = torch.arange(20_480, dtype=torch.int32).repeat(2, 1)
    ancestors[1, place] = value
    numbers = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"ancestors must lie in|out of bounds"):
        ops.propagate(x, x, ancestors, numbers, ops.rng_state(0, 0))


@pytest.mark.parametrize("place", [0, 5000, 20_479])
@pytest.mark.parametrize("value", [-1, 20_480, 2**31 - 1])
def test_ancestors_of_weights_that_name_no_particle_are_refused(place, value):
    before = ops.Weights.start(2, 20_480)
    before.ancestors[1, place] = value
    before.resampled.fill_(True)
    energy = torch.zeros(2, 20_480)
    with pytest.raises(RuntimeError, match=r"ancestors must lie in|out of bounds"):
        ops.weigh_and_resample(before, energy, [energy], [energy], ops.rng_state(0, 0))


def test_ancestors_are_not_read_where_nothing_was_resampled():
    before = ops.Weights.start(2, 300)
    energies = torch.randn(2, 2, 300).double()
    call = energies[0], [energies[1]], [energies[0]], ops.rng_state(0, 0)
    wanted = ops.weigh_and_resample(before, *call)
    before.ancestors.fill_(-1)
    assert all(map(torch.equal, ops.weigh_and_resample(before, *call), wanted))


def test_an_error_in_a_thread_keeps_its_words(compiled, with_threads):
    # torch's own loop would end the process
    before = ops.Weights.start(64, 512)
    before.ancestors[63, 511] = -1
    before.resampled.fill_(True)
    energy = torch.zeros(64, 512)
    with with_threads(4), pytest.raises(RuntimeError, match=r"lie in 0 to N - 1 = 511"):
        ops.weigh_and_resample(before, energy, [energy], [energy], ops.rng_state(0, 0))
