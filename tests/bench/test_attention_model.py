"""The model of attention's time reads the loop without checks, and its floor is that of the products alone."""

from __future__ import annotations

import pytest

from bench.gpu.attention_model import CLOCK, LAUNCH, MATRIX, PASSES, Kernel, floor, turn_of
from bench.gpu.sass import parse

TEXT = """
        Function : attention
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E R0, desc[UR4][R2.64] ;
        /*0020*/              @!P0 BRA 0x0010 ;
        /*0030*/                   HGMMA.64x32x16.F32.BF16 R24, gdesc[UR4], !UPT ;
        /*0040*/                   MUFU.EX2 R4, R4 ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/                   HGMMA.64x64x16.F32.BF16 R40, R4, gdesc[UR8], R40 ;
        /*0070*/               @P0 BRA 0x0030 ;
        /*0080*/                   HGMMA.64x32x16.F32.BF16 R24, gdesc[UR4], !UPT ;
        /*0090*/                   ISETP.GE.AND P1, PT, R4, R5, PT ;
        /*00a0*/                   ISETP.GE.AND P2, PT, R4, R5, PT ;
        /*00b0*/                   MUFU.EX2 R4, R4 ;
        /*00c0*/                   HGMMA.64x64x16.F32.BF16 R40, R4, gdesc[UR8], R40 ;
        /*00d0*/               @P1 BRA 0x0080 ;
        /*00e0*/                   EXIT ;
"""


@pytest.fixture
def turn():
    (listing,) = parse(TEXT)
    return turn_of(listing, 4)


def test_a_turn_of_the_loop_without_checks(turn):
    assert (turn.instructions, turn.wgmma, turn.barriers, turn.issue) == (5, 2, 1, 5)
    assert turn.matrix == pytest.approx(2 * 64 * (32 + 64) * 16 / MATRIX)
    # the first product reads both sides from shared memory, the second only the right one
    assert turn.shared == 2 * 16 * (64 + 32 + 64) / 128
    assert turn.special == 4 * 32 / 16


def test_a_turn_takes_the_longest_of_what_it_needs(turn):
    alone = turn.issue + turn.matrix + 60
    assert turn.clocks(0, 1) == pytest.approx(alone)
    assert turn.clocks(0, 2) == pytest.approx(max(turn.matrix, alone / 2))
    assert turn.clocks(1000, 2) == 1000


def test_warpgroups_that_wait_for_each_other_count_as_one(turn):
    (listing,) = parse(TEXT)
    line = "        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;\n"
    check = "        /*0090*/                   ISETP.GE.AND P1, PT, R4, R5, PT ;\n"
    (often,) = parse(TEXT.replace(line, line * 3).replace(check, check * 3))
    together, apart = turn_of(often, 8), turn_of(listing, 8)
    assert (together.independent, apart.independent) == (1, 2)
    assert together.clocks(0, 1) == together.issue + together.matrix + 3 * 60


def test_one_wave_of_programs_lasts_as_long_as_its_longest(turn):
    kernel = Kernel(PASSES[0], 64, 32, 128, 0, 3, turn)
    # 11 blocks of each of 12 heads fill 132 multiprocessors once, and the last block sees 22 blocks of keys
    cache = 2 * 32 * 64 * 2 / 24
    assert kernel.seconds(704) == pytest.approx(22 * turn.clocks(cache, 1) / CLOCK + LAUNCH)


def test_the_floor_is_that_of_31_products():
    assert sum(of.products for of in PASSES) == 31
    # a product of 2 N² D floating-point operations, of which causality leaves half
    assert floor(32768) == pytest.approx(31 * 12 * 32768**2 * 64 / 790e12)
