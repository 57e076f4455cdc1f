"""Test the check of a GPU with harmless stages: what fails, what takes too long, and what is written."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu import check as gpu_check
from bench.gpu import sanitize, stages
from bench.gpu import tests as gpu_tests
from bench.gpu.stages import FAILED, PASSED, SKIPPED, TIMED_OUT, UNMEASURED, Stage
from bench.harness import machine, registry
from bench.report import records


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


def test_refusals_are_skips(tmp_path):
    code = "print('Error: Device not supported. See'); exit(1)"
    outcomes = stages.run(
        [
            script("refused", code, refusal=gpu_check._REFUSED),
            script("wrong", "print('Invalid read'); exit(9)", refusal=gpu_check._REFUSED),
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
    assert stages.refused(gpu_check._REFUSED, 1, f"$ compute-sanitizer\n{line}\n") == line
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
    assert not stages.refused(gpu_check._REFUSED, code, text)


def test_what_takes_too_long_is_no_refusal(tmp_path):
    code = "import time; print('Error: failed to load', flush=True); time.sleep(60)"
    slow_stages = [script("slow", code, most=1.5, refusal=gpu_check._REFUSED)]
    assert statuses(stages.run(slow_stages, tmp_path, 60)) == [TIMED_OUT]


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Return a function that runs `main` with these stages instead of those of a GPU or of a CPU."""

    def run(gpu, code, stage=None, folder=tmp_path / "found"):
        stage = stage or script("tests", code)
        monkeypatch.setattr(gpu_check, "probe", lambda: gpu)
        monkeypatch.setattr(gpu_check, "build_stage", lambda *_: script("build", ""))
        monkeypatch.setattr(gpu_check, "gpu_stages", lambda folder: [stage])
        monkeypatch.setattr(gpu_check, "cpu_stages", lambda: [script("emulated", code)])
        monkeypatch.chdir(machine.ROOT)
        monkeypatch.setenv("PYTHONPATH", str(machine.ROOT))
        status = gpu_check.main([str(folder)] if folder else [])
        where = folder or machine.ROOT / "out" / "gpu-check"
        return status, json.loads((where / "summary.json").read_text())

    return run


GPU = {"name": "a GPU", "capability": "9.0", "memory": 2**36, "count": 1}


def test_the_summary(check):
    status, summary = check(GPU, "exit(1)")
    assert status == 1
    assert (summary["kind"], summary["gpu"], summary["failures"]) == ("gpu-check", GPU, ["tests"])
    assert [stage["status"] for stage in summary["stages"]] == [PASSED, FAILED]
    assert summary["versions"]["torch"] == torch.__version__
    assert check(GPU, "")[0] == 0


def test_nothing_is_written_among_the_results(check, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert check(GPU, "", folder=None)[0] == 0
    assert records.load(tmp_path / "bench" / "results") == []
    written = [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.json")]
    assert set(written) == {("out", "gpu-check")}
    assert "/out/" in (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()


def test_without_a_gpu_its_stages_are_unmeasured(check, capsys):
    status, summary = check(None, "")
    assert status == 0
    assert [stage["status"] for stage in summary["stages"]] == [PASSED, PASSED, UNMEASURED]
    assert "unmeasured" in capsys.readouterr().out
    assert check(None, "exit(1)")[0] == 1


def test_what_is_asked_of_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(gpu_check, "kernel_option", lambda: "--kernel-name")
    by_name = {stage.name: stage for stage in gpu_check.gpu_stages(tmp_path)}
    assert [*by_name] == ["tests", "memcheck", "racecheck", "bench", "scaling"]
    assert str(tmp_path / "bench.json") in by_name["bench"].command
    assert by_name["memcheck"].command[:5] == [
        *("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    ]
    command = by_name["bench"].command
    first = command[command.index("--first") + 1].split(",")
    names = [case.name for case in registry.select(registry.load(), "cuda", "")]
    assert [word for word in first if not any(word in name for name in names)] == []
    build = gpu_check.build_stage(GPU, False)
    assert "pip" in build.command
    assert build.otherwise[1:] == ["setup.py", "build_ext", "--inplace"]
    assert build.environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert build.environment["EDMFAST_FORCE_CUDA"] == "1"
    assert "pip" not in gpu_check.build_stage(None, True).command
    kept = build.least + sum(stage.least for stage in by_name.values())
    assert kept < gpu_check.TOTAL < 540


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
    command = gpu_check.sanitizer_stage("racecheck", 1, 1).command
    assert [word for word in command if word.startswith("--kernel")] == ([option] if option else [])
    assert ("kns=edmfast" in command) == bool(option)
    memcheck = gpu_check.sanitizer_stage("memcheck", 1, 1).command
    assert not [word for word in memcheck if "kernel" in word]


@pytest.mark.parametrize("few", [False, True])
def test_every_operator_with_a_cuda_kernel_is_called_under_the_sanitizer(few):
    names = {name.split()[0] for name, _, _ in sanitize.calls(few)}
    assert names == set(sanitize.OPERATORS)
    registered = {file.stem for file in (machine.ROOT / "csrc" / "cuda").glob("*.cu")}
    stems = {"weigh_and_resample": "weigh"}
    assert {stems.get(name, name) for name in names} == registered


def test_racecheck_takes_fewer_calls(monkeypatch):
    assert len([*sanitize.calls(few=True)]) < len([*sanitize.calls()]) / 2
    monkeypatch.setattr(gpu_check, "kernel_option", lambda: "")
    assert "--few" in gpu_check.sanitizer_stage("racecheck", 45, 15).command
    assert "--few" not in gpu_check.sanitizer_stage("memcheck", 60, 20).command


def test_bad_weights_and_absent_exponents_reach_the_kernels():
    seen = set()
    for _, function, arguments in sanitize.bad_weighings():
        outputs = function(*arguments)
        assert arguments[4] is None
        assert outputs[0].isnan().any()
        seen.update(outputs[7].tolist())
    assert {arguments[-1] for _, _, arguments in sanitize.bad_weighings()} == {False, True}
    assert {1, 2, 4} <= seen  # These statuses mean NaN, all weights zero, and infinite.


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([0.0, torch.nan, torch.inf]),
        torch.tensor([1.0, 0.0, torch.inf]),
        torch.tensor([1.0, torch.nan, -torch.inf]),
        torch.tensor([1.0 + 2**-23, torch.nan, torch.inf]),
        torch.tensor([1.0, torch.nan, torch.inf]).double(),
        torch.tensor([[1.0, torch.nan, torch.inf]]),
    ],
)
def test_the_sanitizer_driver_sees_other_bits(wrong):
    right = torch.tensor([1.0, torch.nan, torch.inf])
    outputs = iter((right, right.clone(), wrong, right))
    assert not sanitize.differs(lambda: next(outputs), (), "cpu")
    assert sanitize.differs(lambda: next(outputs), (), "cpu")


@pytest.fixture
def kernels(monkeypatch):
    """Return a function that imitates a GPU for which torch reports kernels of these operators."""

    def stand_in(cuda, triton="off: unused", registered=sanitize.OPERATORS):
        status = {"cpu": "_C.so", "cuda": cuda, "triton": triton}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(sanitize._extension, "kernel_status", lambda: status)
        monkeypatch.setattr(
            sanitize._extension, "_has_cuda_kernel", lambda name: name in registered
        )
        monkeypatch.setattr(sanitize, "calls", lambda few: [("sum", torch.sum, (torch.ones(3),))])
        monkeypatch.setattr(sanitize, "differs", lambda *_: False)

    return stand_in


@pytest.mark.parametrize(
    ("kernel_options", "absent"),
    [
        # Triton's kernels are registered for CUDA too, even when the library is absent or lacks some.
        (("off: no compiled library", ", ".join(sanitize.OPERATORS)), "noise, propagate"),
        (("off: _cuda.so did not load", "off: triton is not installed"), "noise, propagate"),
        (("_cuda.so", "attention, propagate"), "propagate"),
        (("_cuda.so", "attention", sanitize.OPERATORS[:-1]), "score_gram"),
    ],
)
def test_the_sanitizer_driver_refuses_other_kernels(kernels, kernel_options, absent, capsys):
    kernels(*kernel_options)
    assert sanitize.main([]) == 2
    assert f"no CUDA kernel of {absent}" in capsys.readouterr().err


def test_the_sanitizer_driver_tells_how_far_it_came(kernels, capsys):
    kernels("_cuda.so", "attention, potential")
    assert sanitize.main([]) == 0
    assert "1 of 1 calls: sum\n" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_the_sanitizer_driver_needs_a_device():
    assert sanitize.main([]) == 2


def test_chunks_are_of_one_file_and_slow_ones_come_first():
    quick = [f"tests/ops/test_a.py::test[{i}]" for i in range(3)]
    slow = [f"tests/ops/triton/test_attention.py::test[{i}]" for i in range(5)]
    assert [*gpu_tests.chunks([*quick, *slow], 2)] == [
        slow[:2],
        slow[2:4],
        slow[4:],
        quick[:2],
        quick[2:],
    ]


def test_tests_in_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    markers = '[tool.pytest.ini_options]\nmarkers = ["gpu: g", "slow: s"]\n'
    (tmp_path / "pyproject.toml").write_text(markers)
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n@pytest.mark.slow\n@pytest.mark.parametrize('i', range(2))\n"
        "def test_number(i):\n    assert i < 1\n\ndef test_other():\n    assert 0\n"
    )
    folder = tmp_path / "found"
    options = ["--marker", "slow", "--jobs", "1", "--path", "test_some.py"]
    assert gpu_tests.main([str(folder), "--seconds", "60", *options]) == 1
    printed = capsys.readouterr().out
    assert "2 tests in 1 chunks" in printed
    assert "FAILED" in printed
    assert "test_number[1]" in printed
    assert (folder / "000.xml").read_text().count("<testcase") == 2
    assert gpu_tests.main([str(folder), "--seconds", "0", *options]) == 1
    assert "not started" in capsys.readouterr().out
    assert gpu_tests.main([str(folder), "--marker", "gpu"]) == 2


KERNELS, OTHERS = "tests.ops.test_cuda", "tests.gpu.test_some"


@pytest.mark.parametrize(
    ("tests", "wrong"),
    [
        ([(OTHERS, "needs 50 GiB of device memory")], ""),
        ([(KERNELS, "needs 50 GiB of device memory"), (KERNELS, None)], ""),
        ([(KERNELS, "CUDA kernels off: no library"), (KERNELS, None)], "skipped on a GPU"),
        ([(OTHERS, "CUDA kernels not built: C++ only"), (KERNELS, None)], "skipped on a GPU"),
        ([(OTHERS, "no CUDA device"), (OTHERS, None)], "skipped on a GPU"),
        ([(KERNELS, "for some other reason"), (OTHERS, None)], "skipped whole"),
        ([(KERNELS, ""), (KERNELS, "")], "skipped whole"),
    ],
)
def test_skips_that_a_gpu_must_not_have(tests, wrong):
    messages = gpu_tests.wrongly_skipped([gpu_tests.Ran(file, "test", why) for file, why in tests])
    assert messages[0].startswith(wrong) if wrong else not messages


@pytest.mark.parametrize("gpu", [True, False])
def test_skips_are_told_and_fail_on_a_gpu(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    markers = '[tool.pytest.ini_options]\nmarkers = ["gpu: g"]\n'
    (tmp_path / "pyproject.toml").write_text(markers)
    file = tmp_path / "tests" / "ops" / "test_cuda.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import pytest\n\npytestmark = [pytest.mark.gpu, pytest.mark.skipif(True, reason='for some reason')]\n\n"
        "@pytest.mark.parametrize('i', range(2))\ndef test_kernel(i):\n    pass\n"
    )
    status = gpu_tests.main([str(tmp_path / "found"), "--seconds", "60", "--jobs", "1"])
    printed = capsys.readouterr().out
    assert "2 of 2 tests were skipped\n    2 skipped: for some reason\n" in printed
    assert status == int(gpu)
    assert ("skipped whole on a GPU: tests.ops.test_cuda, 2 tests" in printed) == gpu


def test_results_of_a_run_before_do_not_count(tmp_path):
    for kind in ("log", "xml"):
        (tmp_path / f"000.{kind}").write_text("of a run before")
    assert [
        *gpu_tests.ran(tmp_path / "000.xml")
    ] == []  # A file that was cut off does not count either.
    assert gpu_tests.run_chunk(["a.py::b"], tmp_path / "000", end=0).startswith("not started")
    assert [*tmp_path.iterdir()] == []


def test_the_shell_script_is_one():
    script = machine.ROOT / "bench" / "on_gpu.sh"
    assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
    usage = subprocess.run(
        ["sh", str(script), "--help"],
        capture_output=True,
        text=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    assert "--in-place" in usage.stdout
