"""Test that the commands in workflows and documents exist, and that workflows never run text of strangers."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from bench.gpu import check as gpu_check

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCUMENTS = [
    *(ROOT / name for name in ("bench/README.md", "CONTRIBUTING.md", "README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# The last group is the rest of a line, with the lines that a backslash joins to it.
_COMMAND = re.compile(r"(?:python -m (bench(?:\.\w+)+)|(pytest bench/))((?:\\\n|[^\n`|;)#])*)")


def commands():
    """Return (module, options) of every `python -m bench.X` and `pytest bench/`."""
    commands_named = set()
    for path in [*WORKFLOWS, *DOCUMENTS]:
        for module, suite, rest in _COMMAND.findall(path.read_text()):
            options = re.findall(r"(?<=\s)--[\w-]+", f" {rest}")
            commands_named.add((module or suite, tuple(sorted(options))))
    return sorted(commands_named)


def named_files():
    """Return (workflow, path) of every file of the repository that a workflow names."""
    pattern = re.compile(r"(?<![\w./$}])((?:bench|tests|\.ci)/[\w./]*\w|[\w-]+\.(?:toml|py|sh))")
    files = set()
    for path in WORKFLOWS:
        text = re.sub(r"\$\{\{.*?\}\}", "", path.read_text())
        files |= {(path.name, name) for name in pattern.findall(text)}
    return sorted(files)


def main_of(module):
    """Return the function main of a module, or of the `__main__` of a package."""
    imported = importlib.import_module(module)
    if not hasattr(imported, "main"):
        imported = importlib.import_module(f"{module}.__main__")
    return imported.main


def help_of(module):
    """Return the exit status of --help for a module or for `pytest bench/`."""
    if module == "pytest bench/":
        return pytest.main(["-c", str(ROOT / "pyproject.toml"), str(ROOT / "bench"), "--help"])
    return main_of(module)(["--help"])


@pytest.mark.parametrize(("module", "options"), commands())
def test_commands_that_are_named_exist(module, options, capsys):
    if (
        module.startswith("bench.") and not options
    ):  # Some commands take no option, not even --help.
        assert callable(main_of(module))
        return
    try:
        code = help_of(module)
    except SystemExit as finished:
        code = finished.code
    assert code == 0
    assert set(options) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def test_commands_are_found():
    assert ("bench.compare", ("--fail-above", "--markdown")) in commands()
    assert any(module == "pytest bench/" and options for module, options in commands())


@pytest.mark.parametrize(("workflow", "name"), named_files())
def test_files_that_a_workflow_names_exist(workflow, name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_have_a_version_and_tokens_are_read_only(path):
    text = path.read_text()
    assert re.findall(r"uses: (?![\w-]+/[\w-]+@v\d+(?:\.\d+\.\d+)?\n).*", text) == []
    assert "pull_request_target" not in text
    assert re.search(r"^permissions:\n  contents: read\n(?! )", text, re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_steps_of_a_workflow(path):
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load(path.read_text())["jobs"]
    for job in jobs.values():
        needs = job.get("needs", [])
        assert {*([needs] if isinstance(needs, str) else needs)} <= set(jobs)
        # A job that runs code of a pull request may write nothing.
        if "self-hosted" in job["runs-on"]:
            assert "permissions" not in job
        for step in job["steps"]:
            script = step.get("run", "") + step.get("with", {}).get("script", "")
            assert "${{" not in script, "give it to the script by env"
            if "self-hosted" in job["runs-on"] and "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            for line in step.get("run", "").replace("\\\n", " ").splitlines():
                assert shlex.split(line)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_are_valid_and_call_targets_that_exist(path):
    yaml = pytest.importorskip("yaml")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for script in (step["run"] for step in job["steps"] if "run" in step):
            parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
            assert parsed.returncode == 0, parsed.stderr
            assert {*re.findall(r"^make (?:-C \w+ )?([a-z-]+)", script, re.MULTILINE)} <= {*targets}


def test_a_comparison_is_of_what_was_measured_in_turn():
    text = (ROOT / ".github" / "workflows" / "bench-gpu.yml").read_text()
    measured = re.search(r"for file in (.*); do", text)[1].split()
    assert [name[:-1] for name in measured] == ["base", "head"] * 2
    (line,) = (line for line in text.splitlines() if "-m bench.compare" in line)
    sides = re.findall(r'"(\S+,\S+)"', line)
    assert [re.findall(r"(\w+)\.json", side) for side in sides] == [
        ["base1", "base2"],
        ["head1", "head2"],
    ]
    # A crash stops the job; a wrong answer does not.
    assert re.findall(r"\|\| test.*", text) == ["|| test $? = 3"]


def test_the_history_has_every_case():
    text = (ROOT / ".github" / "workflows" / "bench-gpu.yml").read_text()
    filed = re.search(r'bench\.report\.history "([^"]+)"', text)[1]
    (measured,) = (line for line in text.splitlines() if f'--json "{filed}"' in line)
    assert "bench.run --device cuda" in measured
    assert not re.search(r"--(budget|only|quick)|\|\|", measured)


def test_the_gpu_check_takes_what_a_workflow_gives_it(capsys):
    options = [
        word
        for path in WORKFLOWS
        for line in re.findall(r"on_gpu\.sh(.*)", path.read_text())
        for word in shlex.split(line)
        if word.startswith("-")
    ]
    assert options
    with pytest.raises(SystemExit):
        gpu_check.main(["--help"])
    assert set(options) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def test_strangers_start_nothing_on_our_machine():
    yaml = pytest.importorskip("yaml")
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text())
        events = content[True]  # YAML reads the key `on` as a truth value.
        for name, job in content["jobs"].items():
            if "self-hosted" not in job["runs-on"]:
                continue
            assert "if" in job, name
            assert events.get("push", {}).get("branches", ["main"]) == ["main"]
            if "pull_request" in job["if"] or "label" in job["if"]:
                assert events["pull_request"] == {"types": ["labeled"]}
                assert "github.event.label.name == 'bench-gpu'" in job["if"]


def test_slow_tests_run_at_night_and_only_there():
    (line,) = re.findall(r"^TESTS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert shlex.split(line) == ["-m", "not slow"]
    text = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert 'make test TESTS="-m slow"' in text
    assert "bench.studies.fuzz --sanitize" in text
    assert re.search(r"schedule:\n    - cron:", text)
