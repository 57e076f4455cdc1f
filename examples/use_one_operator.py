"""Take one operator into a loop of your own: resampling, in a particle filter for a noisy walk.

`systematic_resample` turns log-weights into ancestors where the effective sample size is low, for many populations
in one call. The Kalman filter gives the exact answer for this model, both the path and the log-likelihood.
"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from edmfast import ops

# A walk z_t = 0.95 z_{t-1} + 0.3 noise from z_0 ~ N(0, 1), seen as y_t = z_t + 0.5 noise.
decay, drift, blur, length = 0.95, 0.3, 0.5, 100
torch.manual_seed(0)
state, seen = torch.randn(()), []
for _ in range(length):
    seen.append(state + blur * torch.randn(()))
    state = decay * state + drift * torch.randn(())

# The exact answer: the Kalman filter.
mean, variance, log_z, exact = torch.zeros(()), 1.0, 0.0, []
for y in seen:
    total = variance + blur**2
    log_z -= 0.5 * float((y - mean) ** 2 / total + math.log(2 * math.pi * total))
    mean, variance = mean + variance / total * (y - mean), variance * blur**2 / total
    exact.append((float(mean), variance**0.5))
    mean, variance = decay * mean, decay**2 * variance + drift**2

# 50 particle filters of 1000 particles each. The weights start again from zero where a filter resampled.
particles, log_weights = torch.randn(50, 1000), torch.zeros(50, 1000)
estimate, filtered = torch.zeros(50, dtype=torch.float64), []
for y in seen:
    log_weights += -0.5 * ((y - particles) / blur).square() - math.log(blur * (2 * math.pi) ** 0.5)
    filtered.append(float((torch.softmax(log_weights, 1) * particles).sum(1).mean()))
    chosen = ops.systematic_resample(log_weights, torch.rand(50), ess_threshold=0.5)
    particles = particles.gather(1, chosen.ancestors.long())
    estimate += torch.where(chosen.resampled, chosen.log_mean, 0.0)
    log_weights[chosen.resampled] = 0.0
    particles = decay * particles + drift * torch.randn(50, 1000)
estimate += log_weights.double().logsumexp(1) - math.log(1000)
pooled, error = float(estimate.logsumexp(0) - math.log(50)), float(estimate.std()) / 50**0.5
answer = f"Log-likelihood: exact {log_z:.2f}, particle filters {pooled:.2f} ± {error:.2f}"
print(answer)

times, (centre, width) = torch.arange(length), torch.tensor(exact).T
figure, ax = plt.subplots(figsize=(7, 2.9), layout="constrained")
ax.plot(times, torch.stack(seen), ".", color="#999999", label="measured")
ax.fill_between(times, centre - 2 * width, centre + 2 * width, color="#56B4E9", alpha=0.4)
ax.plot(times, centre, color="#0072B2", lw=2, label="exact mean ± 2 sd")
ax.plot(times, filtered, ".", color="#D55E00", ms=5, label="mean of the particles")
ax.set(title=answer, xlabel="time", ylim=(-3.2, 3.2))
ax.legend(ncols=3, frameon=False, loc="upper center")
path = Path(sys.argv[1] if len(sys.argv) > 1 else "out/use_one_operator.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=150, bbox_inches="tight")
