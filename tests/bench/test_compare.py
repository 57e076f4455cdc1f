"""The comparison of two runs fails for what became slower, wrong or absent, for nothing else."""

from __future__ import annotations

import json

import pytest

from bench import compare


@pytest.fixture
def run(tmp_path):
    def write(name, ratios, **header):
        cases = [
            {"name": case, "ratio": ratio, "failures": {} if ratio else {"ours": "wrong"}}
            for case, ratio in ratios.items()
        ]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"device_name": "x", "threads": 1, **header, "cases": cases}))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("base", "head", "status", "said"),
    [
        ({"a": 2.0}, {"a": 1.95}, 0, "2.00x -> 1.95x (time +2.6%)"),
        ({"a": 2.0}, {"a": 3.0}, 0, "time -33.3%"),
        ({"a": 2.0}, {"a": 1.8}, 1, "SLOWER"),
        ({"a": 2.0}, {}, 1, "GONE"),
        ({"a": 2.0}, {"a": None}, 1, "FAILED"),
        ({}, {"a": None}, 1, "FAILED"),
        ({}, {"a": 0.5}, 0, "new, 0.50x"),
        ({"a": None}, {"a": 0.5}, 0, "new, 0.50x"),
    ],
)
def test_verdicts(run, capsys, base, head, status, said):
    assert compare.main([run("base", base), run("head", head)]) == status
    assert said in capsys.readouterr().out


def test_limit(run):
    files = [run("base", {"a": 2.0}), run("head", {"a": 1.8})]
    assert compare.main([*files, "--fail-above", "12%"]) == 0
    assert compare.main([*files, "--fail-above", "11"]) == 1


@pytest.mark.parametrize("limit", ["-1%", "much"])
def test_bad_limit(run, limit):
    with pytest.raises(SystemExit):
        compare.main([run("base", {}), run("head", {}), f"--fail-above={limit}"])


@pytest.mark.parametrize("header", [{"device_name": "y"}, {"threads": 2}])
def test_other_machines_are_not_compared(run, header, capsys):
    with pytest.raises(SystemExit):
        compare.main([run("base", {"a": 1.0}), run("head", {"a": 1.0}, **header)])
    assert "differ in" in capsys.readouterr().err
