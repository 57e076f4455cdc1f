"""The rivals of controlled sampling: other laws for p^gamma and products, each in plain torch and float64.

| file               | law                                                    | per step and model            |
|--------------------|--------------------------------------------------------|-------------------------------|
| `scaled_scores.py` | the scores are scaled or added, and nothing is weighed | a forward                     |
| `fkc.py`           | Feynman–Kac correctors                                 | a forward                     |
| `superdiff.py`     | SuperDiff AND                                          | a forward                     |
| `rne.py`           | ratios along paths against a Gaussian reference        | a forward                     |
| `driftlite.py`     | a drift fitted on the fly to cut the variance          | a forward and a vjp           |
| `crepe.py`         | replica exchange along the noise levels, with energies | a forward and a vjp           |

Every function takes (terms, shape, levels, particles=, populations=, seed=) and returns an `Outcome`.
"""

from bench.rivals.control.crepe import replica_exchange
from bench.rivals.control.driftlite import drift_control
from bench.rivals.control.fkc import feynman_kac_corrector
from bench.rivals.control.outcome import Outcome
from bench.rivals.control.rne import path_ratios
from bench.rivals.control.scaled_scores import scaled_scores
from bench.rivals.control.superdiff import superdiff
from bench.rivals.control.terms import Terms

__all__ = [
    "Outcome",
    "Terms",
    "drift_control",
    "feynman_kac_corrector",
    "path_ratios",
    "replica_exchange",
    "scaled_scores",
    "superdiff",
]
