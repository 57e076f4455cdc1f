"""Test the two acts of the check of a GPU with harmless stages, and what the check writes."""

import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from bench.gpu import acts, archive, build
from bench.gpu import check as gpu_check
from bench.gpu.acts import Setting
from bench.gpu.stages import FAILED, NOT_RUN, PASSED, TIMED_OUT, UNMEASURED, Outcome, Stage
from bench.harness import machine, registry
from bench.report import records

GPU = {"name": "a GPU", "capability": "9.0", "memory": 2**36, "count": 1}


def script(name, code, most=20, **options):
    return Stage(name, [sys.executable, "-c", code], most, **options)


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Return a function that runs `main` with these stages instead of those of a GPU or of a CPU."""

    def run(gpu, one="", two="", *options, built="", folder=tmp_path / "found"):
        def building(reuse):
            return script("build", built or f"print({reuse})", essential=True)

        first, second = script("core", one), script("tests", two)
        monkeypatch.setattr(gpu_check, "WORK", tmp_path / "work")
        monkeypatch.setattr(gpu_check, "facts", lambda: {"gpu": gpu, "commit": "abc"})
        monkeypatch.setattr(acts, "act_one", lambda _: [building(False), first])
        monkeypatch.setattr(
            acts, "act_two", lambda _, built: [*([] if built else [building(True)]), second]
        )
        monkeypatch.setattr(
            acts, "without_gpu", lambda _: [building(False), script("emulated", one)]
        )
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.chdir(machine.ROOT)
        monkeypatch.setenv("PYTHONPATH", str(machine.ROOT))
        status = gpu_check.main([*([str(folder)] if folder else []), *options])
        where = folder or gpu_check.ROOT / "out" / "gpu-check"
        return status, json.loads((where / "summary.json").read_text())

    return run


def statuses(summary):
    return {stage["name"]: stage["status"] for stage in summary["stages"]}


def test_both_acts(check):
    status, summary = check(GPU, "", "exit(1)")
    assert status == 1
    assert (summary["kind"], summary["gpu"], summary["failures"]) == ("gpu-check", GPU, ["tests"])
    assert statuses(summary) == {"build": PASSED, "core": PASSED, "tests": FAILED}
    assert (summary["act"], summary["complete"], summary["commit"]) == ("both", True, "abc")
    assert check(GPU)[0] == 0


def test_one_act(check, tmp_path):
    assert statuses(check(GPU, "", "", "--act", "one")[1]) == {"build": PASSED, "core": PASSED}
    summary = check(GPU, "", "", "--act", "two")[1]
    assert statuses(summary) == {"build": PASSED, "tests": PASSED}
    # the results of an earlier act are kept
    earlier = json.loads((tmp_path / "found" / "earlier-summary.json").read_text())
    assert earlier["act"] == "one"
    assert (tmp_path / "found" / "earlier-results.tar.gz").exists()
    assert len([*(tmp_path / "found").iterdir()]) == 4


def test_a_failed_build_stops_both_acts(check):
    status, summary = check(GPU, "", "", built="exit(1)")
    assert status == 1
    assert statuses(summary) == {"build": FAILED, "core": NOT_RUN, "tests": NOT_RUN}
    assert summary["failures"] == ["build"]


def test_a_stage_that_crashes_or_hangs_stops_no_other(check):
    crash = "import os; os.kill(os.getpid(), 11)"
    assert statuses(check(GPU, crash)[1]) == {"build": PASSED, "core": FAILED, "tests": PASSED}
    summary = check(GPU, "import time; time.sleep(60)", "", "--act", "one", "--seconds", "5")[1]
    assert statuses(summary)["core"] == TIMED_OUT


def test_a_required_gpu(check, capsys, tmp_path):
    with pytest.raises(FileNotFoundError):
        check(None, "", "", "--require-gpu")
    assert gpu_check.main([str(tmp_path / "none"), "--require-gpu"]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().err
    assert check(GPU, "", "", "--require-gpu")[0] == 0


def test_without_a_gpu_its_stages_are_unmeasured(check, capsys):
    status, summary = check(None)
    assert status == 0
    wanted = {"build": PASSED, "emulated": PASSED, "core": UNMEASURED, "tests": UNMEASURED}
    assert statuses(summary) == wanted
    assert "unmeasured" in capsys.readouterr().out
    assert check(None, "exit(1)")[0] == 1


def test_nothing_is_written_among_the_results(check, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    assert check(GPU, folder=None)[0] == 0
    assert records.load(tmp_path / "bench" / "results") == []
    written = [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.json")]
    assert set(written) == {("out", "gpu-check")}
    assert "/out/" in (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()


def test_the_archive_has_records_and_logs_after_every_stage(tmp_path):
    work = tmp_path / "work"
    (work / "tests").mkdir(parents=True)
    (work / "core.jsonl").write_text('{"name": "weigh", "state": "done", "ours": 1e-5}\n{"na')
    (work / "tests" / "000.log").write_bytes(b"x" * (archive.MOST_BYTES + 5) + b"end")
    kept = archive.Archive(tmp_path / "found", work, {"gpu": None})
    content = kept.keep([Outcome("build", PASSED, 1.0)])
    assert content["results"] == {"core": [{"name": "weigh", "state": "done", "ours": 1e-5}]}
    assert content["complete"] is False
    kept.keep([Outcome("build", PASSED, 1.0), Outcome("core", FAILED, 2.0)], complete=True)
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "summary.json",
        "results.tar.gz",
    }
    with tarfile.open(tmp_path / "found" / "results.tar.gz") as found:
        assert {*found.getnames()} == {"summary.json", "core.jsonl", "tests/000.log"}
        log = found.extractfile("tests/000.log").read()
        assert len(log) == archive.MOST_BYTES
        assert log.endswith(b"xend")
        assert json.load(found.extractfile("summary.json"))["failures"] == ["core"]


def test_an_interrupted_check_leaves_what_it_had(tmp_path):
    program = f"""
import sys
from pathlib import Path
from bench.gpu import acts, check
from bench.gpu.stages import Stage
check.WORK = Path({str(tmp_path / "work")!r})
check.facts = lambda: {{"gpu": {GPU!r}}}
acts.act_one = lambda _: [Stage("core", ["true"], 9), Stage("long", ["sleep", "60"], 50)]
check.main([{str(tmp_path / "found")!r}, "--act", "one"])
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=machine.ROOT)
    summary = tmp_path / "found" / "summary.json"
    end = time.monotonic() + 30
    while not summary.exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(20) != 0
    content = json.loads(summary.read_text())
    assert (statuses(content), content["complete"]) == ({"core": PASSED}, False)


def stages_of(plan):
    groups = [each if isinstance(each, tuple) else (each,) for each in plan]
    return {stage.name: stage for group in groups for stage in group}


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setattr(acts.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(acts, "kernel_option", lambda: "--kernel-name")
    return Setting(tmp_path, "9.0")


def test_the_stages_of_act_one(setting):
    one = stages_of(acts.act_one(setting))
    assert [*one] == ["build", "triton", "live", "cuda", "core"]
    assert one["build"].essential
    assert "--reuse" not in one["build"].command
    assert sum(stage.least for stage in one.values()) < acts.ONE <= 150
    # Triton compiles beside the build, and timings have the GPU to themselves
    assert [len(each) if isinstance(each, tuple) else 1 for each in acts.act_one(setting)] == [
        2,
        2,
        1,
    ]


def test_the_stages_of_act_two(setting):
    two = stages_of(acts.act_two(setting))
    assert [*two][:3] == ["build", "tests", "bench"]
    assert "--reuse" in two["build"].command
    assert "build" not in stages_of(acts.act_two(setting, built=True))
    assert str(setting.work / "bench.json") in two["bench"].command
    assert two["memcheck"].command[:5] == [
        *("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    ]
    # baselines that torch.compile makes come last
    assert [name for name, stage in two.items() if "bench.run" in stage.command] == [
        *("bench", "runs", "compiled")
    ]
    assert ["--without" in two[name].command for name in ("bench", "runs", "compiled")] == [
        *(True, True, False)
    ]
    first = acts.FIRST.split(",")
    names = [case.name for case in registry.select(registry.load(), "cuda", "")]
    assert [word for word in first if not any(word in name for name in names)] == []
    kept = sum(stage.least for stage in two.values())
    assert kept + sum(s.least for s in stages_of(acts.act_one(setting)).values()) < acts.BOTH
    assert acts.BOTH < 560  # a lent machine may end a command after 600 seconds
    assert acts.TWO < 560


def test_single_stages(setting):
    only = setting._replace(only=["core"])
    one = stages_of(acts.chosen(acts.act_one(only), only.only))
    assert [*one] == ["build", "core"]
    assert "--reuse" in one["build"].command
    assert [*stages_of(acts.chosen(acts.act_one(setting), ()))] == [
        *stages_of(acts.act_one(setting))
    ]


def test_racecheck_takes_fewer_calls(setting):
    two = stages_of(acts.act_two(setting))
    assert "--few" in two["racecheck"].command
    assert "--few" not in two["memcheck"].command
    assert "kns=edmfast" in two["racecheck"].command


@pytest.mark.parametrize(
    ("help_text", "option"),
    [
        ("  --kernel-name-exclude arg\n  --kernel-name arg", "--kernel-name"),
        ("  --kernel-name-exclude arg\n  --kernel-regex arg", "--kernel-regex"),
        ("  --kernel-regex arg\n  --kernel-name arg", "--kernel-name"),
        ("  --launch-count arg", ""),
    ],
)
def test_the_sanitizer_is_given_an_option_that_it_has(tmp_path, monkeypatch, help_text, option):
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\ncat <<END\n{help_text}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    command = acts.sanitizer_stage("racecheck", 1, 1).command
    assert [word for word in command if word.startswith("--kernel")] == ([option] if option else [])
    assert ("kns=edmfast" in command) == bool(option)
    memcheck = acts.sanitizer_stage("memcheck", 1, 1).command
    assert not [word for word in memcheck if "kernel" in word]


@pytest.fixture
def sources(tmp_path):
    """A tree whose setup.py writes the libraries."""
    for folder in ("csrc/cuda", "edmfast"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "csrc" / "cuda" / "a.cu").write_text("one")
    (tmp_path / "setup.py").write_text(
        "import os, pathlib\n"
        "assert os.environ['TORCH_CUDA_ARCH_LIST'] == '9.0'\n"
        "log = pathlib.Path('log')\n"
        "log.write_text((log.read_text() if log.exists() else '') + os.environ['EDMFAST_FORCE_CUDA'])\n"
        "for name in pathlib.Path('made').read_text().split():\n"
        "    pathlib.Path('edmfast', name).write_text('')\n"
    )
    (tmp_path / "made").write_text("_C.abi3.so _cuda.so")
    return tmp_path


def test_act_two_reads_the_build_of_act_one(sources):
    arguments = ["9.0", "--in-place"]
    assert build.main(arguments, sources) == 0
    assert build.main([*arguments, "--reuse"], sources) == 0
    assert (sources / "log").read_text() == "1"
    (sources / "csrc" / "cuda" / "a.cu").write_text("two")
    assert build.main([*arguments, "--reuse"], sources) == 0
    assert (sources / "log").read_text() == "11"
    (sources / "edmfast" / "_cuda.so").unlink()
    assert build.main([*arguments, "--reuse", "--without-gpu"], sources) == 0
    assert (sources / "log").read_text() == "110"


def test_a_build_without_a_library_has_failed(sources, capsys):
    (sources / "made").write_text("_C.abi3.so")
    assert build.main(["9.0", "--in-place"], sources) == 1
    assert "no _cuda*.so" in capsys.readouterr().out
    assert not build.stamp(sources).exists()
    assert build.main(["9.0", "--in-place", "--without-gpu"], sources) == 0


def test_the_shell_script_is_one():
    shell = machine.ROOT / "bench" / "on_gpu.sh"
    assert subprocess.run(["sh", "-n", str(shell)]).returncode == 0
    usage = subprocess.run(
        ["sh", str(shell), "--help"],
        capture_output=True,
        text=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    options = ("--in-place", "--act", "--require-gpu", "--rehearse")
    assert all(option in usage.stdout for option in options)
