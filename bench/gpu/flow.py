"""The path that a thread takes through a kernel: basic blocks, loops, and waits for memory.

The path is the one that moves the most bytes, up to a limit. Of several it is the one with the fewest memory
instructions, which takes wide loads rather than their fallback for unaligned rows, and then the longest one. It
avoids blocks that call a subroutine where it can: these are the slow cases of divisions and roots.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from bench.gpu.sass import Instruction, Listing


class Loop(NamedTuple):
    """A natural loop: the index of its first block, and the indices of all its blocks."""

    head: int
    body: frozenset[int]


class Flow:
    """The control flow of one kernel."""

    def __init__(self, listing: Listing) -> None:
        self.blocks = _split(listing.instructions)
        starts = {block[0].address: index for index, block in enumerate(self.blocks)}
        every = [_successors(block, index, starts) for index, block in enumerate(self.blocks)]
        self.after = _without_calls(self.blocks, [[s for s in n if s < len(every)] for n in every])

    @cached_property
    def order(self) -> list[int]:
        """The blocks that are reached, each after those that lead to it, back edges aside."""
        seen, order = {0}, list[int]()
        stack = [(0, iter(self.after[0]))]
        while stack:
            node, rest = stack[-1]
            following = next((s for s in rest if s not in seen), None)
            if following is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(self.after[following])))
        return order[::-1]

    @cached_property
    def back(self) -> set[tuple[int, int]]:
        """The edges that return to the first block of a loop."""
        place = {node: index for index, node in enumerate(self.order)}
        edges = ((a, b) for a in self.order for b in self.after[a])
        return {(a, b) for a, b in edges if place[b] <= place[a]}

    @cached_property
    def loops(self) -> list[Loop]:
        """The loops; those with a common first block are one."""
        before = dict[int, list[int]]()
        for a in self.order:
            for b in self.after[a]:
                before.setdefault(b, []).append(a)
        bodies = dict[int, set[int]]()
        for tail, head in sorted(self.back):
            body = bodies.setdefault(head, {head})
            waiting = [tail]
            while waiting:
                node = waiting.pop()
                if node not in body:
                    body.add(node)
                    waiting += before.get(node, [])
        return [Loop(head, frozenset(body)) for head, body in bodies.items()]

    def avoid_loops(self, pipe: str) -> None:
        """Leave out the edges into innermost loops that use a pipe, where another edge leaves the same block."""
        inner = [one for one in self.loops if not any(o.body < one.body for o in self.loops)]
        uses = [
            any(step.pipe == pipe for n in one.body for step in self.blocks[n]) for one in inner
        ]
        rare = {node for one, used in zip(inner, uses, strict=True) if used for node in one.body}
        # a block that leads nowhere else belongs to the loop
        for node in reversed(self.order):
            if node and self.after[node] and rare.issuperset(self.after[node]):
                rare.add(node)
        self.after = [
            [s for s in onward if s not in rare or node in rare] or onward
            for node, onward in enumerate(self.after)
        ]
        for name in ("order", "back", "loops"):
            vars(self).pop(name, None)

    def chain(self, start: int, allowed: Iterable[int], most: int) -> list[int]:
        """Return the blocks of the chosen path from a block through allowed ones, each once.

        The path moves at most `most` bytes where one does, and otherwise the fewest.
        """
        inside = set(allowed)
        # for each block and number of bytes from there on: the rest of the cost, and the next block, or -1
        best = dict[int, dict[int, tuple[tuple[int, int], int]]]()
        for node in reversed([n for n in self.order if n in inside]):
            block = self.blocks[node]
            moved, accesses = (
                sum(step.bytes for step in block),
                sum(step.bytes > 0 for step in block),
            )
            ways = best.setdefault(node, {})
            onward = [s for s in self.after[node] if (node, s) not in self.back and s in inside]
            later = [(n, cost, s) for s in onward for n, (cost, _) in best[s].items()]
            for number, (few, length), following in later or [(0, (0, 0), -1)]:
                way = (few - accesses, length + len(block)), following
                if moved + number not in ways or ways[moved + number][0] < way[0]:
                    ways[moved + number] = way
            # most threads leave before the work of the first thread or of the last block
            if block[-1].name == "EXIT" and onward:
                ways[moved] = (-accesses, len(block)), -1
        number = max((n for n in best[start] if n <= most), default=min(best[start]))
        nodes = [start]
        while (following := best[nodes[-1]][number][1]) >= 0:
            number -= sum(step.bytes for step in self.blocks[nodes[-1]])
            nodes.append(following)
        return nodes


class Path:
    """The chosen path through a kernel, and its main loop.

    Args:
        listing: the instructions.
        most: the most bytes that the path may move, each loop taken once. With fewer than the longest path moves,
            it leaves out work that a usual thread has not, such as that of the last block.
        stores: whether the main loop is the one with the most stores; otherwise it has the most loads.
        avoided: a pipe. The path avoids innermost loops that use it, which few threads need.
    """

    def __init__(
        self, listing: Listing, most: int = 1 << 20, stores: bool = False, avoided: str = ""
    ) -> None:
        self.kind = "stores" if stores else "loads"
        self.flow = Flow(listing)
        if avoided:
            self.flow.avoid_loops(avoided)
        self.nodes = self.flow.chain(0, self.flow.order, most)
        on_path = set(self.nodes)
        self.loops = [loop for loop in self.flow.loops if loop.head in on_path]

    def steps(self, nodes: Iterable[int]) -> list[Instruction]:
        """Return the instructions of blocks."""
        return [step for node in nodes for step in self.flow.blocks[node]]

    def turn(self, loop: Loop) -> list[Instruction]:
        """Return the part of the path that lies in a loop."""
        return self.steps(node for node in self.nodes if node in loop.body)

    @cached_property
    def main(self) -> Loop | None:
        """The loop with the most accesses of its kind that no inner loop contains; None where no loop has one."""

        def own(loop: Loop) -> int:
            inner = [one.body for one in self.loops if one.body < loop.body]
            nodes = loop.body.difference(*inner).intersection(self.nodes)
            return sum(getattr(step, self.kind) for step in self.steps(nodes))

        best = max(self.loops, key=own, default=None)
        return best if best is not None and own(best) else None

    @cached_property
    def whole(self) -> list[Instruction]:
        """The path through the kernel, each loop taken once."""
        return self.steps(self.nodes)

    @cached_property
    def repeated(self) -> list[Instruction]:
        """One turn of the main loop; the whole path without one."""
        return self.whole if self.main is None else self.turn(self.main)


def _split(steps: list[Instruction]) -> list[list[Instruction]]:
    targets = {step.target for step in steps if step.target is not None}
    blocks: list[list[Instruction]] = [[]]
    for step in steps:
        if step.address in targets and blocks[-1]:
            blocks.append([])
        blocks[-1].append(step)
        if step.name in ("BRA", "EXIT", "RET", "BRX", "JMP", "CALL"):
            blocks.append([])
    return [block for block in blocks if block]


def _successors(block: list[Instruction], index: int, starts: dict[int, int]) -> list[int]:
    last = block[-1]
    conditional = bool(last.guard) or last.operands.startswith(("P", "!P", "UP", "!UP"))
    if last.name == "BRA":
        onward = [starts[last.target]] if last.target in starts else []
        return [*onward, index + 1] if conditional else onward
    if last.name in ("EXIT", "RET", "BRX", "JMP"):
        return [index + 1] if conditional else []
    return [index + 1]


def _without_calls(blocks: list[list[Instruction]], after: list[list[int]]) -> list[list[int]]:
    """Return the edges without those into a block that calls, where another edge leaves the same block."""
    calls = {index for index, block in enumerate(blocks) if block[-1].name == "CALL"}
    return [[s for s in onward if s not in calls] or onward for onward in after]


def rounds(steps: list[Instruction]) -> list[int]:
    """Return the bytes of the loads of each wait: loads that are issued before one of them is used."""
    pending, moved, waits = set[int](), 0, list[int]()
    for step in steps:
        if pending & step.registers:
            waits.append(moved)
            pending, moved = set(), 0
        if step.loads:
            pending |= step.destination
            moved += step.bytes
    return [*waits, moved] if pending else waits
