"""Sample the product of two models: the states that both of them accept (a logical AND).

Adding the two scores, as is commonly done, finds the common modes but gives them wrong masses.
Sequential Monte Carlo follows the same scores, weighs every particle, and agrees with the exact product.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from edmfast import Product, analytic, sampling, smc

# The models share a wide mode on the left and a narrow one on the right.
first = analytic.GaussianMixture([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.6]], stds=[0.8, 0.3, 0.5])
second = analytic.GaussianMixture([[-2.0, 0.0], [2.0, 0.0], [0.0, -2.6]], stds=[0.8, 0.4, 0.5])
sigmas = sampling.get_sigmas_karras(40, 0.02, 10.0)


def right(x: torch.Tensor) -> torch.Tensor:
    return (x[..., 0] > 1.0).double()


# The exact answer: the product of the two densities on a fine grid.
axis = torch.linspace(-5, 5, 1001, dtype=torch.float64)
grid = torch.cartesian_prod(axis, axis)
density = (first.log_prob(grid) + second.log_prob(grid)).exp()
density = density / density.sum()
exact = float((density * right(grid)).sum())

# The sum of the two scores in an ordinary sampler: x + sigma² (s1 + s2) = D1 + D2 - x.
torch.manual_seed(0)
summed = sampling.sample_euler_ancestral(
    lambda x, sigma: first(x, sigma) + second(x, sigma) - x,
    sigmas[0] * torch.randn(4000, 2),
    sigmas,
)
naive = float(right(summed).mean())

# Sequential Monte Carlo on the sum of the two energies.
run = smc.sample(Product([first, second]), (2,), sigmas, particles=1000, populations=20)
estimate = run.expectation_estimate(right)

print(f"mass of the right mode of the product: exact {exact:.3f}")
print(f"sum of scores {naive:.3f}, SMC {estimate}")

truth = grid[torch.multinomial(density, 400, replacement=True)]
panels = {"Model A": first.sample(400, seed=0), "Model B": second.sample(400, seed=1)}
panels[f"A and B, exact\nright: {exact:.0%}"] = truth
panels[f"Sum of scores\nright: {naive:.0%}"] = summed[:400]
panels[f"edmfast SMC\nright: {estimate.value:.0%}"] = run.samples(400)
figure, axes = plt.subplots(1, 5, figsize=(7, 2), sharex=True, sharey=True, layout="constrained")
for ax, (name, x) in zip(axes, panels.items(), strict=True):
    ax.scatter(*x.T, s=3, c=["#D55E00" if side else "#0072B2" for side in right(x)], linewidths=0)
    ax.set(xlim=(-4, 4), ylim=(-4, 4), xticks=[], yticks=[], aspect="equal")
    ax.set_title(name, fontsize=10)
path = Path(sys.argv[1] if len(sys.argv) > 1 else "out/compose_two_models.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=150, bbox_inches="tight")
