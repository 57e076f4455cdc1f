"""`python -m bench.report`: render results/*.json into RESULTS.md, its charts, and pages of docs/.

What is missed comes first. Of every device type the newest full run is shown, with the newest of each other kind
on that device; older runs are listed at the end. Cases for a GPU stay "unmeasured" until one has run them.
`--check` writes nothing and exits with 1 where the files on disk say something else than the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.harness import machine, registry
from bench.report import charts, kinds, laws, quoted, records, sections
from bench.report.records import Record

REPORT = machine.ROOT / "bench" / "RESULTS.md"
PAGE = machine.ROOT / "docs" / "performance.md"
CHOOSING = machine.ROOT / "docs" / "choosing.md"
CHARTS = "images/charts"
"""The folder of the charts, seen from the page."""
_INTRODUCTION = """\
# Results

Written by `python -m bench.report` from the files in `results/`; edit nothing here. A ratio is the time of the
best baseline / ours, of medians measured side by side in one run: above 1 we are faster. "Of floor" is the least
possible time (bytes / copy bandwidth or flops / matrix-product rate, both measured in the same run) / ours: above
100 % the data sat in a cache, or was read more than written, which a copy does not. Brackets hold the 20th and
80th percentile. The table of all cases gives the time of every baseline and its ratio, the best one in bold:
"eager" is plain torch, and "compiled" what torch.compile makes of it, by a step that is often rewritten for it by
hand. Other goals are those of single baselines: a rival, a hand-written loop, a part of the job, the floor. "Peak"
is what one call holds at most beyond its inputs."""


def chosen(results: list[Record]) -> list[Record]:
    """The newest full run of each device type, GPUs first."""
    by_type = {record.content["device"]: record for record in results if records.is_full(record)}
    return [by_type[device] for device in ("cuda", "cpu") if device in by_type]


def render(results: list[Record]) -> str:
    """The report as Markdown."""
    shown = chosen(results)
    parts = [_INTRODUCTION]
    repeated = [found for record in shown if (found := records.beside(record, results, "repeats"))]
    if repeated:
        parts += ["## Slower than a rival"]
    for record in repeated:
        parts += [f"### {record.content['device_name']}", kinds.repeats(record, registry.load())]
    parts += ["## Goals that are missed"]
    for record in shown:
        parts += [f"### {record.content['device_name']}", sections.missed(record)]
    if all(record.content["device"] != "cuda" for record in shown):
        parts += ["### GPU", "Unmeasured: no run on a GPU is on record. Its cases are below."]
    for record in shown:
        parts += _device(record, results)
    if all(record.content["device"] != "cuda" for record in shown):
        cases = [case for case in registry.load() if "cuda" in case.devices]
        waiting = [case for case in registry.select(cases, "cuda") if "cpu" not in case.devices]
        parts += [
            "## GPU: unmeasured",
            "`bench/on_gpu.sh` measures these, and all cases of the CPU besides, where a GPU is.",
            sections.unmeasured(waiting),
        ]
    parts += ["## All files", kinds.files(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _device(record: Record, results: list[Record]) -> list[str]:
    name = record.content["device_name"]
    parts = [f"## {name}", sections.provenance(record)]
    parts += [_image("ratios", record), _image("roofline", record)]
    if whole := sections.runs(record):
        parts += ["### Whole runs", whole]
    parts += ["### All cases", sections.all_cases(record), sections.refused(record)]
    parts += [sections.not_run(record, registry.select(registry.load(), record.content["device"]))]
    if training := records.beside(record, results, "training"):
        parts += ["### Training steps", kinds.some_cases(training)]
    if scaling := records.beside(record, results, "scaling"):
        parts += ["### Scaling", kinds.scaling(scaling), _image("scaling", record)]
    if startup := records.beside(record, results, "startup"):
        parts += ["### Installing", kinds.some_cases(startup)]
    if kernels := records.beside(record, results, "kernels"):
        parts += ["### GPU kernels as compiled", kinds.kernels(kernels)]
    if control := records.beside(record, results, "control"):
        parts += ["### Controlled sampling", kinds.control(control)]
    if learned := records.beside(record, results, "learned"):
        parts += ["### Learned energies", kinds.learned(learned)]
    if residual := records.beside(record, results, "fokker-planck"):
        parts += ["### The Fokker–Planck loss", kinds.fokker_planck(residual)]
    if targets := records.beside(record, results, "targets"):
        parts += ["### Hard targets", kinds.targets(targets)]
    return parts


def _image(name: str, record: Record) -> str:
    return f"![{name}](../docs/{CHARTS}/{record.device}-{name}.png)"


def draw(results: list[Record], folder: Path) -> list[Path]:
    """All charts of the report, and no other, in the folder; their paths."""
    paths = []
    for record in chosen(results):
        drawn: list[tuple[Callable[[dict[str, Any], Path], None], Record]] = [
            (charts.ratios, record),
            (charts.roofline, record),
        ]
        if scaling := records.beside(record, results, "scaling"):
            drawn.append((charts.scaling, scaling))
        for chart, source in drawn:
            path = folder / f"{record.device}-{chart.__name__}.png"
            chart(source.content, path)
            paths.append(path)
    for path in {*folder.glob("*.png")} - {*paths}:  # of a device that is not shown any more
        path.unlink()
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(arguments)
    results = records.load()
    if not chosen(results):
        print(f"report: no full run under {records.RESULTS}", file=sys.stderr)
        return 2
    texts = {
        REPORT: render(results),
        PAGE: quoted.insert(PAGE.read_text(), quoted.block(chosen(results)[-1], CHARTS)),
    }
    if compared := [*records.newest(results, "control").values()]:
        block = laws.block(max(compared, key=lambda record: record.order))
        texts[CHOOSING] = quoted.insert(CHOOSING.read_text(), block, laws.START, laws.END)
    if options.check:
        stale = [
            path for path, text in texts.items() if not path.exists() or path.read_text() != text
        ]
        for path in stale:
            print(f"report: {path.name} is not what the results say: python -m bench.report")
        return int(bool(stale))
    for path, text in texts.items():
        path.write_text(text)
    for path in draw(results, PAGE.parent / CHARTS):
        print(f"written: {path.relative_to(machine.ROOT)}")
    return 0
