"""Every example runs, is short, agrees with the exact answer that it prints, and draws its picture."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

matplotlib = pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 60
LARGEST = 120_000
"""Bytes of a picture."""


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run one example as a program; return its variables and the numbers of its printed lines."""

    def run_example(name):
        picture = tmp_path / "new" / f"{name}.png"
        monkeypatch.setattr("sys.argv", [f"{name}.py", str(picture)])
        matplotlib.use("Agg")
        with torch.random.fork_rng():
            variables = runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        matplotlib.pyplot.close("all")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert 10_000 < picture.stat().st_size < LARGEST
        printed = capsys.readouterr().out
        numbers = [
            [float(number) for number in re.findall(r"(?<![\w.])-?\d+\.\d+(?:e-?\d+)?", line)]
            for line in printed.splitlines()
        ]
        return variables, [line for line in numbers if line]

    return run_example


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_has_a_picture_and_is_listed(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith('"""')
    assert f"({path.name})" in (ROOT / "examples" / "README.md").read_text()
    assert 10_000 < (ROOT / "docs" / "images" / f"{path.stem}.png").stat().st_size < LARGEST


def test_there_is_a_test_for_each():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES} <= tested


def test_the_picture_goes_to_out_without_an_argument(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["use_one_operator.py"])
    matplotlib.use("Agg")
    with torch.random.fork_rng():
        runpy.run_path(str(ROOT / "examples" / "use_one_operator.py"), run_name="__main__")
    matplotlib.pyplot.close("all")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["use_one_operator.png"]


def test_temper_a_mixture(run):
    variables, ((exact,), (naive, estimate, error)) = run("temper_a_mixture")
    assert exact == pytest.approx(0.9, abs=0.002)
    assert abs(estimate - exact) < 4 * error + 0.002
    assert naive < 0.75
    # drawn samples have the mass that the title names
    assert float(variables["narrow"](variables["truth"]).mean()) == pytest.approx(exact, abs=0.05)


def test_compose_two_models(run):
    variables, ((exact,), (naive, estimate, error)) = run("compose_two_models")
    assert abs(estimate - exact) < 4 * error + 0.002
    assert naive < exact - 0.2
    # the modes are far apart, so a common mode has the mass of a product of two Gaussians
    sums = variables["first"].stds.square() + variables["second"].stds.square()
    assert exact == pytest.approx(float(sums[0] / (sums[0] + sums[1])), abs=0.02)


def test_distil_your_denoiser(run):
    variables, ((exact, naive, estimate),) = run("distil_your_denoiser")
    assert abs(estimate - exact) < 0.05
    assert naive < exact - 0.15
    x = variables["truth"].sample(200, 0.5, seed=1).float()
    ideal = variables["truth"].denoise(x, 0.5)
    torch.testing.assert_close(variables["mine"](x, torch.full((200,), 0.5)), ideal)


def test_steer_with_a_reward(run):
    variables, ((single,), (few,), (many,), (exact,)) = run("steer_with_a_reward")
    assert single < few < many
    assert abs(many - exact) < 0.1
    plain = variables["plain"]
    assert single == pytest.approx(float(plain.weights @ plain.means[:, 0]), abs=0.15)


def test_solve_an_inverse_problem(run):
    _, (exact, estimates) = run("solve_an_inverse_problem")
    assert sum(exact) == pytest.approx(1, abs=0.002)
    for truth, value, error in zip(exact, estimates[::2], estimates[1::2], strict=True):
        assert abs(value - truth) < 4 * error + 0.002


def test_drop_in_sampler(run):
    variables, printed = run("drop_in_sampler")
    for (name, errors), numbers in zip(variables["measured"].items(), printed, strict=True):
        assert numbers == pytest.approx(errors, rel=0.05)
        assert errors == sorted(errors, reverse=True)
        # with twice the steps, second-order solvers gain a factor of four in the end
        assert name == "sample_euler" or errors[-1] < errors[-2] / 3
    assert variables["measured"]["sample_heun"][-1] < 1e-4


def test_use_one_operator(run):
    variables, ((exact, estimate, error),) = run("use_one_operator")
    assert abs(estimate - exact) < 4 * error + 0.02
    difference = torch.tensor(variables["filtered"]) - variables["centre"]
    assert float(difference.abs().max()) < 0.05
