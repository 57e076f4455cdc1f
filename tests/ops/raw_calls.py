"""List calls of raw operators that a program might make by mistake, and whether each is accepted.

Run as a program, this module makes all calls from number FIRST on and prints a line before and after each. If a
call kills the process, it is the last one named.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from raw_steps import (
    DOUBLE,
    RAW,
    Case,
    bad,
    combinations,
    curvatures,
    emptied,
    f,
    good,
    grams,
    matched_proposals,
    noises,
    proposals,
    resamplings,
    reversals,
    sign_draws,
    variants,
    weighings,
)


def network(
    batch: int = 7, d: int = 4, width: int = 8, depth: int = 2, models: int = 1
) -> dict[str, Any]:
    return {
        "x": f(batch, d),
        "coefficients": f(models, batch, 4),
        "shifts": [f(batch, depth * width) for _ in range(models)],
        "entry": [f(width, d) for _ in range(models)],
        "entry_bias": [f(width) for _ in range(models)],
        "layers": [f(width, width) for _ in range(models * depth)],
        "exit": [f(d, width) for _ in range(models)],
        "exit_bias": [f(d) for _ in range(models)],
    }


NETWORKS: dict[str, Any] = {
    "no networks": bad(shifts=[], entry=[], entry_bias=[], layers=[], exit=[], exit_bias=[]),
    **{
        f"no {name}": bad(**{name: []})
        for name in ("shifts", "entry", "entry_bias", "exit", "exit_bias")
    },
    "no layers for other shifts": bad(layers=[]),
    "shifts of two rows": bad(shifts=[f(2, 16)]),
    "shifts of bytes": bad(shifts=[torch.ones(7, 16, dtype=torch.int8)]),
    "shifts for all": good(shifts=[f(1, 16)]),
    "coefficients of two rows": bad(coefficients=f(1, 2, 4)),
    "coefficients for all": good(coefficients=f(1, 1, 4)),
    "coefficients of one dimension": bad(coefficients=f(4)),
    "coefficients float64": bad(coefficients=f(1, 7, 4, dtype=DOUBLE)),
    "short entry_bias": bad(entry_bias=[f(1)]),
    "short exit_bias": bad(exit_bias=[f(1)]),
    "x of one dimension": bad(x=f(4)),
    "x of three": bad(x=f(7, 4, 2)),
    "wide entry": bad(entry=[f(8, 5)]),
    "entry of one dimension": bad(entry=[f(8)]),
    "three layers": bad(layers=[f(8, 8)] * 3),
    "wide layers": bad(layers=[f(8, 9)] * 2),
    "x float16": bad(x=f(7, 4).half()),
    "x float64": bad(x=f(7, 4, dtype=DOUBLE)),
    "layers on meta": bad(layers=[f(8, 8).to("meta")] * 2),
    "no rows": (True, lambda: network(batch=0)),
    "no width": (True, lambda: network(width=0)),
    "no elements": (True, lambda: network(d=0)),
    "no depth": (True, lambda: network(depth=0)),
    "three networks": (True, lambda: network(models=3)),
    "odd layers of two networks": (False, lambda: network(models=2) | {"layers": [f(8, 8)] * 3}),
    "a smaller second network": (
        False,
        lambda: network(models=2) | {"entry": [f(8, 4), f(4, 4)]},
    ),
}


def networks() -> Iterator[Case]:
    yield from variants(RAW.mlp_potential, lambda: network() | {"save": False}, NETWORKS)


def probed_networks() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        states = network()
        return {"x": states.pop("x"), "v": f(7, 4), **states}

    changes = {"short v": bad(v=f(6, 4)), "v float64": bad(v=f(7, 4, dtype=DOUBLE))}
    others = ("no rows", "no width", "no elements", "no depth", "three networks")
    changes |= {name: change for name, change in NETWORKS.items() if name not in others}
    yield from variants(RAW.mlp_potential_probe, plain, changes)


def network_derivatives() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        return {"grad_energy": f(1, 7), "grad_field": f(1, 7, 4), **network(), **rest}

    rest: dict[str, Any] = {"saved": f(0), "inputs": True, "weights": True}
    changes = {
        "one energy": bad(grad_energy=f(1)),
        "one field": bad(grad_field=f(1)),
        "short saved": bad(saved=f(1, 8)),
        "saved of one dimension": bad(saved=f(8)),
        "saved": good(saved=f(6 * 7, 8)),
        "energy float64": bad(grad_energy=f(1, 7, dtype=DOUBLE)),
    }
    several = ("no rows", "no width", "no elements", "no depth", "three networks")
    changes |= {name: change for name, change in NETWORKS.items() if name not in several}
    yield from variants(RAW.mlp_potential_backward, plain, changes)


def potentials() -> Iterator[Case]:
    def plain(rows: int = 3, d: int = 4) -> dict[str, Any]:
        return {"h": f(rows, d), "y": f(rows, d), "weight": f(rows)}

    changes: dict[str, Any] = {
        "one weight": bad(weight=f(1)),
        "wide h": bad(h=f(3, 5)),
        "h float64": bad(h=f(3, 4, dtype=DOUBLE)),
        "h without memory": bad(h=emptied(3, 4)),
        "nothing": (True, lambda: plain(0, 0)),
        "no elements": (True, lambda: plain(3, 0)),
    }
    yield from variants(RAW.potential, plain, changes)

    def backward() -> dict[str, Any]:
        return {"grad_energy": f(3), "grad_cotangent": f(3, 4), **plain()}

    changes = {
        "no gradients": good(grad_energy=None, grad_cotangent=None),
        "one energy": bad(grad_energy=f(1)),
        "wide cotangent": bad(grad_cotangent=f(3, 5)),
    }
    yield from variants(RAW.potential_backward, backward, changes)

    def double() -> dict[str, Any]:
        return {"a": f(3, 4), "b": f(3, 4), "c": f(3), **backward()}

    changes = {"one c": bad(c=f(1)), "wide a": bad(a=f(3, 5)), **changes}
    yield from variants(RAW.potential_double_backward, double, changes)

    def assembly() -> dict[str, Any]:
        return {"h": f(3, 4), "pullback": f(3, 4), "y": f(3, 4), "coefficients": f(3, 3)}

    changes = {
        "two coefficients": bad(coefficients=f(3, 2)),
        "wide pullback": bad(pullback=f(3, 5)),
    }
    yield from variants(RAW.potential_assemble, assembly, changes)

    def field() -> dict[str, Any]:
        return {"h": f(3, 4), "pullback": f(3, 4), "y": f(3, 4), "numbers": f(3, 4)}

    changes = {
        "one row": good(numbers=f(1, 4)),
        "two rows": bad(numbers=f(2, 4)),
        "three numbers": bad(numbers=f(3, 3)),
        "numbers float64": bad(numbers=f(3, 4, dtype=DOUBLE)),
        "wide pullback": bad(pullback=f(3, 5)),
        "h without memory": bad(h=emptied(3, 4)),
    }
    yield from variants(RAW.potential_field, field, changes)


def norms() -> Iterator[Case]:
    def plain() -> dict[str, Any]:
        numbers = {"x": f(4, 6, 5), "scale": f(1, 6), "shift": f(1, 6), "groups": 2}
        return {**numbers, "eps": 1e-5, "centred": True, "silu": True}

    changes: dict[str, Any] = {
        **{f"groups {groups}": bad(groups=groups) for groups in (0, -1, 4, 7, 2**62, -(2**63))},
        "three sets": bad(scale=f(3, 6), shift=f(3, 6)),
        "no sets": bad(scale=f(0, 6), shift=f(0, 6)),
        "no rows": good(x=f(0, 6, 5)),
        "another shift": bad(shift=f(2, 6)),
        "eps NaN": good(eps=math.nan),
        "no positions": bad(x=f(4, 6, 0)),
    }
    yield from variants(RAW.group_norm_silu, plain, changes)

    def backward() -> dict[str, Any]:
        states = {"grad": f(4, 6, 5), "x": f(4, 6, 5), "scale": f(1, 6), "shift": f(1, 6)}
        return {**states, "mean": f(4, 2), "rstd": f(4, 2), "centred": True, "silu": True}

    changes = {
        "mean of one dimension": bad(mean=f(4)),
        "no means": bad(mean=f(4, 0)),
        "other rstd": bad(rstd=f(4, 3)),
        "short grad": bad(grad=f(4, 6, 4)),
        "channels last": good(x=f(4, 5, 6).mT, grad=f(4, 5, 6).mT),
    }
    yield from variants(RAW.group_norm_silu_backward, backward, changes)

    def double() -> dict[str, Any]:
        return {"to_x": f(4, 6, 5), "to_scale": f(1, 6), "to_shift": f(1, 6), **backward()}

    changes |= {"no cotangents": good(to_scale=None, to_shift=None), "short": bad(to_x=f(4, 6, 4))}
    yield from variants(RAW.group_norm_silu_double_backward, double, changes)


def attentions() -> Iterator[Case]:
    heads = 2, 3, 32, 8

    def plain() -> dict[str, Any]:
        states = {"q": f(*heads), "k": f(*heads), "v": f(*heads), "key_mask": None}
        return {**states, "scale": 1.0, "causal": False}

    changes: dict[str, Any] = {
        "q of three dimensions": bad(q=f(3, 32, 8)),
        "wide k": bad(k=f(2, 3, 32, 9), v=f(2, 3, 32, 9)),
        "k of a larger batch": bad(k=f(5, 3, 32, 8), v=f(5, 3, 32, 8)),
        "k of a smaller batch": bad(k=f(1, 3, 32, 8), v=f(1, 3, 32, 8)),
        "k of one head": bad(k=f(2, 1, 32, 8), v=f(2, 1, 32, 8)),
        "q of one head": bad(q=f(2, 1, 32, 8)),
        "q of a smaller batch": bad(q=f(1, 3, 32, 8)),
        "k and v float64": bad(k=f(*heads, dtype=DOUBLE), v=f(*heads, dtype=DOUBLE)),
        "v float64": bad(v=f(*heads, dtype=DOUBLE)),
        "scale NaN": good(scale=math.nan),
        "other mask": bad(key_mask=torch.ones(2, 7, dtype=torch.bool)),
        "mask float": bad(key_mask=torch.ones(2, 32)),
        "fewer queries": good(q=f(2, 3, 5, 8)),
    }
    yield from variants(RAW.attention, plain, changes)

    def backward() -> dict[str, Any]:
        return {"grad": f(*heads), **_inserted(plain(), {"out": f(*heads), "lse": f(2, 3, 32)})}

    changes = {
        "one lse": bad(lse=f(1)),
        "lse of one query": bad(lse=f(1, 1, 1)),
        "lse float64": bad(lse=f(2, 3, 32, dtype=DOUBLE)),
        "out of one query": bad(out=f(2, 3, 1, 8)),
        "grad of one query": bad(grad=f(2, 3, 1, 8)),
        "grad float64": bad(grad=f(*heads, dtype=DOUBLE)),
        "k of a smaller batch": bad(k=f(1, 3, 32, 8), v=f(1, 3, 32, 8)),
        "q of three dimensions": bad(q=f(3, 32, 8)),
    }
    yield from variants(RAW.attention_backward, backward, changes)

    def double() -> dict[str, Any]:
        return {"a": f(*heads), "b": f(*heads), "c": f(*heads), **backward()}

    changes |= {"short a": bad(a=f(2, 3, 1, 8)), "short c": bad(c=f(2, 3, 1, 8))}
    yield from variants(RAW.attention_double_backward, double, changes)

    def along() -> dict[str, Any]:
        return {f"{name}_tangent": f(*heads) for name in "qkv"} | plain()

    changes = {
        "no tangents": good(q_tangent=None, k_tangent=None, v_tangent=None),
        "a tangent of k alone": good(q_tangent=None, v_tangent=None),
        "a tangent of one query": bad(q_tangent=f(2, 3, 1, 8)),
        "a tangent of one head": bad(k_tangent=f(2, 1, 32, 8)),
        "a tangent in float64": bad(v_tangent=f(*heads, dtype=DOUBLE)),
        "k of a smaller batch": bad(k=f(1, 3, 32, 8), v=f(1, 3, 32, 8)),
    }
    yield from variants(RAW.attention_jvp, along, changes)


def _inserted(states: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return the operands of attention with others inserted between v and the mask."""
    names = [*states]
    return {name: states[name] for name in names[:3]} | more | {n: states[n] for n in names[3:]}


GROUPS = {
    "propagate": proposals,
    "mlp_potential": networks,
    "mlp_potential_backward": network_derivatives,
    "mlp_potential_probe": probed_networks,
    "weigh_and_resample": weighings,
    "resample": resamplings,
    "linear_combination": combinations,
    "noise": noises,
    "signs": sign_draws,
    "curvature": curvatures,
    "curvature_matched": matched_proposals,
    "score_gram": grams,
    "reversal": reversals,
    "potential": potentials,
    "group_norm_silu": norms,
    "attention": attentions,
}


def all_cases() -> list[Case]:
    return [
        (f"{group}: {name}", accepted, call)
        for group, make in GROUPS.items()
        for name, accepted, call in make()
    ]


def main() -> None:
    first = int(sys.argv[1])
    for index, (name, accepted, call) in enumerate(all_cases()):
        if index < first:
            continue
        print(json.dumps([index, name]), flush=True)
        try:
            call()
            outcome = "accepted"
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            outcome = f"refused: {error}"
        right = outcome.startswith("accepted") == accepted
        print(json.dumps([index, name, right, outcome[:200]]), flush=True)


if __name__ == "__main__":
    main()
