"""The range of population numbers that the counter of the random numbers has room for."""

from __future__ import annotations

from edmfast._internal.numbers import as_int

POPULATIONS = 2**28  # the other four bits of their word hold the stream


def check_populations(first_population: int, populations: int) -> int:
    """Return first_population as an int.

    Raises ValueError where a population number would not fit its 28 bits of the counter and change the stream.
    """
    first_population = as_int("first_population", first_population)
    if not 0 <= first_population <= POPULATIONS - populations:
        raise ValueError(
            f"populations first_population to first_population + P must lie in 0 to 2^28, "
            f"got {first_population} and P = {populations}"
        )
    return first_population
