"""Complete a signal of which only the left half was measured, with noise.

The model is the prior and the measurement y = H x + noise is the likelihood. Sequential Monte Carlo samples the
posterior with the right probability for each completion; a mixture of Gaussians lets us check it in closed form.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from edmfast import LinearInverse, analytic, sampling, smc

# The prior has three kinds of signals [32], which differ little on the left and much on the right.
time = torch.linspace(0, 1, 32, dtype=torch.float64)
wave = torch.sin(2 * torch.pi * time)
shapes = torch.stack([wave, 0.95 * wave.abs(), 0.9 * wave.clamp(min=0)])
model = analytic.GaussianMixture(shapes, stds=[0.15] * 3)

# The measurement: the left half of one signal of the first kind.
H, noise = torch.eye(32, dtype=torch.float64)[:16], 0.2
torch.manual_seed(0)
measured = H @ (shapes[0] + 0.15 * torch.randn(32)) + noise * torch.randn(16)

# The exact answer: the evidence of each Gaussian, because y ~ N(H m, (std² + noise²) I).
evidence = -0.5 * (measured - shapes @ H.T).square().sum(1) / (0.15**2 + noise**2)
exact = torch.softmax(evidence, 0)

posterior = LinearInverse(model, H, measured, noise, full_below=0.05)
sigmas = sampling.get_sigmas_karras(40, 0.05, 10.0)


def kinds(x: torch.Tensor) -> torch.Tensor:
    """Return a one-hot vector [..., 3] of the kind that is nearest to each signal."""
    nearest = (x[..., None, :].double() - shapes).norm(dim=-1).argmin(-1)
    return torch.nn.functional.one_hot(nearest, 3).double()


run = smc.sample(posterior, (32,), sigmas, particles=1000, populations=20)
estimate = run.expectation_estimate(kinds)
print("probability of each kind of signal, given the left half")
print("exact", *(f"{p:.3f}" for p in exact))
print("SMC  ", estimate)

colours, samples = ("#0072B2", "#D55E00", "#009E73"), run.samples(40)
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3), sharey=True, layout="constrained")
for sample, kind in zip(samples, kinds(samples).argmax(-1), strict=True):
    right.plot(time, sample, color=colours[kind], lw=0.4)
for shape, colour, truth, mass in zip(shapes, colours, exact, estimate.value, strict=True):
    left.plot(time, shape, color=colour, lw=2)
    right.plot(time, shape, color=colour, lw=2, label=f"exact {truth:.0%}, SMC {mass:.0%}")
left.plot(time[:16], measured, "ko", ms=4, label="measurement")
left.legend(frameon=False, loc="lower left")
right.legend(frameon=False, loc="lower left")
left.set(title="Three kinds of signals,\nmeasured on the left half only", ylim=(-2.6, 1.4))
right.set(title="Completions from the posterior\nand their probabilities")
path = Path(sys.argv[1] if len(sys.argv) > 1 else "out/solve_an_inverse_problem.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=120, bbox_inches="tight")
