"""Test that the report shows what the files say, missed goals first, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.report import charts, laws, quoted, reasons, records, sections
from bench.report import render as report

ROOT = Path(__file__).parents[2]


def timing(median):
    return {"median": median, "p20": 0.9 * median, "p80": 1.1 * median, "rounds": 15}


def case(name, ratio, goal=1.0, **changes):
    fields = {
        "name": name,
        "shape": [10],
        "dtype": "torch.float32",
        "direction": "forward",
        "timer": "clock",
        "failures": {},
        "timings": {"ours": timing(1e-3), "eager": timing(1e-3 * ratio)},
        "best_baseline": "eager",
        "ratio": ratio,
        "goal": goal,
        "bounds": {},
        "goals": {},
        "floor_goal": None,
        "goal_met": ratio >= goal,
        "bytes": 10**6,
        "flops": 0,
        "inner": "",
        "evaluations": 0,
        "evaluation_rate": None,
        "floor_fraction": 0.1,
        "peak_bytes": {"ours": 2_000_000, "eager": 3_000_000},
        "anatomy": {
            "calls": 7,
            "idle": 0.25,
            "parts": [{"name": "aten::mm", "share": 0.5, "calls": 3}],
        },
    }
    return fields | changes


def run(cases, **changes):
    header = {
        "device": "cpu",
        "device_name": "Some CPU",
        "threads": 1,
        "quick": False,
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc1234567",
        "versions": {"torch": "2.13.0"},
        "floors": {"bandwidth": 1e10, "gemm": {"torch.float32": 1e11}},
    }
    return header | {"cases": cases} | changes


@pytest.fixture
def folder(tmp_path):
    def write(name, content, device="cpu-some"):
        path = tmp_path / device / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return tmp_path

    return write


def test_the_report_on_disk_is_what_the_results_say():
    assert report.main(["--check"]) == 0, "run python -m bench.report and commit what it writes"


def test_only_the_newest_file_of_a_kind_is_kept():
    """Superseded results belong to the branch bench-history."""
    kept = [(record.device, record.kind) for record in records.load()]
    assert len({*kept}) == len(kept)
    shown = {"scaling", "startup", "kernels", "control", "targets", "learned", "fokker-planck"}
    shown |= {"distillation", "training", "repeats"}
    assert {kind for _, kind in kept} <= {records.RUN, *shown}


def test_what_is_missed_comes_first_with_its_reason(folder):
    cases = [case("a/met", 2.0), case("b/missed", 0.5)]
    text = report.render(records.load(folder("2026-01-02-abc1234567", run(cases))))
    first = text.index("b/missed")
    assert first < text.index("a/met")
    line = next(line for line in text.splitlines() if line.startswith("| b/missed"))
    assert "0.50x eager (goal 1x)" in line
    for measured in ("7 operators", "25% of the time in none", "aten::mm 50%", "1 GB/s", "10%"):
        assert measured in line
    assert "holds 2 MB at most (eager: 3 MB)" in line


def test_without_a_gpu_its_cases_are_unmeasured(folder):
    text = report.render(records.load(folder("2026-01-02-abc1234567", run([case("a/1", 2.0)]))))
    waiting = text[text.index("## GPU: unmeasured") :]
    assert re.search(r"\| attention/bf16 orders .* \| 3x the best of .* \| unmeasured \|", waiting)
    folder("2026-01-02-abc1234567", run([case("a/1", 2.0)], device="cuda"), device="cuda-some")
    text = report.render(records.load(folder("2026-01-02-abc1234567", run([case("a/1", 2.0)]))))
    assert "GPU: unmeasured" not in text
    # The report still lists the cases that this run lacks.
    assert re.search(r"\| attention/bf16 orders .* \| 3x the best of .* \| unmeasured \|", text)


def test_what_was_refused_is_told(folder):
    refused = case("a/1", 2.0, failures={"loop": "AssertionError: wrong"}, goals={"loop": 0.7})
    text = report.render(records.load(folder("2026-01-02-abc1234567", run([refused]))))
    assert "| a/1 | loop | AssertionError: wrong |" in text
    assert "loop failed its check" in reasons.missed(refused)


def test_failed_cases_and_bounds_are_missed():
    assert reasons.missed(case("a/1", 2.0)) == []
    bound = case("a/1", 2.0, bounds={"loop": 0.5}, goals={"loop": 0.77})
    assert reasons.missed(bound) == ["0.50x loop (goal 0.77x)"]
    floor = case("a/1", 2.0, floor_goal=0.85, floor_fraction=0.4)
    assert reasons.missed(floor) == ["40% of the floor (goal 85%)"]
    failed = case("a/1", 2.0) | {"ratio": None, "timings": {}, "failures": {"ours": "wrong"}}
    assert reasons.missed(failed) == ["failed: wrong"]
    assert reasons.reason(failed, run([])) == ""


def test_launches_registers_and_occupancy_of_a_gpu():
    part = {"name": "kernel", "share": 0.5, "calls": 2, "registers": 40, "occupancy": 75}
    missed = case("a/1", 0.5, anatomy={"calls": 9, "idle": 0.4, "parts": [part]})
    reason = reasons.reason(missed, run([], device="cuda"))
    assert "9 launches, the device waits 40%" in reason
    assert "kernel 50% (40 registers, occupancy 75 %)" in reason


def test_cases_timed_by_graphs_are_counted(folder):
    cases = [case("a/1", 2.0), case("b/1", 2.0, timer="graphs")]
    content = run(cases, device="cuda", left_out=["c/1"])
    (record,) = records.load(folder("2026-01-02-abc1234567", content, device="cuda-some"))
    provenance = sections.provenance(record)
    assert "1 of 2 cases replayed CUDA graphs" in provenance
    assert "No time was left for 1 cases: c/1" in provenance
    assert "thread" not in provenance


def test_efficiency_and_tax_of_whole_runs(folder):
    timings = {"ours": timing(2.0), "ancestral": timing(1.6), "network alone": timing(1.9)}
    whole = case(
        "sampler/1", 0.8, timings=timings, inner="network alone", evaluation_rate=1e6, evaluations=9
    )
    (record,) = records.load(folder("2026-01-02-abc1234567", run([case("a/1", 2.0), whole])))
    (line,) = sections.runs(record).splitlines()[2:]
    assert line == "| sampler/1 | 1e+06 | 0.950 | +25.0% |"


def test_the_newest_run_is_shown(folder):
    old = run([case("a/old", 2.0)], date="2026-01-02T01:00:00+00:00")
    folder("2026-01-02-ffffffffff", old)
    folder("sampler-2026-01-03-abc1234567", run([case("a/part", 2.0)]))
    folder("2026-01-04-0000000000", run([case("a/quick", 2.0)], quick=True))
    folder("2026-01-05-0000000000", run([case("a/part", 2.0)], only="a/"))
    for number, part in enumerate([{"complete": False}, {"left_out": ["b/1"]}]):
        folder(f"2026-01-06-000000000{number}", run([case("a/part", 2.0)], **part))
    folder("2026-01-07-0000000000-dirty", run([case("a/dirty", 2.0)]))
    loaded = records.load(folder("2026-01-02-abc1234567", run([case("a/new", 2.0)])))
    (shown,) = report.chosen(loaded)
    assert [case["name"] for case in shown.content["cases"]] == ["a/new"]


def test_what_stands_beside_a_run_came_to_its_end(folder):
    folder("scaling-2026-01-02-abc1234567", run([], complete=True, axes=[]))
    folder("scaling-2026-01-03-abc1234567", run([], complete=False, axes=[]))
    folder("scaling-2026-01-04-abc1234567", run([], complete=True, quick=True, axes=[]))
    folder("scaling-2026-01-05-abc1234567-dirty", run([], complete=True, axes=[]))
    loaded = records.load(folder("2026-01-02-abc1234567", run([case("a/new", 2.0)])))
    beside = records.beside(report.chosen(loaded)[0], loaded, "scaling")
    assert beside.date == "2026-01-02"


def test_a_projection_has_a_column_for_every_dimension(folder):
    row = {"name": "memory", "unit": "GB", "basis": "counted", "values": {"2": 0.5625, "64": None}}
    projection = {"rows": [row], "assumptions": ["assumed: much"]}
    folder("scaling-2026-01-02-abc1234567", run([], axes=[], projection=projection))
    text = report.render(records.load(folder("2026-01-02-abc1234567", run([case("a/1", 2.0)]))))
    assert "|  | D = 2 | D = 64 |  | from |" in text
    assert "| memory | 0.562 | - | GB | counted |" in text


def test_other_names_of_files_are_refused(folder):
    with pytest.raises(ValueError, match=r"expected \[kind-\]YYYY-MM-DD-commit.json"):
        records.load(folder("results", run([])))


def test_quotes_replace_what_stood_between_their_marks(folder):
    (record,) = records.load(
        folder("2026-01-02-abc1234567", run([case("resample/1x1000000", 4.06)]))
    )
    text = quoted.insert(
        f"a\n{quoted.START}\nold\n{quoted.END}\nb\n", quoted.block(record, "charts")
    )
    assert "a million particles | 4.1x | eager |" in text
    assert "old" not in text
    assert "1 of 1 goals are met" in text
    assert "Every goal is met." in text
    assert text.startswith("a\n")
    assert text.endswith(f"{quoted.END}\nb\n")
    with pytest.raises(ValueError, match="page needs a line"):
        quoted.insert("nothing", "content")


def test_charts_are_pictures(folder, tmp_path):
    scaling = {
        "device_name": "Some CPU",
        "axes": [
            {
                "name": "N",
                "unit": "particles",
                "sizes": [10, 100, 1000],
                "seconds": [1e-5, 1e-4, 1e-3],
                "p20": [1e-5, 1e-4, 1e-3],
                "p80": [1e-5, 1e-4, 1e-3],
                "exponent": 1.0,
                "exponent_error": 0.01,
            }
        ],
    }
    folder("scaling-2026-01-02-abc1234567", scaling)
    cases = [case("a/1", 2.0), case("b/1", 0.5, flops=10**8)]
    loaded = records.load(folder("2026-01-02-abc1234567", run(cases)))
    charts.ratios(run([case("a/1", 2.0) | {"ratio": None}]), tmp_path / "empty.png")
    paths = report.draw(loaded, tmp_path / "charts")
    assert [path.stem for path in paths] == [
        f"cpu-some-{name}" for name in ("ratios", "roofline", "scaling")
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    before = [path.read_bytes() for path in paths]
    old = tmp_path / "charts" / "cpu-another-ratios.png"
    old.write_bytes(before[0])
    report.draw(loaded, tmp_path / "charts")
    assert [path.read_bytes() for path in paths] == before, "the same numbers, other bytes"
    assert {*old.parent.iterdir()} == {*paths}


def test_page_compares_laws_by_task():
    """A law that a task does not have leaves its cell empty, and costs are those of one model."""
    both = {"steps": 2, "numbers": {"tv": [0.1, 0.3], "variance": [1.5], "ancestors": [40.0]}}
    square = [{"law": "ours", "forwards": 3, "vjps": 2, **both}]
    product = [
        {"law": "ours", "forwards": 6, "vjps": 4, **both},
        {"law": "another", "steps": 4, "forwards": 8, "vjps": 0, "numbers": {"tv": [0.5]}},
    ]
    sizes = {"particles": 256, "populations": 16}
    comparisons = [
        {"task": "p^2", "models": 1, **sizes, "rows": square},
        {"task": "pq", "models": 2, **sizes, "rows": product},
        {"task": "p^2", "models": 1, **sizes, "particles": 64, "rows": []},
    ]
    content = {"device_name": "Some CPU", "commit": "abc", "comparisons": comparisons}
    text = laws.block(records.Record(ROOT, "cpu", "control", "2026-01-02", "abc", content))
    assert "Some CPU, commit abc: 256 particles, means over 16 runs" in text
    assert "| ours | 2 | 3 + 2 | 0.20 | 0.20 | 1.5 | 40 % |" in text
    assert "| another | 4 | 4 + 0 |  | 0.50 |  |  |" in text


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_pages_have_no_measured_number_of_their_own(name):
    """Ratios, percentages and times belong to the quoted block, which is written from results."""
    text = re.sub(f"{quoted.START}.*?{quoted.END}", "", (ROOT / name).read_text(), flags=re.DOTALL)
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    number = r"\d[\d.]*\s?(?:x|%|times|ms|us|µs|s|seconds?|minutes?|[GMT]B|GB/s|[GT]flop/s)(?![\w])"
    assert re.findall(number, text) == []
