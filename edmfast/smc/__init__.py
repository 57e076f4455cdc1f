"""Sequential Monte Carlo: draw weighted samples of a target, and judge how far the weights can be trusted.

`sample` is the main function. `steer` follows rewards, `mcmc` runs Markov chains at one noise level, and
`calibrate` and `calibrate_offsets` measure what a run needs to know of a target.

| where                               | what it holds                                                            |
|-------------------------------------|--------------------------------------------------------------------------|
| `sample`, `options`, `arguments`    | the arguments of a run and their checks; `Distribution` says how a run   |
|                                     | is spread over the ranks of a process group                              |
| `schedule`, `calibration`           | the noise levels of a run, and levels that a pilot run measured          |
| `run`, `step`, `state`, `compiling` | all levels of a run, one step, the state between two steps, and a step   |
|                                     | as one compiled graph, which a GPU captures                              |
| `feynman_kac`                       | how particles move and what they weigh, one file for each kind of model  |
| `proposals`                         | the kernels of the moves; `FeynmanKacProposal` is the kernel that the    |
|                                     | Feynman–Kac corrector uses                                               |
| `correctors`                        | Markov chain moves between the steps                                     |
| `populations`, `distributed`        | particles of one process, and particles spread over the ranks of a group |
| `checkpoint`                        | files of runs that are not finished                                      |
| `particles`                         | the result: draws, estimates, genealogies, cost, files                   |
| `verdict`                           | the judgement of the weights, and warnings                               |
"""

from edmfast.smc.calibrate import calibrate
from edmfast.smc.calibrate_offsets import calibrate_offsets
from edmfast.smc.calibration import Calibration
from edmfast.smc.correctors import HMC, MALA, ULA, Corrector, Underdamped
from edmfast.smc.feynman_kac.choose import MixedModelsWarning
from edmfast.smc.mcmc import ChainResult, mcmc
from edmfast.smc.options import (
    Checkpoint,
    Correction,
    Distribution,
    Hybrid,
    Reversal,
    RunOptions,
)
from edmfast.smc.particles.estimates import Estimate
from edmfast.smc.particles.evaluations import Evaluations
from edmfast.smc.particles.particles import Particles
from edmfast.smc.proposals import (
    Ancestral,
    CurvatureMatched,
    Euler,
    FeynmanKacProposal,
    NoiseMatched,
    Proposal,
    SuperDiff,
)
from edmfast.smc.sample import sample
from edmfast.smc.steer import Steered, steer
from edmfast.smc.verdict.verdict import Verdict
from edmfast.smc.verdict.warn import DegenerateWeightsWarning, DoubtfulWeightsWarning
from edmfast.targets.gauges import GaugeWarning

__all__ = [
    "HMC",
    "MALA",
    "ULA",
    "Ancestral",
    "Calibration",
    "ChainResult",
    "Checkpoint",
    "Correction",
    "Corrector",
    "CurvatureMatched",
    "DegenerateWeightsWarning",
    "Distribution",
    "DoubtfulWeightsWarning",
    "Estimate",
    "Euler",
    "Evaluations",
    "FeynmanKacProposal",
    "GaugeWarning",
    "Hybrid",
    "MixedModelsWarning",
    "NoiseMatched",
    "Particles",
    "Proposal",
    "Reversal",
    "RunOptions",
    "Steered",
    "SuperDiff",
    "Underdamped",
    "Verdict",
    "calibrate",
    "calibrate_offsets",
    "mcmc",
    "sample",
    "steer",
]
