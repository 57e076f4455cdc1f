"""Test that random calls of raw operators repeat for a seed, and that a call that ends its process is reported."""

from __future__ import annotations

import pytest
import torch

from bench.studies.fuzz import calls as fuzz_calls
from bench.studies.fuzz import run as fuzz
from edmfast import _extension


def test_a_seed_is_one_call():
    first, second = (fuzz_calls.Draw(7) for _ in range(2))
    made = [fuzz_calls.OPERATORS["propagate"](draw) for draw in (first, second)]
    assert torch.equal(made[0][0], made[1][0])
    assert [fuzz_calls.call(seed)[0] for seed in range(20)] == [
        fuzz_calls.call(seed)[0] for seed in range(20)
    ]


@pytest.mark.parametrize("name", fuzz_calls.OPERATORS)
def test_arguments_that_nothing_was_done_to_are_accepted(name):
    for seed in range(3):
        getattr(torch.ops.edmfast, name)(*fuzz_calls.OPERATORS[name](fuzz_calls.Draw(seed)))


def test_every_operator_is_called():
    wanted = {name for name in dir(torch.ops.edmfast) if name in fuzz_calls.OPERATORS}
    assert wanted == set(fuzz_calls.OPERATORS)


def test_calls_that_end_no_process(capsys):
    if _extension.kernel_status()["cpu"].startswith("off"):
        pytest.skip("needs the compiled CPU kernels")
    assert fuzz.main(["--calls", "150"]) == 0
    assert "150 calls, 0 of which ended their process" in capsys.readouterr().out


def test_a_call_that_ends_its_process_is_named(monkeypatch, capsys):
    def run(first, count, folder, seconds):
        if first > 3:
            return 0, [f"accepted {count} of {count}"], ""
        return -11, ["seed 2 noise", "seed 3 noise"], "what a sanitizer says"

    monkeypatch.setattr(fuzz, "run", run)
    assert fuzz.main(["--calls", "10"]) == 1
    printed = capsys.readouterr().out
    assert "seed 3 noise: status -11" in printed
    assert "what a sanitizer says" in printed
    assert "seeds 4 to 9" in printed


def test_a_process_that_makes_no_call_is_no_success(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "run", lambda *_: (1, [], "no module"))
    assert fuzz.main(["--calls", "10"]) == 2
    assert "no module" in capsys.readouterr().err


def test_a_build_that_fails_is_told(monkeypatch, capsys):
    def build():
        raise OSError("no compiler")

    monkeypatch.setattr(fuzz, "build", build)
    assert fuzz.main(["--sanitize"]) == 2
    assert "no compiler" in capsys.readouterr().err
