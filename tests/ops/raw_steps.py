"""List calls of the raw operators of a step that a program might make by mistake, and how calls are made wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from edmfast import ops

RAW = torch.ops.edmfast
P, N, D = 3, 5, 4
INT, LONG, DOUBLE = torch.int32, torch.int64, torch.float64
Case = tuple[str, bool, Callable[[], Any]]
"""A name, whether the call is accepted, and the call."""


def f(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def variants(
    operator: Any, plain: Callable[[], dict[str, Any]], changes: dict[str, Any]
) -> Iterator[Case]:
    """Yield the call as it is meant to be, then the call with the arguments of each of `changes` replaced."""
    yield "as meant", True, lambda: operator(*plain().values())
    for name, (accepted, make) in changes.items():
        yield name, accepted, lambda make=make: operator(*(plain() | make()).values())


def bad(**change: Any) -> tuple[bool, Callable[[], dict[str, Any]]]:
    return False, lambda: change


def good(**change: Any) -> tuple[bool, Callable[[], dict[str, Any]]]:
    return True, lambda: change


def emptied(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor whose memory was freed."""
    tensor = f(*shape, dtype=dtype)
    tensor.untyped_storage().resize_(0)
    return tensor


def proposals() -> Iterator[Case]:
    def plain(p: int = P, n: int = N, d: int = D) -> dict[str, Any]:
        return {
            "x": f(p, n, d),
            "scores": [f(p, n, d)],
            "ancestors": torch.arange(n, dtype=INT).repeat(p, 1),
            "coefficients": torch.ones(p, 3, dtype=DOUBLE),
            "rng": ops.rng_state(0, 0),
            "mask": None,
            "first_population": 0,
            "first_particle": 0,
        }

    changes = {
        "one row of coefficients": bad(coefficients=torch.ones(1, 3, dtype=DOUBLE)),
        "coefficients float32": bad(coefficients=torch.ones(P, 3)),
        "one ancestor": bad(ancestors=torch.zeros(1, 1, dtype=INT)),
        "ancestors too large": bad(ancestors=torch.full((P, N), 2**31 - 1, dtype=INT)),
        "ancestors N": bad(ancestors=torch.full((P, N), N, dtype=INT)),
        "ancestors -1": bad(ancestors=torch.full((P, N), -1, dtype=INT)),
        "ancestors least": bad(ancestors=torch.full((P, N), -(2**31), dtype=INT)),
        "ancestors int64": bad(ancestors=torch.zeros(P, N, dtype=LONG)),
        "coefficients of each particle": good(coefficients=torch.ones(P, N, 3, dtype=DOUBLE)),
        "coefficients of too few particles": bad(coefficients=torch.ones(P, 1, 3, dtype=DOUBLE)),
        "coefficients of four dimensions": bad(coefficients=torch.ones(P, N, 3, 1, dtype=DOUBLE)),
        "ancestors N with coefficients of each particle": bad(
            ancestors=torch.full((P, N), N, dtype=INT),
            coefficients=torch.ones(P, N, 3, dtype=DOUBLE),
        ),
        "mask of one row": bad(mask=torch.ones(1, D, dtype=torch.bool)),
        "mask float": bad(mask=torch.ones(P, D)),
        "mask": good(mask=torch.ones(P, D, dtype=torch.bool)),
        "score of other shape": bad(scores=[f(P * N * D, 1, 1)]),
        "score float64": bad(scores=[f(P, N, D, dtype=DOUBLE)]),
        "integers": bad(x=torch.ones(P, N, D, dtype=INT), scores=[torch.ones(P, N, D, dtype=INT)]),
        "no scores": bad(scores=[]),
        "nine scores": bad(scores=[f(P, N, D)] * 9, coefficients=torch.ones(P, 11, dtype=DOUBLE)),
        "rng of one number": bad(rng=torch.zeros(1, dtype=LONG)),
        "rng int32": bad(rng=torch.zeros(2, dtype=INT)),
        "no particles": (True, lambda: plain(n=0)),
        "no elements": (True, lambda: plain(d=0)),
        "no populations": (True, lambda: plain(p=0)),
        "population -1": bad(first_population=-1),
        "population 2^28": bad(first_population=2**28),
        "population 2^63": bad(first_population=2**63 - 1),
        "particle -1": bad(first_particle=-1),
        "particle 2^32": bad(first_particle=2**32),
        "two dimensions": bad(x=f(P, N)),
        "x on meta": bad(x=f(P, N, D).to("meta")),
        "score on meta": bad(scores=[f(P, N, D).to("meta")]),
        "rng on meta": bad(rng=torch.zeros(2, dtype=LONG, device="meta")),
        "sparse": bad(x=f(P, N, D).to_sparse()),
        "x without memory": bad(x=emptied(P, N, D)),
        "score without memory": bad(scores=[emptied(P, N, D)]),
        "more rows than a number": bad(
            x=torch.empty(2**20, 2**20, 0).expand(2**20, 2**20, 0),
            scores=[torch.empty(2**20, 2**20, 0)],
        ),
    }
    yield from variants(RAW.propagate, plain, changes)


def weighings() -> Iterator[Case]:
    def plain(p: int = P, n: int = N) -> dict[str, Any]:
        return {
            "log_weights": f(p, n, dtype=DOUBLE),
            "log_z": torch.zeros(p, dtype=DOUBLE),
            "ancestors": torch.zeros(p, n, dtype=INT),
            "root": torch.zeros(p, n, dtype=INT),
            "resampled": torch.ones(p, dtype=torch.bool),
            "degenerate": torch.zeros(p, dtype=INT),
            "ratio": f(p, n),
            "energies": [f(p, n)],
            "energies_before": [f(p, n)],
            "exponents": None,
            "rng": ops.rng_state(0, 0),
            "weigh": True,
            "threshold": 0.5,
            "scheme": 0,
            "first_population": 0,
        }

    changes = {
        "ancestors too large": bad(ancestors=torch.full((P, N), 2**31 - 1, dtype=INT)),
        "ancestors N": bad(ancestors=torch.full((P, N), N, dtype=INT)),
        "ancestors -1 where none are read": good(
            ancestors=torch.full((P, N), -1, dtype=INT), resampled=torch.zeros(P, dtype=torch.bool)
        ),
        "roots of anything": good(root=torch.full((P, N), 2**31 - 1, dtype=INT)),
        "threshold NaN": bad(threshold=math.nan),
        "no particles": (False, lambda: plain(n=0)),
        "no populations": (True, lambda: plain(p=0)),
        "nothing": (True, lambda: plain(p=0, n=0)),
        "nine energies": bad(energies=[f(P, N)] * 9, energies_before=[f(P, N)] * 9),
        "no energies before": bad(energies_before=[]),
        "transposed": bad(ratio=f(N, P)),
        "short exponents": bad(exponents=torch.ones(1, dtype=DOUBLE)),
        "exponents": good(exponents=torch.ones(P, 1, dtype=DOUBLE)),
        "energies float64": bad(energies=[f(P, N, dtype=DOUBLE)]),
        "energies on meta": bad(energies=[f(P, N).to("meta")]),
        "population -1": bad(first_population=-1),
        **{f"scheme {number}": bad(scheme=number) for number in (-1, 6, 99, 2**33)},
        **{f"every scheme, {number}": good(scheme=number) for number in range(6)},
    }
    yield from variants(RAW.weigh_and_resample, plain, changes)


def resamplings() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        return {
            "log_weights": f(P, N, dtype=DOUBLE),
            "rng": ops.rng_state(0, 0),
            "count": N,
            "threshold": 1.0,
            "scheme": 0,
            "first_population": 0,
        }

    changes: dict[str, Any] = {
        "half": bad(log_weights=f(P, N).half()),
        "integers": bad(log_weights=torch.ones(P, N, dtype=LONG)),
        "one dimension": bad(log_weights=f(5)),
        "nothing": bad(log_weights=f(0, 0, dtype=DOUBLE), count=0),
        "scheme 6": bad(scheme=6),
        "threshold NaN": bad(threshold=math.nan),
        **{f"count {count}": bad(count=count) for count in (0, -1, 2**31, -(2**63))},
    }
    for scheme in range(6):
        for count in (1, 2, 7, 1000):
            killing = scheme == 4
            changes[f"scheme {scheme}, count {count}"] = (bad if killing else good)(
                scheme=scheme, count=count
            )
        for value in (-math.inf, math.inf, math.nan):
            weights = torch.full((P, N), value, dtype=DOUBLE)
            changes[f"scheme {scheme} of {value}"] = good(scheme=scheme, log_weights=weights)
    yield from variants(RAW.resample, plain, changes)

    def inputs() -> dict[str, Any]:
        uniform = torch.full((P,), 0.5, dtype=DOUBLE)
        return {"log_weights": f(P, N, dtype=DOUBLE), "uniform": uniform, "threshold": 1.0}

    changes = {
        "short uniform": bad(uniform=torch.zeros(1, dtype=DOUBLE)),
        "uniform float32": bad(uniform=torch.zeros(P)),
        "threshold NaN": bad(threshold=math.nan),
        "no particles": bad(log_weights=f(P, 0, dtype=DOUBLE)),
        "nothing": good(log_weights=f(0, 0, dtype=DOUBLE), uniform=f(0, dtype=DOUBLE)),
        **{
            f"uniform {value}": good(uniform=torch.full((P,), value, dtype=DOUBLE))
            for value in (math.nan, math.inf, 1e300, -1e300)
        },
    }
    yield from variants(RAW.systematic_resample, inputs, changes)


def noises() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        rng = ops.rng_state(0, 0)
        return {"like": f(2, 3, 4), "rng": rng, "stream": 0, "population": 0, "particle": 0}

    changes = {
        "two dimensions": bad(like=f(2, 3)),
        "half": bad(like=f(2, 3, 4).half()),
        "stream 99": bad(stream=99),
        "population -5": bad(population=-5),
        "particle -7": bad(particle=-7),
        "rng int32": bad(rng=torch.zeros(2, dtype=INT)),
        **{
            f"{shape}": good(like=torch.empty(shape))
            for shape in ((0, 0, 0), (0, 3, 4), (3, 0, 4), (3, 4, 0))
        },
    }
    yield from variants(RAW.noise, plain, changes)


def combinations() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        state = {"tensors": [f(2, 3, 4) for _ in range(3)], "coefficients": f(3, dtype=DOUBLE)}
        noise = {"seeds": torch.zeros(1, dtype=LONG), "nodes": torch.zeros(5, dtype=LONG)}
        return {**state, **noise, "weights": f(5, dtype=DOUBLE), "stream": 0, "first_sample": 0}

    changes = {
        "no tensors": bad(tensors=[]),
        "nine tensors": bad(tensors=[f(2, 3, 4)] * 9, coefficients=f(9, dtype=DOUBLE)),
        "eight tensors": good(tensors=[f(2, 3, 4)] * 8, coefficients=f(8, dtype=DOUBLE)),
        "no dimensions": bad(tensors=[torch.ones(())] * 3),
        "another shape": bad(tensors=[f(2, 3, 4), f(2, 3, 4), f(2, 3, 5)]),
        "a broadcast shape": bad(tensors=[f(2, 3, 4), f(2, 3, 1), f(2, 3, 4)]),
        "fewer dimensions": bad(tensors=[f(2, 3, 4), f(3, 4), f(2, 3, 4)]),
        "another dtype": bad(tensors=[f(2, 3, 4), f(2, 3, 4), f(2, 3, 4).half()]),
        "integers": bad(tensors=[torch.ones(2, 3, 4, dtype=INT)] * 3),
        "two coefficients": bad(coefficients=f(2, dtype=DOUBLE)),
        "float32 coefficients": bad(coefficients=f(3)),
        "coefficients on meta": bad(coefficients=f(3, dtype=DOUBLE).to("meta")),
        "no seeds": bad(seeds=None),
        "no noise": good(seeds=None, nodes=None, weights=None),
        "three seeds": bad(seeds=torch.zeros(3, dtype=LONG)),
        "no seed": bad(seeds=torch.zeros(0, dtype=LONG)),
        "own seeds": good(seeds=torch.zeros(2, dtype=LONG)),
        "own seeds of later samples": bad(seeds=torch.zeros(2, dtype=LONG), first_sample=1),
        "seeds int32": bad(seeds=torch.zeros(1, dtype=INT)),
        "nodes int32": bad(nodes=torch.zeros(5, dtype=INT)),
        "nodes of two dimensions": bad(nodes=torch.zeros(5, 1, dtype=LONG)),
        "four weights": bad(weights=f(4, dtype=DOUBLE)),
        "stream 99": bad(stream=99),
        "sample -7": bad(first_sample=-7),
        "sample 2^32": bad(first_sample=2**32),
        **{
            f"{shape}": good(tensors=[torch.empty(shape)] * 3)
            for shape in ((0, 0, 0), (0, 3, 4), (3, 0, 4), (3,))
        },
    }
    yield from variants(RAW.linear_combination, plain, changes)


def sign_draws() -> Iterator[Case]:
    def plain(like: torch.Tensor | None = None) -> dict[str, Any]:
        state = {"like": f(2, 3, 12) if like is None else like, "rng": ops.rng_state(0, 0)}
        image = {"count": 5, "rows": 2, "columns": 3}
        return {**state, **image, "stream": 0, "population": 0, "particle": 0}

    changes = {
        "two dimensions": bad(like=f(2, 12)),
        "half": good(like=f(2, 3, 12).half()),
        "integers": bad(like=torch.ones(2, 3, 12, dtype=INT)),
        "stream 99": bad(stream=99),
        "population -5": bad(population=-5),
        "particle -7": bad(particle=-7),
        "rng int32": bad(rng=torch.zeros(2, dtype=INT)),
        "rng on meta": bad(rng=torch.zeros(2, dtype=LONG, device="meta")),
        **{f"count {count}": bad(count=count) for count in (0, -1, 2**31, -(2**63), 2**62)},
        "rows alone": bad(columns=0),
        "columns alone": bad(rows=0),
        "negative rows": bad(rows=-2, columns=-3),
        "wide image": bad(rows=2, columns=7),
        "huge image": bad(rows=2**62, columns=2**62),
        "no image": good(rows=0, columns=0),
        **{
            f"{shape}": good(like=torch.empty(shape))
            for shape in ((0, 0, 0), (0, 3, 12), (3, 0, 12), (3, 4, 0))
        },
    }
    yield from variants(RAW.signs, plain, changes)


def curvatures() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        return {
            "products": f(P, N, D),
            "probes": f(P, N, D),
            "exponents": torch.ones(P, dtype=DOUBLE),
            "exponent": 1.0,
        }

    changes = {
        "no exponents": good(exponents=None),
        "one exponent": bad(exponents=torch.ones(1, dtype=DOUBLE)),
        "exponents float32": bad(exponents=torch.ones(P)),
        "exponent NaN": good(exponents=None, exponent=math.nan),
        "two dimensions": bad(products=f(P, N), probes=f(P, N)),
        "integers": bad(
            products=torch.ones(P, N, D, dtype=INT), probes=torch.ones(P, N, D, dtype=INT)
        ),
        "probes float64": bad(probes=f(P, N, D, dtype=DOUBLE)),
        "probes of one row": bad(probes=f(P, 1, D)),
        "probes without memory": bad(probes=emptied(P, N, D)),
        "products on meta": bad(products=f(P, N, D).to("meta")),
        "no elements": good(products=f(P, N, 0), probes=f(P, N, 0)),
        "no particles": good(products=f(P, 0, D), probes=f(P, 0, D)),
    }
    yield from variants(RAW.curvature, plain, changes)


def matched_proposals() -> Iterator[Case]:
    def plain(p: int = P, n: int = N) -> dict[str, Any]:
        return {
            "curvature": f(p, n, dtype=DOUBLE),
            "ancestors": torch.zeros(p, n, dtype=INT),
            "exponents": torch.ones(p, dtype=DOUBLE),
            "exponent": 1.0,
            "levels": torch.tensor([1.0, 0.5], dtype=DOUBLE),
        }

    changes = {
        "no exponents": good(exponents=None),
        "one exponent": bad(exponents=torch.ones(1, dtype=DOUBLE)),
        "curvature float32": bad(curvature=f(P, N)),
        "three dimensions": bad(curvature=f(P, N, 1, dtype=DOUBLE)),
        "ancestors N": bad(ancestors=torch.full((P, N), N, dtype=INT)),
        "ancestors -1": bad(ancestors=torch.full((P, N), -1, dtype=INT)),
        "ancestors least": bad(ancestors=torch.full((P, N), -(2**31), dtype=INT)),
        "ancestors int64": bad(ancestors=torch.zeros(P, N, dtype=LONG)),
        "one ancestor": bad(ancestors=torch.zeros(1, 1, dtype=INT)),
        "one level": bad(levels=torch.ones(1, dtype=DOUBLE)),
        "levels of zero": good(levels=torch.zeros(2, dtype=DOUBLE)),
        "levels on meta": bad(levels=torch.ones(2, dtype=DOUBLE, device="meta")),
        "no particles": (False, lambda: plain(n=0)),
        "no populations": (True, lambda: plain(p=0)),
        "nothing": (True, lambda: plain(p=0, n=0)),
    }
    yield from variants(RAW.curvature_matched, plain, changes)


def grams() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        return {"scores": f(2, 3, 4, 5), "displacement": f(3, 4, 5)}

    changes = {
        "wide displacement": bad(displacement=f(3, 4, 6)),
        "displacement float64": bad(displacement=f(3, 4, 5, dtype=DOUBLE)),
        "three dimensions": bad(scores=f(2, 3, 4)),
        "integers": bad(scores=torch.ones(2, 3, 4, 5, dtype=INT), displacement=None),
        "without memory": bad(scores=emptied(2, 3, 4, 5), displacement=None),
        **{
            f"{shape}": (bad if shape[0] in (0, 9) else good)(scores=f(*shape), displacement=None)
            for shape in (
                (0, 1, 1, 1),
                (9, 1, 1, 1),
                (1, 0, 1, 1),
                (1, 1, 0, 1),
                (1, 1, 1, 0),
                (8, 0, 0, 0),
            )
        },
    }
    yield from variants(RAW.score_gram, plain, changes)


def reversals() -> Iterator[Case]:
    def plain(p: int = P, n: int = N, k: int = 2, d: int = D) -> dict[str, Any]:
        return {
            "scores": [f(p, n, d)] * 2,
            "exponents": torch.ones(p, 2, dtype=DOUBLE),
            "levels": torch.tensor([1.0, 0.5], dtype=DOUBLE),
            "traces": None,
            "products": [f(p, n, k, d)] * 2,
            "probes": f(p, n, k, d),
        }

    traces = torch.zeros(2, P, N, dtype=DOUBLE)
    changes = {
        "traces": good(traces=traces, products=[], probes=None),
        "traces and probes": bad(traces=traces),
        "traces and products": bad(traces=traces, probes=None),
        "neither": bad(products=[], probes=None),
        "no products": bad(products=[]),
        "one product": bad(products=[f(P, N, 2, D)]),
        "traces float32": bad(traces=traces.float(), products=[], probes=None),
        "traces of one model": bad(traces=traces[:1], products=[], probes=None),
        "no probes": (False, lambda: plain(k=0)),
        "probes of three dimensions": bad(probes=f(P, N, D)),
        "probes of one row": bad(probes=f(P, 1, 2, D)),
        "products of more probes": bad(products=[f(P, N, 3, D)] * 2),
        "product float64": bad(products=[f(P, N, 2, D, dtype=DOUBLE)] * 2),
        "product without memory": bad(products=[emptied(P, N, 2, D)] * 2),
        "exponents for all": bad(exponents=torch.ones(1, 2, dtype=DOUBLE)),
        "exponents float32": bad(exponents=torch.ones(P, 2)),
        "exponents of zero": good(exponents=torch.zeros(P, 2, dtype=DOUBLE)),
        "one level": bad(levels=torch.ones(1, dtype=DOUBLE)),
        "levels of zero": good(levels=torch.zeros(2, dtype=DOUBLE)),
        "levels on meta": bad(levels=torch.ones(2, dtype=DOUBLE, device="meta")),
        "scores of four dimensions": bad(scores=[f(P, N, D, 1)] * 2),
        "another score": bad(scores=[f(P, N, D), f(P, N, D + 1)]),
        "integers": bad(scores=[torch.ones(P, N, D, dtype=INT)] * 2),
        "no scores": bad(scores=[], products=[], exponents=torch.ones(P, 0, dtype=DOUBLE)),
        "nine scores": bad(
            scores=[f(P, N, D)] * 9,
            products=[f(P, N, 2, D)] * 9,
            exponents=torch.ones(P, 9, dtype=DOUBLE),
        ),
        "no particles": (True, lambda: plain(n=0)),
        "no populations": (True, lambda: plain(p=0)),
        "no elements": (True, lambda: plain(d=0)),
    }
    yield from variants(RAW.reversal, plain, changes)
