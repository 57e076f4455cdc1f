"""The reader of machine code finds loops, waits and pipes, and the model turns them into a time."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.gpu.flow import Path, rounds
from bench.gpu.model import BANDWIDTH, LATENCY, MULTIPROCESSORS, predict, resident_blocks, weighted
from bench.gpu.sass import parse

TEXT = """
        Function : scale
    .headerflags    @"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E R0, desc[UR4][R2.64] ;
        /*0020*/                   IADD3 R2, R0, 0x1, RZ ;
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/                   LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0050*/                   FADD R4, R7, R10 ;
        /*0060*/              @!P0 BRA 0x0080 ;
        /*0070*/                   CALL.REL.NOINC 0x0100 ;
        /*0080*/                   MUFU.RCP R4, R4 ;
        /*0090*/                   IMAD.WIDE.U32 R12, R4, R5, RZ ;
        /*00a0*/                   STG.E.64 desc[UR4][R2.64], R4 ;
        /*00b0*/               @P1 BRA 0x0030 ;
        /*00c0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00d0*/                   STG.E desc[UR4][R2.64], R4 ;
        /*00e0*/                   EXIT ;
        /*00f0*/                   BRA 0x00f0 ;
        /*0100*/                   FADD R4, R4, R4 ;
        /*0110*/                   RET.REL.NODEC R20 ;
"""


@pytest.fixture
def listing():
    (only,) = parse(TEXT)
    return only


def test_the_main_loop_leaves_the_slow_case_out(listing):
    path = Path(listing)
    names = [step.name for step in path.repeated]
    assert names == ["LDG", "LDG", "FADD", "BRA", "MUFU", "IMAD", "STG", "BRA"]
    assert len(path.whole) == 14
    assert listing.barriers == 1
    count = weighted(path.repeated)
    # wide accesses count once for each 4 bytes
    assert count == Counter(lsu=10, fma=1, control=2, xu=1, wide=1)


def test_loads_that_nothing_waits_for_are_one_wait(listing):
    path = Path(listing)
    assert rounds(path.repeated) == [32]
    assert rounds(path.whole) == [4, 32]


def test_a_limit_on_the_bytes_chooses_the_path(listing):
    text = TEXT.replace("@!P0 BRA 0x0080", "@!P0 BRA 0x00c0")
    (other,) = parse(text)
    assert [step.name for step in Path(other, most=40).whole][-4:] == ["BRA", "BAR", "STG", "EXIT"]
    assert "MUFU" not in [step.name for step in Path(other, most=40).whole]


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks"),
    [
        (256, 80, 2048, 3),
        (256, 32, 0, 8),
        (32, 16, 0, 32),
        (128, 255, 0, 2),
        (256, 32, 100 * 1024, 2),
    ],
)
def test_resident_blocks(threads, registers, shared, blocks):
    assert resident_blocks(threads, registers, shared) == blocks


def test_the_longest_of_four_times_is_the_prediction():
    threads = MULTIPROCESSORS * 512

    def times(instructions, waits, size):
        counts = Counter(alu=instructions)
        return predict(
            threads=threads,
            resident=256,
            instructions=counts,
            issued=instructions,
            waits=waits,
            bytes=size,
        )

    assert times(1, 3, 0).bound == "latency"
    assert times(1, 3, 0).total == pytest.approx(3 * LATENCY * 2)
    assert times(1, 0, 1e9).total == pytest.approx(1e9 / BANDWIDTH)
    # integers run at half the rate at which instructions are issued
    assert times(1000, 1, 0).bound == "alu"
    assert times(1000, 1, 0).pipe == pytest.approx(2 * times(1000, 1, 0).issue)
