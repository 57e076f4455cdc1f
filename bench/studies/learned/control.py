"""p^gamma of a learned model by one law of weights, measured against the known answer of the exact mixture.

256 particles, 32 Karras levels and the threshold .4, as in the other tables of control. The measures are those of
`edmfast.demo.yardstick`; the total variation of the masses of components counts.
"""

from __future__ import annotations

import functools
from typing import Any

from edmfast import smc
from edmfast.demo.known_answer import KnownAnswer, power_answer
from edmfast.demo.smooth_digits import SIGMA_MAX, SIGMA_MIN, load_smooth_digits
from edmfast.demo.yardstick import measure_run
from edmfast.sampling import get_sigmas_karras
from edmfast.targets import Tempered

PARTICLES, STEPS, THRESHOLD = 256, 32, 0.4


@functools.cache
def answer_of(gamma: float) -> KnownAnswer:
    """Return the known answer for p^gamma of the smooth digits."""
    return power_answer(load_smooth_digits(), gamma, SIGMA_MIN)


def control(
    model: Any, gamma: float, law: str, *, populations: int, seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Return the measures of p^gamma, sampled from a learned model.

    law: the argument `weights` of `smc.sample`. options: its other arguments.
    """
    levels = get_sigmas_karras(STEPS, SIGMA_MIN, SIGMA_MAX)[:-1]
    run = smc.sample(
        Tempered(model, gamma),
        (64,),
        levels,
        particles=PARTICLES,
        populations=populations,
        seed=seed,
        weights=law,
        ess_threshold=THRESHOLD,
        **options,
    )
    found = measure_run(answer_of(gamma), run)
    variance, ancestors = found.log_weight_variance, found.ancestors
    numbers = {
        "total_variation": found.total_variation_of_mean,
        "of_one_run": float(found.total_variation.mean()),
        "of_classes": found.class_variation_of_mean,
        "log_density_gap": float(found.log_density_gap.mean()),
        "variance": None if variance is None else float(variance.mean()),
        "ancestors": None if ancestors is None else float(ancestors.mean()),
        "nfe": found.evaluations,
    }
    rounded = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in numbers.items()
    }
    return {"gamma": gamma, "law": law, **rounded}
