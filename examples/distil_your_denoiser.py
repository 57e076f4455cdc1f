"""Turn a denoiser of your own into an energy, and sample it at half its temperature.

A denoiser is any callable (x, sigma) -> x0. `distill` teaches an energy to follow it, and the energy gives
sequential Monte Carlo its weights. The density behind this denoiser is known, so the answer can be checked.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from edmfast import DistillConfig, EnergyModel, Tempered, analytic, distill, models, sampling, smc

means, stds = torch.tensor([[-0.8, 0.0], [0.8, 0.0]]), torch.tensor([0.4, 0.2])
truth = analytic.GaussianMixture(means, stds)


class MyDenoiser(torch.nn.Module):
    """Stand in for your network: return E[x0 | x] of two Gaussians for x [B, 2] and sigma [B]."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        variance = stds**2 + sigma[:, None] ** 2
        distance = (x[:, None] - means).square().sum(2)
        share = torch.softmax(-0.5 * distance / variance - variance.log(), 1) / variance
        return (share * stds**2).sum(1, keepdim=True) * x + sigma[:, None] ** 2 * (share @ means)


def narrow(x: torch.Tensor) -> torch.Tensor:
    return (x[..., 0] > 0.3).double()


torch.manual_seed(0)
mine, student = MyDenoiser(), EnergyModel(models.ResidualMLP(dim=2, width=64), sigma_data=0.6)
data, config = truth.sample(20_000, seed=0).float(), DistillConfig(steps=2000, batch_size=512)
energy = distill(mine, student, data, config=config, progress=False).model
sigmas = sampling.get_sigmas_karras(40, 0.05, 10.0)
run = smc.sample(Tempered(energy, 2.0), (2,), sigmas, particles=1000, populations=20)
mass = run.expectation_estimate(narrow).value

# Two comparisons: p² on a fine grid, and an ordinary sampler with twice the score of the denoiser.
axis = torch.linspace(-2, 2, 401, dtype=torch.float64)
grid = torch.cartesian_prod(axis, axis)
density = torch.softmax(2 * truth.log_prob(grid), 0)
scaled = sampling.sample_euler_ancestral(
    lambda x, sigma: x + 2 * (mine(x, sigma) - x), sigmas[0] * torch.randn(4000, 2), sigmas
)
exact, naive = float(density @ narrow(grid)), float(narrow(scaled).mean())
print(f"narrow mode of p²: exact {exact:.3f}, score scaling {naive:.3f}, SMC {mass:.3f}")
figure, axes = plt.subplots(1, 2, figsize=(7, 2.9), sharey=True, layout="constrained")
panels = {"Score scaling": (scaled, naive), "Distilled energy and SMC": (run.samples(4000), mass)}
for ax, (name, (x, share)) in zip(axes, panels.items(), strict=True):
    ax.hist(x[:, 0], bins=66, range=(-2, 2), density=True, color="#E69F00", label="samples")
    ax.plot(axis, density.reshape(401, -1).sum(1) / 0.01, color="#0072B2", label="exact p²")
    ax.set(yticks=[], xlabel="first coordinate")
    ax.set_title(f"{name}\n{share:.0%} in the narrow mode (exact {exact:.0%})")
axes[0].legend(frameon=False, loc="upper left")
path = Path(sys.argv[1] if len(sys.argv) > 1 else "out/distil_your_denoiser.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=150, bbox_inches="tight")
