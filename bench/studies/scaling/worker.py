"""Run one rank for the axis of ranks: python -m bench.studies.scaling.worker FOLDER RANK WORLD ROUNDS.

All ranks are started once; smaller groups consist of the first ones, so that the numbers of ranks are timed
in turn. Traffic is counted where the library calls a collective: an all_gather sends its part to every other
rank, an all_to_all sends what is not for the rank itself, a gather sends to rank 0. Rank 0 writes the answer.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.cases import sampler_targets
from bench.harness.timing import Effort, time_side_by_side
from edmfast import smc
from edmfast.smc.distributed.ranks import Ranks

PARTICLES, POPULATIONS = 2048, 8
_COLLECTIVES = ("all_gather", "gather", "all_to_all_single")


def sample(
    group: dist.ProcessGroup | None, split: str, *, genealogy: bool = False, **arguments: Any
) -> smc.Particles:
    """Run on eight exact modes in two dimensions."""
    return smc.sample(
        sampler_targets.mixture(2),
        (2,),
        sampler_targets.levels(2),
        particles=PARTICLES,
        populations=POPULATIONS,
        proposal=smc.NoiseMatched(0.2),
        options=smc.RunOptions(dtype=torch.float32, genealogy=genealogy),
        distribution=smc.Distribution(group, split=split),
        **arguments,
    )


class Sent:
    """The bytes that this rank has sent to others, and the rows of states among them."""

    def __init__(self) -> None:
        self.bytes = self.states = 0

    def collective(self, name: str, arguments: tuple[Any, ...], group: dist.ProcessGroup) -> int:
        """Add the bytes of one call, whose tensors are bytes or int64."""
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        if name == "gather":
            return 0 if rank == 0 else arguments[0].nbytes
        if name == "all_gather":
            return (size - 1) * arguments[1].nbytes
        tensor, splits = arguments[1], arguments[3] if len(arguments) > 3 else None
        kept = tensor.shape[0] // size if splits is None else splits[rank]
        return tensor.nbytes - kept * tensor.element_size()


@contextmanager
def counting() -> Iterator[Sent]:
    """Count what the library's collectives send."""
    sent, exchange = Sent(), Ranks.exchange
    originals = {name: getattr(dist, name) for name in _COLLECTIVES}

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, group: dist.ProcessGroup, **options: Any) -> Any:
            sent.bytes += sent.collective(name, arguments, group)
            return originals[name](*arguments, group=group, **options)

        return call

    def exchanged(ranks: Ranks, rows: Tensor, counts: Tensor, due: Tensor | None = None) -> Any:
        # states travel packed as bytes
        if rows.dtype == torch.uint8:
            sent.states += int(counts.sum() - counts[ranks.rank])
        return exchange(ranks, rows, counts, due)

    for name in _COLLECTIVES:
        setattr(dist, name, counted(name))
    # mypy refuses a plain assignment to a method
    setattr(Ranks, "exchange", exchanged)  # noqa: B010
    try:
        yield sent
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
        setattr(Ranks, "exchange", exchange)  # noqa: B010, as above


def traffic(group: dist.ProcessGroup, split: str) -> tuple[smc.Particles, list[int]]:
    """Run, and return what this rank sent: [before the first level, between levels, after the last, states]."""
    marks: list[int] = []
    with counting() as sent:
        result = sample(group, split, callback=lambda _: marks.append(sent.bytes))
    before, steps = marks[0], marks[-1] - marks[0]
    return result, [before, steps, sent.bytes - marks[-1], sent.states]


def same(result: smc.Particles, truth: smc.Particles) -> bool:
    """Return True where the bits are those of one process."""
    names = ("x", "log_weights", "log_z", "ess", "resampled", "unique_ancestors")
    return all(torch.equal(getattr(result, name), getattr(truth, name)) for name in names)


def measured(groups: dict[int, Any], split: str, rounds: int) -> dict[str, Any]:
    """Return, by number of ranks: times, traffic summed over the ranks, and whether the bits are those of one
    process."""
    rank, truth, report = dist.get_rank(), sample(None, split), {}
    for size, group in groups.items():
        right, sent = True, [0] * 4
        if rank < size:
            result, sent = traffic(group, split)
            right = same(result, truth)
        numbers = torch.tensor([*sent, int(not right)])
        dist.all_reduce(numbers)
        report[size] = numbers.tolist()

    def job(size: int) -> None:
        if rank < size:
            sample(groups[size], split)
        dist.barrier()

    answer = {
        "right": all(numbers[-1] == 0 for numbers in report.values()),
        "sent": {size: numbers[:-1] for size, numbers in report.items()},
        "steps": len(truth.sigmas) - 1,
        "resampled": int(truth.resampled.sum()),
        "log_z": truth.log_z.tolist(),
        "times": {},
    }
    if answer["right"] and rounds:
        # without a minimum duration all ranks make the same number of calls
        effort = Effort(seconds=0.0, rounds=rounds, sample_seconds=0.0)
        jobs = {str(size): (lambda size=size: job(size)) for size in groups}
        times = time_side_by_side(jobs, [()], torch.device("cpu"), effort)
        answer["times"] = {name: asdict(timing) for name, timing in times.items()}
    return answer


def main() -> None:
    folder, rank, world, rounds = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=120),
    )
    sizes = [size for size in (1, 2, 4, 8) if size <= world]
    groups = {size: dist.new_group(list(range(size))) for size in sizes}
    answer = {split: measured(groups, split, rounds) for split in ("populations", "particles")}
    if rank == 0:
        (folder / "answer.json").write_text(json.dumps(answer))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
