"""Count the starting particles of a genealogy that still have descendants."""

from __future__ import annotations

from torch import Tensor


def count_roots(root: Tensor, *, together: bool) -> Tensor:
    """Return the number of different numbers in each row of root [P, N], N >= 1: int64 [P].

    together: whether equal roots are neighbours, as all schemes but "killing" leave them. Their runs are counted
    then, which needs no sorting.
    """
    roots = root if together else root.sort(1).values
    return 1 + (roots[:, 1:] != roots[:, :-1]).sum(1)
