"""The machine code of GPU kernels: its instructions, the pipe that each of them uses, and its disassembly.

The text comes from cuobjdump, which calls nvdisasm. Both stand beside nvcc or in Triton's package.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_REGISTER = re.compile(r"(?<![\w])R(\d+)\b")

_PIPES = {
    "fma": "FADD FMUL FFMA HFMA2 HADD2 HMUL2 HFMA2.MMA",
    "fp64": "DADD DMUL DFMA DSETP DMNMX",
    "xu": "MUFU F2I I2F F2F FRND POPC FLO BREV FCHK",
    "lsu": "LDG STG LDS STS LDL STL LD ST ATOM ATOMG ATOMS RED SHFL LDGSTS LDSM STSM MATCH",
    "control": "BRA BRX JMP CALL RET EXIT BSSY BSYNC BREAK WARPSYNC BAR NOP DEPBAR YIELD MEMBAR CCTL "
    "ERRBAR VOTE S2R S2UR CS2R NANOSLEEP BMOV PLOP3 P2R R2P",
    "tensor": "HMMA IMMA DMMA HGMMA QGMMA IGMMA WARPGROUP",
    "constant": "LDC LDCU ULDC",
}
_PIPE_OF = {opcode: pipe for pipe, opcodes in _PIPES.items() for opcode in opcodes.split()}


class Instruction(NamedTuple):
    """One instruction: its address in bytes, its guard such as "!P0", its opcode and the text of its operands."""

    address: int
    guard: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """Return the opcode without its modifiers."""
        return self.opcode.split(".")[0]

    @property
    def pipe(self) -> str:
        """Return the execution pipe: fma, imad, wide, alu, fp64, xu, lsu, tensor, uniform, constant or control."""
        if self.name == "IMAD":
            if ".MOV" in self.opcode or ".IADD" in self.opcode or ".SHL" in self.opcode:
                return "imad"
            return "wide" if ".WIDE" in self.opcode or ".HI" in self.opcode else "imad"
        if pipe := _PIPE_OF.get(self.name):
            return pipe
        return "uniform" if self.name[0] == "U" else "alu"

    @property
    def bytes(self) -> int:
        """Return the bytes that one thread loads or stores; 0 for an instruction that does neither."""
        if self.name not in ("LDG", "STG", "LD", "ST"):
            return 0
        parts = self.opcode.split(".")
        return next((int(part) // 8 for part in parts if part in ("64", "128")), None) or (
            1 if {"U8", "S8"} & set(parts) else 2 if {"U16", "S16"} & set(parts) else 4
        )

    @property
    def loads(self) -> bool:
        """Return whether the instruction reads global memory."""
        return self.name in ("LDG", "LD") or self.name in ("ATOM", "ATOMG")

    @property
    def stores(self) -> bool:
        """Return whether the instruction writes global memory."""
        return self.name in ("STG", "ST", "RED")

    @property
    def target(self) -> int | None:
        """Return the address that a branch goes to; None where the code does not say it."""
        address = re.search(r"0x([0-9a-f]+)\)?\s*$", self.operands) if self.name == "BRA" else None
        return int(address[1], 16) if address else None

    @property
    def registers(self) -> set[int]:
        """Return the registers that the operands name; a wide operand is named by its first register."""
        return {int(number) for number in _REGISTER.findall(self.operands)}

    @property
    def destination(self) -> set[int]:
        """Return the registers that a load fills."""
        first = _REGISTER.search(self.operands)
        if first is None:
            return set()
        return set(range(int(first[1]), int(first[1]) + max(1, self.bytes // 4)))


class Listing:
    """The instructions of one kernel, in the order of their addresses."""

    def __init__(self, name: str, instructions: list[Instruction]) -> None:
        self.name = name
        self.instructions = instructions

    @cached_property
    def barriers(self) -> int:
        """The places at which the threads of a block wait for each other."""
        return sum(step.name == "BAR" for step in self.instructions)


def parse(text: str) -> Iterator[Listing]:
    """Return the kernels in the text of `cuobjdump -sass`."""
    name, steps = "", list[Instruction]()
    for line in text.splitlines():
        if found := _FUNCTION.match(line):
            if steps:
                yield Listing(name, steps)
            name, steps = found[1], []
        elif found := _LINE.match(line):
            address, guard, opcode, operands = found.groups()
            steps.append(Instruction(int(address, 16), guard or "", opcode, operands))
    if steps:
        yield Listing(name, steps)


def disassemble(binary: Path, tool: str) -> list[Listing]:
    """Return the kernels of a cubin; `tool` is the path of cuobjdump."""
    path = os.pathsep.join([str(Path(tool).parent), os.environ.get("PATH", "")])
    answer = subprocess.run(
        [tool, "-sass", str(binary)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )
    return list(parse(answer.stdout))
