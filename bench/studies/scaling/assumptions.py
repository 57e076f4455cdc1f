"""State the assumptions of the scaling projection: its options, and the lines that report them."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cases import sampler_targets
from bench.studies.scaling import traffic as scaling_traffic
from bench.studies.scaling.memory import PeakBytes


def add_options(parser: argparse.ArgumentParser) -> None:
    """The assumptions."""
    group = parser.add_argument_group("projection (assumptions)")
    group.add_argument("--gpus", type=int, default=64)
    group.add_argument("--particles", type=float, default=1e9, help="of the one population")
    group.add_argument("--dims", default="2,64,3072", help="elements of a state")
    group.add_argument("--link-gbps", type=float, default=50.0, help="of each GPU, Gbit/s one way")
    group.add_argument("--latency-us", type=float, default=30.0, help="of a collective")
    group.add_argument("--gpu-gb", type=float, default=80.0, help="memory of a GPU, GB")
    group.add_argument("--hbm-gbs", type=float, default=3000.0, help="memory of a GPU, GB/s")
    group.add_argument("--ess", type=float, default=0.5, help="ESS/N at a resampling")
    group.add_argument("--steps", type=int, default=sampler_targets.STEPS, help="of a run")
    group.add_argument(
        "--nfe-rate", type=float, help="energies and scores a second of one GPU, for every D"
    )


def check_options(options: argparse.Namespace) -> None:
    """ValueError for numbers that the library or the formulas have no room for."""
    particles = int(options.particles)
    if options.gpus < 2 or not options.gpus <= particles < 2**31:
        raise ValueError(
            f"a projection needs 2 GPUs or more and fewer than 2^31 particles (ancestors are int32), a "
            f"particle at least for each, got {options.gpus} and {particles}"
        )
    rates = [options.link_gbps, options.latency_us, options.hbm_gbs, options.gpu_gb]
    rates += [] if options.nfe_rate is None else [options.nfe_rate]
    if min(rates) <= 0 or not 0 < options.ess < 1:
        raise ValueError("rates and latency must be positive and --ess in (0, 1)")
    if options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")


def describe_assumptions(
    options: argparse.Namespace,
    device: str,
    counted: dict[str, Any],
    rates: dict[str, float],
    peak: PeakBytes | None,
) -> list[str]:
    """Return a line for each assumption, which says where its number comes from."""
    middle = scaling_traffic.middle_over_mean(options.gpus)
    error = counted["excess_exponent_error"]
    excess = counted["moved"][-1] / counted["independent"][-1]
    power = f"{counted['excess_exponent']:.2f}{'' if error is None else f' ± {error:.2f}'}"
    lines = [
        f"assumed: {options.particles:.3g} particles of one population on {options.gpus} GPUs, split='particles', "
        "float32 states",
        f"assumed: link {options.link_gbps:g} Gbit/s per GPU and direction, {options.latency_us:g} us per "
        f"collective, {options.gpu_gb:g} GB of memory at {options.hbm_gbs:g} GB/s; nothing overlaps",
        f"assumed: ESS/N = {options.ess:g} at a resampling, log-normal weights",
        f"measured: a run over {counted['ranks']} shards moves {excess:.2f} times the states of the formula at "
        f"N = {counted['particles'][-1]}, a ratio that grows as N^({power}); more is extrapolated",
        f"assumed: that ratio, counted over {counted['ranks']} shards in runs of {counted['populations']} "
        f"populations in 2 dimensions, holds over {options.gpus} shards, for one population and at every D",
        f"assumed: link times are those of a mean GPU; at the middle cut {middle:.2f} times as many slots are "
        "expected to cross, and all wait for the slowest",
        "counted: a probed curvature holds the float64 of all particles on every GPU, received and joined; the "
        "time of a run is of a calibrated one",
        "derived: the time of a run has floors in place of times that nobody measured, and leaves out start and "
        'end: too low rather than too high; a fit in memory takes each row alone, and a "yes" is no promise',
        "counted: a batch of the network is bounded by batch_size, and its memory is not in the rows",
        "counted: weights of shared populations take the plain path of torch, so the floor of one kernel is far",
    ]
    if peak is not None:
        lines.append(
            f"measured on the CPU: peak of {peak.particle:.0f} + {peak.element:.1f} D bytes per particle"
        )
    if device == "cpu":
        lines.append(
            "this run was on a CPU: rates of GPUs are unmeasured; only traffic, memory and floors transfer"
            + (
                f" (this CPU: {rates['nfe']:.3g} evaluations/s of a 2-D energy)"
                if "nfe" in rates
                else ""
            )
        )
    return lines
