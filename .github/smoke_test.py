"""Check an installed edmfast from outside its source tree: `python smoke_test.py`, with nothing but its own needs.

The compiled kernels for the CPU must be live, and one operator and one run must give what their formulas say.
"""

from __future__ import annotations

from pathlib import Path

import torch

import edmfast

kernels = edmfast.info()["kernels"]["cpu"]
assert kernels.startswith("_C"), kernels
# a source tree beside this file would hide the installed package, which is under test
assert "site-packages" in Path(edmfast.__file__).parts, edmfast.__file__

log_weights = torch.tensor([[0.0, -1.0, -torch.inf, 2.0]])
resampled = edmfast.ops.systematic_resample(log_weights, torch.tensor([0.5]))
assert resampled.ancestors.tolist() == [[1, 3, 3, 3]], resampled
wanted = log_weights.double().logsumexp(1) - torch.tensor(4.0, dtype=torch.float64).log()
torch.testing.assert_close(resampled.log_mean.double(), wanted, rtol=1e-5, atol=1e-5)

mixture = edmfast.analytic.GaussianMixture(torch.tensor([[-2.0], [2.0]]), torch.full((2,), 0.5))
levels = torch.logspace(1, -1.5, 12, dtype=torch.float64)
run = edmfast.smc.sample(edmfast.Tempered(mixture, 2.0), (1,), levels, particles=256, seed=1)
assert run.x.shape == (1, 256, 1)
assert bool(run.x.isfinite().all())
print(f"edmfast {edmfast.__version__} works: {kernels}, torch {torch.__version__}")
