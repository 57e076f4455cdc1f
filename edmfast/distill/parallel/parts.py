"""The parts of a batch: one for each rank and each round of gradient accumulation."""

from __future__ import annotations


def parts_of(
    batch_size: int, accumulate: int, rank: int, ranks: int, groups: int, together: int = 1
) -> list[slice]:
    """Return the rows of the batch that one rank evaluates, one slice for each round of accumulation.

    batch_size: rows of the whole batch. groups: the number of equal groups of rows that must stay whole, or 0
        where rows are independent. together: the number of successive rows that must stay in one part. Raises
        ValueError where the batch does not divide.
    """
    parts = ranks * accumulate
    makes = f"{parts} parts (ranks {ranks} x accumulate {accumulate})"
    if batch_size % parts:
        raise ValueError(f"batch_size must divide into {makes}, given {batch_size}")
    if groups and groups % parts:
        raise ValueError(
            f"variance_groups must be a multiple of the {makes} of a batch, since the losses of energies "
            f"need whole groups, given {groups}"
        )
    size = batch_size // parts
    if size % together:
        raise ValueError(
            f"batch_size must be a multiple of {together} for each of the {makes}, since time_score_weight > 0 "
            f"lets so many successive rows share a noise level, given {batch_size}"
        )
    first = rank * accumulate
    return [slice(size * k, size * (k + 1)) for k in range(first, first + accumulate)]
