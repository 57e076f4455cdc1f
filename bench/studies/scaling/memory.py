"""Measure the peak memory of a population that is shared by ranks, per particle and per element of its state.

The measurement runs in a process of its own, the only rank of its group. It takes the path of many ranks,
where all states are packed, sent (to itself) and unpacked. The target needs almost no memory, so the growth
is the sampler's.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.harness import memory

PARTICLES, SMALL, DIMS = 1 << 17, 1 << 10, (8, 72)

_RUN = """
import tempfile
import torch.distributed as dist
from edmfast import smc

dim = int(sys.argv[1])
folder = tempfile.mkdtemp()
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)

class Normal:
    exponent = 1.0

    def energy_and_score(self, x, sigma):
        v = 1 + sigma**2
        return x.square().sum(1) / (2 * v), -x / v

def run(particles):
    result = smc.sample(
        Normal(), (dim,), [4.0, 3.0, 2.0, 1.5], particles=particles, proposal="euler",
        ess_threshold=1.0, distribution=smc.Distribution(dist.group.WORLD, split="particles"),
        options=smc.RunOptions(device="cpu"),
    )
    assert result.resampled[:-1].all()
"""


class PeakBytes(NamedTuple):
    """The bytes of a particle: without elements, and for each element of its state."""

    particle: float
    element: float


def shared_peak(particles: int = PARTICLES) -> PeakBytes:
    """Fit a line through the peaks at two dimensions, in float32, without networks. Linux only."""
    low, high = (memory.peak(_RUN, particles, SMALL, str(dim)) * 2**20 / particles for dim in DIMS)
    element = (high - low) / (DIMS[1] - DIMS[0])
    return PeakBytes(low - DIMS[0] * element, element)


def resident_bytes(elements: int, *, probed: bool = False) -> int:
    """Return the bytes of a particle between two steps, with float32 states.

    They are x and score; energy; log-weight in float64; ancestor and root in int32; the float64 of a probe.
    Counted from `edmfast.smc.populations.particle_state.ParticleState`.
    """
    return 2 * 4 * elements + 4 + 8 + 4 + 4 + 8 * probed


PROBED_BYTES = 2 * 8
"""Bytes of a particle on every rank while the mean of a probed curvature is taken: the float64 that each rank
sent, and their concatenation. From `edmfast.smc.distributed.shared_population.everywhere`."""


def joining_bytes(elements: int) -> int:
    """Return the bytes of a particle while every rank joins the states of a result: those received, and the
    whole."""
    return 2 * 4 * elements


def result_bytes(elements: int) -> int:
    """Return the bytes of a particle in a result: x and its log-weight.

    split="particles" gives every rank all of them.
    """
    return 4 * elements + 8
