"""Test the shares of time computed from traces written by hand and from a real call on the CPU."""

from __future__ import annotations

import pytest
import torch

from bench.harness import anatomy


def event(name, ts, dur, cat="cpu_op", tid=1, **args):
    return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "tid": tid, "args": args}


def test_the_time_of_an_operator_is_without_that_of_inner_ones():
    shares = anatomy.of_operators(
        [
            event("bench: the call", 0.0, 100.0, cat="user_annotation"),
            event("inner", 20.0, 10.0),
            event("outer", 10.0, 40.0),
            event("inner", 35.0, 10.0),
            event("later", 60.0, 20.0),
            event("elsewhere", 10.0, 5.0, tid=2),
        ]
    )
    assert [(part.name, part.calls) for part in shares.parts] == [
        ("outer", 1),
        ("inner", 2),
        ("later", 1),
    ]
    assert [part.share for part in shares.parts] == pytest.approx([0.2, 0.2, 0.2])
    assert shares.calls == 5
    assert shares.idle == pytest.approx(1 - 0.65)


def test_kernels_have_launches_gaps_registers_and_occupancy():
    facts = {"registers per thread": 40, "est. achieved occupancy %": 75}
    shares = anatomy.of_kernels(
        [
            event("aten::mm", 0.0, 1000.0),
            event("gemm", 100.0, 30.0, cat="kernel", **facts),
            event("gemm", 150.0, 30.0, cat="kernel", **facts),
            event("Memcpy DtoD", 190.0, 10.0, cat="gpu_memcpy"),
        ]
    )
    assert shares.calls == 3
    assert shares.idle == pytest.approx(0.3)
    assert shares.parts == [
        anatomy.Part("gemm", pytest.approx(0.6), 2, 40, 75),
        anatomy.Part("Memcpy DtoD", pytest.approx(0.1), 1),
    ]


def test_nothing_seen():
    assert anatomy.of_operators([event("bench: the call", 0.0, 1.0, cat="user_annotation")]) is None
    assert anatomy.of_kernels([event("aten::mm", 0.0, 1.0)]) is None


def test_a_real_call():
    a = torch.ones(700, 700)

    def call(x):
        for _ in range(3):
            y = x @ x
        return y.sum()

    call(a)
    shares = anatomy.of_call(call, (a,), torch.device("cpu"))
    assert shares.parts[0].name == "aten::mm"
    assert shares.parts[0].calls == 3
    assert 0 < sum(part.share for part in shares.parts) < 1 + 1e-6
    assert shares.to_json()["parts"][0]["calls"] == 3
