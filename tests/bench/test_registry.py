"""Test that cases are validated, loaded once, and selected by device and name."""

from __future__ import annotations

import sys
import types

import pytest

from bench.harness import registry


def test_registered_modules_load():
    names = [case.name for case in registry.load()]
    assert len(names) == len(set(names))


def test_load_collects_in_order_and_refuses_twins(case, monkeypatch):
    module = types.ModuleType("bench.bench_fake")
    module.CASES = [case(), case(name="other/1")]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    loaded = registry.load([module.__name__])
    assert [loaded_case.name for loaded_case in loaded] == ["scale/100", "other/1"]
    with pytest.raises(ValueError, match=r"unique.*\['other/1', 'scale/100'\]"):
        registry.load([module.__name__] * 2)


def test_select(case):
    cases = [case(), case(name="other/1"), case(name="scale/gpu", devices=("cuda",))]
    assert registry.select(cases, "cpu", "scale") == cases[:1]
    assert registry.select(cases, "cuda") == cases


def test_select_leaves_out_what_needs_the_cpu(case):
    bound = case(
        baselines={"a": min, "b": max},
        goals={"b": 0.5},
        bounds=("b",),
        unchecked=("b",),
        cpu_only=("b",),
        inner="b",
    )
    (there,) = registry.select([bound], "cuda")
    assert (dict(there.baselines), dict(there.goals), there.inner) == ({"a": min}, {}, "")
    assert (there.bounds, there.unchecked) == ((), ())
    assert registry.select([bound], "cpu") == [bound]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": {}}, "at least one baseline"),
        ({"baselines": {"ours": min}}, "none of them named 'ours'"),
        ({"goal": 0.0}, "goal must be > 0"),
        ({"bounds": ("twice",)}, r"bounds must have goals"),
        ({"bounds": ("twice",), "goals": {"twice": 0.5}}, r"leave a rival"),
        ({"unchecked": ("thrice",)}, r"unchecked must be among .* got \('thrice',\)"),
        ({"goals": {"thrice": 0.5}}, r"among .* got \{'thrice': 0.5\}"),
        ({"goals": {"bound": 0.0}, "baselines": {"bound": min, "twice": max}}, "goals must be > 0"),
        ({"memory_goals": {"thrice": 1.5}}, r"memory_goals .* got \{'thrice': 1.5\}"),
        ({"inner": "twice"}, r"inner must be one of the goals \[\], got 'twice'"),
        ({"direction": "up"}, r"direction must be one of .*, got 'up'"),
        ({"floor_goals": {"cuda": 1.2}}, r"floor_goals must be in .* got \{'cuda': 1.2\}"),
        ({"floor_goals": {"tpu": 0.5}}, "of devices among"),
        ({"rounds": -1}, "must not be negative"),
        ({"evaluations": -1}, "must not be negative"),
        ({"bytes": 0, "floor_goals": {"cuda": 0.5}}, "floor_goals need bytes or flops"),
        ({"bytes": -1}, "got goal=1.0, bytes=-1"),
    ],
)
def test_bad_case(case, changes, message):
    with pytest.raises(ValueError, match=message):
        case(**changes)
