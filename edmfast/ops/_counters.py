"""What the counter of the noise has room for."""

from __future__ import annotations

POPULATIONS = 2**28  # the upper four bits of their word hold the stream


def check_populations(first_population: int, populations: int) -> None:
    """ValueError where a counter would reach into another stream's."""
    if not 0 <= first_population <= POPULATIONS - populations:
        raise ValueError(
            f"populations first_population to first_population + P must lie in 0 to 2^28, "
            f"got {first_population} and P = {populations}"
        )
