"""State why a case misses its goal, from measurements: operators or launches, time, bytes, flops, memory."""

from __future__ import annotations

from typing import Any

from bench.harness.table import memory


def missed(case: dict[str, Any]) -> list[str]:
    """Return the goals of a case that a run misses, each with the value that it reached."""
    if case["ratio"] is None:
        return [f"failed: {'; '.join(case['failures'].values()) or 'no baseline passed'}"]
    parts = []
    if case["ratio"] < case["goal"]:
        parts.append(f"{case['ratio']:.2f}x {case['best_baseline']} (goal {case['goal']:.2g}x)")
    for name, reached in case["bounds"].items():
        if reached < case["goals"][name]:
            parts.append(f"{reached:.2f}x {name} (goal {case['goals'][name]:.2g}x)")
    parts += [f"{name} failed its check" for name in case["goals"] if name not in case["bounds"]]
    # older files have no such fields
    for name, reached in case.get("memory_ratios", {}).items():
        if reached < case["memory_goals"][name]:
            goal = case["memory_goals"][name]
            parts.append(f"{reached:.2f}x less memory than {name} (goal {goal:.2g}x)")
    wanted = case.get("floor_goal")
    if wanted is not None and (case["floor_fraction"] or 0) < wanted:
        parts.append(f"{case['floor_fraction'] or 0:.0%} of the floor (goal {wanted:.0%})")
    return parts


def reason(case: dict[str, Any], header: dict[str, Any]) -> str:
    """Return the measurements of one of our calls, and their distance from the best that the machine can do."""
    if not case["timings"]:
        return ""
    parts = [*_anatomy(case, header["device"]), *_rates(case, header["floors"])]
    peaks = case.get("peak_bytes") or {}
    if ours := memory(peaks.get("ours")):
        other = memory(peaks.get(case["best_baseline"]))
        parts.append(
            f"holds {ours} at most" + (f" ({case['best_baseline']}: {other})" if other else "")
        )
    return "; ".join(parts)


def _anatomy(case: dict[str, Any], device: str) -> list[str]:
    call_anatomy = case.get("anatomy")
    if not call_anatomy:
        return []
    parts = ", ".join(_part(part) for part in call_anatomy["parts"])
    if device == "cuda":
        return [
            f"{call_anatomy['calls']} launches, the device waits {call_anatomy['idle']:.0%}",
            f"most in {parts}",
        ]
    between = f"{call_anatomy['idle']:.0%} of the time in none (Python)"
    return [f"{call_anatomy['calls']} operators, {between}", f"most in {parts}"]


def _part(part: dict[str, Any]) -> str:
    # names of templated kernels may be hundreds of characters long
    name = f"{part['name'][:60]} {part['share']:.0%}"
    facts = []
    if part.get("registers") is not None:
        facts.append(f"{part['registers']} registers")
    if part.get("occupancy") is not None:
        facts.append(f"occupancy {part['occupancy']:.0f} %")
    return f"{name} ({', '.join(facts)})" if facts else name


def _rates(case: dict[str, Any], floors: dict[str, Any]) -> list[str]:
    seconds, parts = case["timings"]["ours"]["median"], []
    if case["bytes"]:
        rate = case["bytes"] / seconds
        share = f"{rate / floors['bandwidth']:.0%} of the copy bandwidth"
        parts.append(f"moves {memory(case['bytes'])} at the least, {rate / 1e9:.3g} GB/s, {share}")
    if case["flops"]:
        rate = case["flops"] / seconds
        share = f"{rate / floors['gemm'][case['dtype']]:.0%} of the matrix-product rate"
        parts.append(f"{rate / 1e9:.3g} Gflop/s, {share}")
    return parts
