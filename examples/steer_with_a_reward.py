"""Steer a plain denoiser towards a high reward, with no gradient of the reward and no training.

Each sample comes from a few candidates, which are resampled on the way by the reward of their denoised states.
With more candidates the samples approach the law p(x) exp(strength · reward), which is known exactly here.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from edmfast import analytic, sampling, smc

# Three modes from left to right, and a reward that grows to the right, where samples are rare.
model = analytic.GaussianMixture([[-1.5, 0.0], [0.0, 0.0], [1.5, 0.0]], [0.4] * 3, [0.6, 0.3, 0.1])
denoiser = model.denoise  # any callable (x [B, 2], sigma [B]) -> x0 [B, 2]
sigmas = sampling.get_sigmas_karras(200, 0.02, 10.0)
strength = 1.5


def reward(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0]


# The exact answer: each Gaussian N(m, v) becomes N(m + strength v, v) with another weight.
means, variances = model.means[:, 0], model.stds.square()
gain = strength * means + strength**2 * variances / 2
weights = torch.softmax(model.weights.log() + gain, 0)
tilted = analytic.GaussianMixture((means + strength * variances)[:, None], model.stds, weights)
plain = analytic.GaussianMixture(means[:, None], model.stds, model.weights)
exact = float(weights @ tilted.means[:, 0])

results = {}
for candidates in (1, 4, 64):
    steered = smc.steer(
        denoiser, reward, (2,), sigmas, prompts=1000, candidates=candidates, strength=strength
    )
    results[candidates] = steered.rewards
    print(f"candidates {candidates:2d}: mean reward {steered.rewards.mean():.2f}")
print(f"exact limit  : mean reward {exact:.2f}")

axis = torch.linspace(-3, 3.5, 400, dtype=torch.float64)
figure, axes = plt.subplots(1, 3, figsize=(7, 2.9), sharey=True, layout="constrained")
for ax, (candidates, rewards) in zip(axes, results.items(), strict=True):
    ax.hist(rewards, bins=40, range=(-3, 3.5), density=True, color="#E69F00", label="samples")
    ax.plot(axis, plain.log_prob(axis[:, None]).exp(), "--", color="#999999", label="model")
    ax.plot(axis, tilted.log_prob(axis[:, None]).exp(), color="#0072B2", label="exact target")
    name = "Not steered" if candidates == 1 else f"{candidates} candidates"
    ax.set_title(f"{name}\nmean reward {rewards.mean():.2f} (exact {exact:.2f})", fontsize=10)
    ax.set(xlabel="reward", yticks=[])
figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
)
path = Path(sys.argv[1] if len(sys.argv) > 1 else "out/steer_with_a_reward.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=150, bbox_inches="tight")
