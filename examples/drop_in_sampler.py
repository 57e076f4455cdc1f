"""Swap the import of k-diffusion's samplers for edmfast's: names, arguments and the callback stay as they are.

The data have one dimension here, where the exact end of every path is known: paths of the ODE never cross, so each
quantile of the noise arrives at the same quantile of the data. The errors tell which solver needs fewest calls.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

# Before: from k_diffusion.sampling import get_sigmas_karras, sample_dpmpp_2m, sample_euler, ...
from edmfast import analytic
from edmfast.sampling import get_sigmas_karras, sample_dpmpp_2m, sample_euler, sample_heun

means, stds = torch.tensor([-1.0, 1.0]).double(), torch.tensor([0.3, 0.2]).double()
denoiser = analytic.GaussianMixture(means[:, None], stds)  # any callable (x, sigma [B]) -> x0


def cumulative(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the distribution function of the noised data at x [B, 1]."""
    return torch.special.ndtr((x - means) / (stds**2 + sigma**2).sqrt()).mean(1, keepdim=True)


# The exact answer by bisection: the x0 whose quantile among the data is that of x among the noise.
x = 10.0 * torch.linspace(-2, 2, 31, dtype=torch.float64)[:, None]
quantile, low, high = cumulative(x, 10.0), torch.full_like(x, -9.0), torch.full_like(x, 9.0)
for _ in range(60):
    exact = (low + high) / 2
    below = cumulative(exact, 0.0) < quantile
    low, high = torch.where(below, exact, low), torch.where(below, high, exact)

figure, (paths, errors) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
steps, measured = [20, 40, 80, 160, 320], {}
for sampler, calls, colour in (
    (sample_euler, 1, "#0072B2"),
    (sample_dpmpp_2m, 1, "#009E73"),
    (sample_heun, 2, "#D55E00"),
):
    ends = [sampler(denoiser, x, get_sigmas_karras(n, 0.002, 10.0), disable=True) for n in steps]
    error = [float((end - exact).abs().mean()) for end in ends]
    measured[sampler.__name__] = error
    print(f"{sampler.__name__:16s} mean error at 20 to 320 steps:", *(f"{e:.1e}" for e in error))
    errors.loglog([calls * n for n in steps], error, "o-", color=colour, label=sampler.__name__)
errors.minorticks_off()
errors.set(xticks=[20, 80, 320], xticklabels=[20, 80, 320], xlabel="calls of the denoiser")
errors.set_title("Mean error of the end")
errors.legend(frameon=False)

states: list[torch.Tensor] = []
sigmas = get_sigmas_karras(320, 0.002, 10.0)
sample_heun(denoiser, x, sigmas, callback=lambda step: states.append(step["x"]), disable=True)
paths.semilogx(sigmas[:-1], torch.cat(states, 1).T, color="#D55E00", lw=0.6)
paths.plot([0.002] * len(x), exact, "k.", ms=5, label="exact end", clip_on=False)
paths.set(xlim=(10, 0.002), ylim=(-3, 3), xlabel="noise level", title="Paths from noise to data")
paths.legend(frameon=False)
path = Path(sys.argv[1] if len(sys.argv) > 1 else "out/drop_in_sampler.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=120, bbox_inches="tight")
