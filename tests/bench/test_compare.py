"""Test that the comparison of two runs fails for slower, wrong or missing cases and for nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import compare
from bench.report import measured


@pytest.fixture
def run(tmp_path):
    def write(name, ratios, **header):
        cases = [
            {"name": case, "ratio": ratio, "failures": {} if ratio else {"ours": "wrong"}}
            if ratio is None or isinstance(ratio, float)
            else {"name": case, **ratio}
            for case, ratio in ratios.items()
        ]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"device_name": "x", "threads": 1, **header, "cases": cases}))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("base", "head", "status", "message"),
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
def test_verdicts(run, capsys, base, head, status, message):
    assert compare.main([run("base", base), run("head", head)]) == status
    assert message in capsys.readouterr().out


def test_limit(run):
    files = [run("base", {"a": 2.0}), run("head", {"a": 1.8})]
    assert compare.main([*files, "--fail-above", "12%"]) == 0
    assert compare.main([*files, "--fail-above", "11"]) == 1


@pytest.mark.parametrize("limit", ["-1%", "much"])
def test_bad_limit(run, limit):
    with pytest.raises(SystemExit):
        compare.main([run("base", {}), run("head", {}), f"--fail-above={limit}"])


@pytest.mark.parametrize("header", [{"device_name": "y"}, {"threads": 2}, {"quick": True}])
def test_other_machines_are_not_compared(run, header, capsys):
    with pytest.raises(SystemExit):
        compare.main([run("base", {"a": 1.0}), run("head", {"a": 1.0}, **header)])
    assert "differ in" in capsys.readouterr().err


@pytest.mark.parametrize("header", [{"complete": False}, {"left_out": []}, {"left_out": ["b"]}])
@pytest.mark.parametrize("side", [0, 1])
def test_a_run_that_did_not_come_to_its_end_is_refused(run, capsys, header, side):
    headers = [{"complete": True, "left_out": []}] * 2
    headers[side] = header
    files = [run(str(i), {"a": 2.0}, **header) for i, header in enumerate(headers)]
    with pytest.raises(SystemExit) as refused:
        compare.main(files)
    assert refused.value.code == 2
    assert "did not come to its end" in capsys.readouterr().err


def test_what_a_budget_left_out_is_not_gone(run, capsys):
    ended = {"complete": True}
    base = run("base", {"a": 2.0, "b": 2.0}, left_out=["c", "d"], **ended)
    head = run("head", {"a": 2.0, "c": 2.0}, left_out=["b"], **ended)
    assert compare.main([base, head]) == 0
    out = capsys.readouterr().out
    assert "left out of the head" in out
    assert "left out of the base, 2.00x" in out
    assert "2 of 3 cases not compared" in out
    assert "GONE" not in out
    # A wrong answer fails, and a case that no budget left out counts as gone.
    assert compare.main([base, run("wrong", {"a": 2.0, "b": 2.0, "c": None}, **ended)]) == 1
    assert compare.main([base, run("gone", {"b": 2.0}, left_out=["c"], **ended)]) == 1


def test_times_of_other_timers_are_not_compared(run, capsys):
    case = timed(rival=2.0)
    files = [
        run(timer, {"a": case | {"timer": timer}, "b": case}) for timer in ("events", "graphs")
    ]
    assert compare.main(files) == 0
    out = capsys.readouterr().out
    assert "not comparable: events and graphs" in out
    assert "2.00x -> 2.00x" in out


def timed(spread=0.0, rounds=9, wrong=(), dtype="torch.float32", goals=(), **medians):
    """Return a case with these medians (`ours` defaults to 1), so many rounds each and a spread on both sides."""
    medians = {"ours": 1.0, **medians}
    timings = {
        name: {"median": m, "p20": m / (1 + spread), "p80": m * (1 + spread), "rounds": rounds}
        for name, m in medians.items()
    }
    rivals = [m for name, m in medians.items() if name not in ("ours", *goals)]
    return {
        "timings": timings,
        "ratio": min(rivals) / medians["ours"],
        "goals": dict.fromkeys(goals, 1.0),
        "goal_met": min(rivals) / medians["ours"] >= 2,
        "failures": dict.fromkeys(wrong, "wrong"),
        "dtype": dtype,
    }


@pytest.mark.parametrize(
    ("base", "head", "status", "message"),
    [
        # Each of the four medians has an error of 4.7 %; three errors of the ratio are 0.284 in its logarithm.
        (timed(0.1, rival=2.0), timed(0.1, rival=1.6), 0, "(time +25.0%)  within the noise"),
        (timed(0.1, rival=2.0), timed(0.1, rival=1.5), 1, "(time +33.3%)  SLOWER"),
        (timed(0.1, rival=2.0), timed(0.1, rival=2.5), 0, "(time -20.0%)  within the noise"),
        (timed(0.1, rival=2.0), timed(0.1, rival=3.0), 0, "(time -33.3%)  faster"),
        (timed(0.01, rival=2.0), timed(0.01, rival=1.93), 0, "(time +3.6%)\n"),
        (timed(0.01, rival=2.0), timed(0.01, rival=1.8), 1, "(time +11.1%)  SLOWER"),
        # A spread between rounds matters little when there are many rounds, and much when there are few.
        (timed(0.15, 723, rival=2.0), timed(0.15, 723, rival=1.7), 1, "(time +17.6%)  SLOWER"),
        (timed(0.15, 723, rival=2.0), timed(0.15, 723, rival=2.4), 0, "(time -16.7%)  faster"),
        (timed(0.15, 5, rival=2.0), timed(0.15, 5, rival=1.7), 0, "(time +17.6%)  within the noise"),
        (timed(0.15, 5, rival=2.0), timed(0.15, 723, rival=1.7), 0, "(time +17.6%)  within the noise"),
        (timed(0.15, 723, rival=2.0), timed(0.15, 723, rival=1.92), 0, "(time +4.2%)\n"),
        # When a faster baseline appears or the best one goes, the baseline common to both decides.
        (timed(rival=2.0), timed(rival=2.0, new=1.0), 0, "2.00x -> 2.00x (time +0.0%)\n"),
        (timed(rival=2.0, old=1.5), timed(rival=1.8), 1, "2.00x -> 1.80x (time +11.1%)  SLOWER"),
        (timed(rival=2.0), timed(other=1.0), 0, "new, 1.00x"),
        # A bound is not a rival.
        (timed(rival=2.0, part=0.9, goals=["part"]), timed(rival=2.0, part=0.5, goals=["part"]), 0, "2.00x"),
        (timed(rival=2.0), timed(rival=2.0, wrong=["third"]), 0, "(wrong: third)"),
    ],
)  # fmt: skip
def test_verdicts_with_a_spread(run, capsys, base, head, status, message):
    assert compare.main([run("base", {"a": base}), run("head", {"a": head})]) == status
    assert message in capsys.readouterr().out


def sides(run, base, head):
    """Return the two command-line arguments for files of these cases."""
    return [
        ",".join(run(f"{side}{i}", {"a": case}) for i, case in enumerate(cases))
        for side, cases in (("base", base), ("head", head))
    ]


@pytest.mark.parametrize(
    ("base", "head", "status", "message"),
    [
        ([2.0, 2.1], [1.6, 1.7], 1, "2.05x -> 1.65x (time +24.2%)  SLOWER"),
        # Here one run of the head, or of the base, contradicts the other.
        ([2.0, 2.0], [1.6, 2.0], 0, "(time +11.1%)  within the noise"),
        ([2.0, 1.6], [1.6, 1.6], 0, "(time +12.5%)  within the noise"),
        # Each head run is slower than the base run before it, but the machine drifts by as much.
        ([2.4, 2.0], [2.0, 1.6], 0, "(time +22.2%)  within the noise"),
        ([2.0, 2.1], [2.0, 2.1], 0, "(time +0.0%)\n"),
        ([2.0, 2.1], [2.6, 2.7], 0, "faster"),
        ([2.0], [1.6, 1.7], 1, "SLOWER"),
    ],
)
def test_several_runs_must_agree(run, capsys, base, head, status, message):
    base, head = ([timed(0.01, 99, rival=ratio) for ratio in side] for side in (base, head))
    assert compare.main(sides(run, base, head)) == status
    assert message in capsys.readouterr().out


def test_one_wrong_run_of_several_fails(run, capsys):
    good = timed(rival=2.0)
    wrong = timed(rival=2.0, wrong=["ours"]) | {"timings": {}, "ratio": None}
    assert compare.main(sides(run, [good, good], [good, wrong])) == 1
    assert "FAILED  (wrong: ours)" in capsys.readouterr().out


def test_only_baselines_of_every_run_count(run, capsys):
    both = timed(rival=2.0, quick=1.0)
    arguments = sides(run, [both, both], [both, timed(rival=1.5)])
    assert compare.main(arguments) == 0
    assert "2.00x -> 1.75x (time +14.3%)  within the noise" in capsys.readouterr().out


def test_a_side_is_of_one_commit(run, capsys):
    files = [run(f"base{i}", {"a": 2.0}, commit=f"c{i}") for i in (0, 1)]
    with pytest.raises(SystemExit):
        compare.main([",".join(files), run("head", {"a": 2.0})])
    assert "of several commits: c0, c1" in capsys.readouterr().err


@pytest.mark.parametrize("header", [{"complete": False}, {"device_name": "y"}])
def test_every_file_of_a_side_is_looked_at(run, header):
    files = [run("base", {"a": 2.0}), run("head1", {"a": 2.0}), run("head2", {"a": 2.0}, **header)]
    with pytest.raises(SystemExit) as refused:
        compare.main([files[0], ",".join(files[1:])])
    assert refused.value.code == 2


def test_the_error_of_a_median():
    draws = 100 + 5 * np.random.default_rng(0).standard_normal((4000, 101))
    p20, p50, p80 = np.quantile(draws, [0.2, 0.5, 0.8])
    error = measured.Spread(p50, p20, p80, 101).error
    assert error == pytest.approx(np.median(draws, axis=1).std() / 100, rel=0.04)


def test_the_error_of_a_ratio():
    case = measured.read_case(timed(0.1, 16, rival=3.0, slow=9.0) | {"name": "a"})
    ratio = case.against(case.rivals)
    width = 1.1 - 1 / 1.1
    assert ratio.value == 3.0
    assert ratio.error == pytest.approx(2**0.5 * 1.2533 * width / 1.683 / 4)


def test_other_dtypes_are_not_compared(run, capsys):
    files = [run("base", {"a": timed(rival=2.0)}), run("head", {"a": timed(rival=2.0, dtype="b")})]
    with pytest.raises(SystemExit):
        compare.main(files)
    assert "differ in the dtype of a" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"benchmarks": [{}]}', '{"cases": [{}]}'])
def test_other_files_are_refused(run, tmp_path, capsys, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "other.json"), run("head", {"a": 1.0})])
    assert "error:" in capsys.readouterr().err


def test_the_table_of_a_pull_request(run, tmp_path):
    base = {"same": timed(rival=3.0), "slower": timed(rival=2.0), "a|b": 2.0, "gone": 1.0}
    head = {"same": timed(rival=3.0), "slower": timed(rival=1.0), "a|b": None, "new": 5.0}
    table = tmp_path / "table.md"
    files = [run("base", base, commit="c1"), run("head", head, commit="c2")]
    assert compare.main([*files, "--markdown", str(table)]) == 1
    text = table.read_text()
    assert text.startswith(
        "**3 of 5 slower, failed or gone** (limit 5%), 0 within the noise, 0 of 5 cases not compared; "
    )
    assert "goals of the head: 1 met, 1 missed." in text
    assert "base `c1`" in text
    assert "head `c2`" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| slower | 2.00x | 1.00x | +100.0% | **SLOWER** |",
        r"| a\|b | 2.00x |  |  | **FAILED** (wrong: ours) |",
        "| gone | 1.00x |  |  | **GONE** |",
        "| same | 3.00x | 3.00x | +0.0% |  |",
        "| new |  | 5.00x |  | new |",
    ]
