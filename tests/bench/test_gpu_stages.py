"""Test the runner of stages with harmless commands: what fails, what takes too long, and what runs beside it."""

import os
import sys
import threading
import time

import pytest

from bench.gpu import acts, stages
from bench.gpu.stages import FAILED, NOT_RUN, PASSED, SKIPPED, TIMED_OUT, Stage


def script(name, code, most=20, **options):
    return Stage(name, [sys.executable, "-c", code], most, **options)


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_a_stage_that_fails_stops_no_other(tmp_path, capsys):
    script_stages = [
        script("bad", "print('what went wrong'); raise SystemExit(3)"),
        script("good", "import os; print(os.environ['WHAT'])", environment={"WHAT": "given"}),
        Stage("absent", ["no-such-program"], 20),
    ]
    outcomes = stages.run(script_stages, tmp_path, 60)
    assert statuses(outcomes) == [FAILED, PASSED, FAILED]
    assert [outcome.bad for outcome in outcomes] == [True, False, True]
    assert outcomes[0].detail == "exit status 3; see bad.log"
    assert "what went wrong" in capsys.readouterr().out
    assert (tmp_path / "good.log").read_text().endswith("given\n")


def test_a_second_command_where_the_first_fails(tmp_path):
    second = [sys.executable, "-c", "print('second')"]
    (outcome,) = stages.run([script("build", "exit(1)", otherwise=second)], tmp_path, 60)
    assert outcome.status == PASSED
    (outcome,) = stages.run([script("build", "print('first')", otherwise=second)], tmp_path, 60)
    assert "second" not in (tmp_path / "build.log").read_text().splitlines()


def test_what_takes_too_long_is_ended_with_all_it_started(tmp_path):
    child = f"open({str(tmp_path / 'alive')!r}, 'w').write('no')"
    late = f"import time; time.sleep(2.5); {child}"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {late!r}]); time.sleep(60)"
    start = time.monotonic()
    outcomes = stages.run([script("slow", code, most=1.5), script("after", "")], tmp_path, 60)
    assert statuses(outcomes) == [TIMED_OUT, PASSED]
    assert time.monotonic() - start < 15
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()


def test_time_is_kept_for_later_stages(tmp_path):
    greedy = script("greedy", "import time; time.sleep(60)", most=50)
    shown = [sys.executable, "-c", "import sys; print(sys.argv[1])", "{seconds}"]
    later = Stage("later", shown, 50, least=8)
    outcomes = stages.run([greedy, later], tmp_path, 10)
    assert statuses(outcomes) == [TIMED_OUT, PASSED]
    assert 5 <= int((tmp_path / "later.log").read_text().splitlines()[-1]) <= 8
    (outcome,) = stages.run([script("none", "")], tmp_path, 0.5)
    assert outcome[:2] == ("none", TIMED_OUT)


def test_a_command_learns_when_its_time_ends(tmp_path):
    code = "import sys, time; print(float(sys.argv[1]) - time.monotonic())"
    stage = Stage("timed", [sys.executable, "-c", code, "{until}"], 30)
    assert statuses(stages.run([stage], tmp_path, 60)) == [PASSED]
    left = float((tmp_path / "timed.log").read_text().splitlines()[-1])
    # the end is rounded to tenths of a second, so that a quick start may see half of one more
    assert 15 < left <= 27.05


def test_refusals_are_skips(tmp_path):
    code = "print('Error: Device not supported. See'); exit(1)"
    outcomes = stages.run(
        [
            script("refused", code, refusal=acts.REFUSED),
            script("wrong", "print('Invalid read'); exit(9)", refusal=acts.REFUSED),
            script("never", "exit(1)", instead=(SKIPPED, "not here")),
        ],
        tmp_path,
        60,
    )
    assert statuses(outcomes) == [SKIPPED, FAILED, SKIPPED]
    assert outcomes[0].detail == "Error: Device not supported. See"


@pytest.mark.parametrize(
    "line",
    [
        "Error: Device not supported. See",
        "========= Error: Failed to initialize the tool",
        "========= Unable to find the injection library",
    ],
)
def test_a_refusal_is_a_line_of_the_tool(line):
    assert stages.refused(acts.REFUSED, 1, f"$ compute-sanitizer\n{line}\n") == line
    assert not stages.refused("", 1, line)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "========= Error: Failed to initialize"),  # The stage ran out of time.
        (-11, "========= Error: Failed to initialize"),  # A signal ended the stage.
        (9, "========= Unable to find symbols\n========= ERROR SUMMARY: 3 errors"),
        (9, "========= Unable to find symbols\n========= RACECHECK SUMMARY: 12 hazards displayed"),
        (1, "RuntimeError: failed to load _cuda.so"),
        (1, "warning: unable to find a compiler\n========= ERROR SUMMARY: 0 errors"),
        (1, "$ python -c 'Error: failed to load'"),
    ],
)
def test_what_only_looks_like_a_refusal_is_a_failure(code, text):
    assert not stages.refused(acts.REFUSED, code, text)


def test_what_takes_too_long_is_no_refusal(tmp_path):
    code = "import time; print('Error: failed to load', flush=True); time.sleep(60)"
    slow_stages = [script("slow", code, most=1.5, refusal=acts.REFUSED)]
    assert statuses(stages.run(slow_stages, tmp_path, 60)) == [TIMED_OUT]


def test_stages_of_a_group_run_at_the_same_time(tmp_path):
    met = tmp_path / "met"
    first = f"import time, pathlib\nwhile not pathlib.Path({str(met)!r}).exists(): time.sleep(0.05)"
    pair = script("waits", first, most=15), script("comes", f"open({str(met)!r}, 'w')", most=15)
    assert statuses(stages.run([pair], tmp_path, 60)) == [PASSED, PASSED]


def test_a_failed_build_stops_everything(tmp_path):
    start = time.monotonic()
    build = script("build", "exit(1)", essential=True)
    beside = script("beside", "import time; time.sleep(60)", most=50)
    kept = []
    outcomes = stages.run(
        [(build, beside), script("later", "")], tmp_path, 60, lambda o: kept.append([*o])
    )
    assert statuses(outcomes) == [FAILED, NOT_RUN, NOT_RUN]
    assert outcomes[2].detail == "build failed"
    assert [outcome.bad for outcome in outcomes] == [True, False, False]
    assert time.monotonic() - start < 20
    assert kept[-1] == outcomes


def test_outcomes_are_kept_after_every_stage_and_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_TICK", 0.3)
    kept = []
    plan = [script("one", ""), script("two", "import time; time.sleep(1.5)")]
    stages.run(plan, tmp_path, 60, lambda o: kept.append(len(o)))
    assert kept.count(1) > 2  # after the first stage, and while the second runs
    assert kept[-1] == 2


def test_an_interrupt_leaves_no_process_behind(tmp_path):
    alive = tmp_path / "alive"
    code = f"import os, time; open({str(alive)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    timer = threading.Timer(1.5, os.kill, (os.getpid(), 2))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        stages.run([script("long", code, most=50)], tmp_path, 60)
    timer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(alive.read_text()), 0)
