"""Progress is a bar on a terminal and a few lines, or nothing, in a log file."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from edmfast import analytic, distill, models, sampling, smc
from edmfast._internal.progress import LogLines, count_steps, progress_bar
from edmfast.distill import DistillConfig

MIXTURE = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.2])
SIGMAS = sampling.get_sigmas_karras(40, 0.05, 10.0)
SAMPLERS = ["sample_euler", "sample_heun", "sample_dpmpp_2m", "sample_euler_ancestral"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(entry_point, disable):
    """Run an entry point that shows progress. disable: as for a sampler; the others take progress=not disable."""
    if entry_point in SAMPLERS:
        getattr(sampling, entry_point)(MIXTURE.denoise, torch.randn(2, 2), SIGMAS, disable=disable)
    elif entry_point == "smc.sample":
        smc.sample(MIXTURE, (2,), SIGMAS, particles=64, progress=not disable)
    else:
        student = models.EnergyModel(models.ResidualMLP(2, width=8, depth=1))
        config = DistillConfig(steps=20, batch_size=8, warmup_steps=0)
        distill(MIXTURE.denoise, student, torch.randn(50, 2), config=config, progress=not disable)


@pytest.mark.parametrize("disable", [None, False, True])
@pytest.mark.parametrize("entry_point", [*SAMPLERS, "smc.sample", "distill"])
def test_a_log_file_is_not_filled_by_bars(monkeypatch, entry_point, disable):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    run(entry_point, disable)
    assert log.getvalue() == ""  # The run ends before the first line is due.


@pytest.mark.parametrize("entry_point", [*SAMPLERS, "smc.sample", "distill"])
def test_a_terminal_shows_a_bar_unless_disabled(monkeypatch, entry_point):
    for disable in (None, True):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        run(entry_point, disable)
        assert ("100%" in terminal.getvalue()) is not disable


def test_lines_are_whole_and_rare(capsys):
    seconds = iter([0.0, 10.0, 20.0, 31.0, 40.0, 62.0, 70.0, 71.0])
    with LogLines(7, "smc", "steps", initial=1, clock=lambda: next(seconds)) as lines:
        for _ in range(6):
            lines.set_postfix(loss="0.5", refresh=False)
            lines.update()
    assert capsys.readouterr().err == (
        "smc: 4/7 steps in 31 s, 0.0968 steps/s, loss=0.5\n"
        "smc: 6/7 steps in 62 s, 0.0806 steps/s, loss=0.5\n"
        "smc: 7/7 steps in 71 s, 0.0845 steps/s, loss=0.5\n"
    )


def test_an_early_end_prints_one_last_line(capsys):
    seconds = iter([0.0, 40.0, 50.0])
    lines = LogLines(7, "", "steps", clock=lambda: next(seconds))
    lines.update(2)
    lines.close()
    lines.close()
    assert capsys.readouterr().err == (
        "2/7 steps in 40 s, 0.05 steps/s\n2/7 steps in 50 s, 0.04 steps/s\n"
    )


def test_without_stderr_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert progress_bar(3, disable=False).disable
    assert list(count_steps(3, disable=False)) == [0, 1, 2]
