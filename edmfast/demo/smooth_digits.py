"""A smooth model of the digits: a mixture of 20 Gaussians with full covariances, two for each class.

Its energy, its score, p² and the product of two classes are known exactly, so it tells whether controlled samples
are right. A network can learn it, unlike a kernel density of 1,797 narrow spikes. It was chosen as follows:

- Two components for each class make the classes exact: p(x | class) is a mixture of two of them.
- The regularisation .06 is added to the variance of every pixel, which is .36 on average. The narrowest direction
  of a component then has a standard deviation of .24. Smaller values make p² a harder test, and larger ones make
  the score easier to learn.
- p² at noise level .05 is a hard test. Its largest masses are .51, .30, .06 and .03, and the largest of p is .08.
  The total variation between the masses of p and of p² is .71. With 256 particles, 32 Karras steps from 20 to .05,
  the threshold .4 and the mean over 64 populations, the total variation of the masses is .67 for scores multiplied
  by 2, .51 for Feynman–Kac corrector weights (.79 for one population, log-weight variance 76) and .06 for reversal
  weights with exact traces (.14 for one population, variance .9). Over 8 populations the second lies between .3
  and .7, and the last between .02 and .10.
- Seed 3 was chosen among the seeds 0 to 6 of the fit, because both wrong laws fail clearly there.

`python -m edmfast.demo.smooth_digits` fits the model again, from the fixed seed 3, and replaces the shipped file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from edmfast._internal.file_kinds import MIXTURE
from edmfast._internal.files import read_tensors, write_tensors
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.digits import NUM_CLASSES, all_digits

SHIPPED = Path(__file__).with_name("smooth_digits.safetensors")
"""File of the shipped mixture."""
COMPONENTS_PER_CLASS = 2
REGULARISATION = 0.06
"""The variance added to every pixel, in the units of images in [-1, 1]."""
SIGMA_MIN, SIGMA_MAX = 0.05, 20.0
"""The noise levels between which control is judged. p^gamma and products are taken at SIGMA_MIN."""
_SEED, _ITERATIONS = 3, 200


def fit_smooth_digits() -> MixtureOfGaussians:
    """Return the mixture, fitted to all digits by expectation maximisation for each class, in a few seconds.

    Its parameters have the precision of float32, as those of the shipped file have. Raises ImportError without
    scikit-learn.
    """
    digits = all_digits()
    # scikit-learn is an extra, whose absence all_digits() has explained
    from sklearn.mixture import GaussianMixture

    images = digits.images.flatten(1).double()
    means, covariances, weights = [], [], []
    for label in range(NUM_CLASSES):
        chosen = digits.labels == label
        fitted = GaussianMixture(
            COMPONENTS_PER_CLASS,
            covariance_type="full",
            reg_covar=REGULARISATION,
            max_iter=_ITERATIONS,
            random_state=_SEED,
        ).fit(images[chosen].numpy())
        means.append(torch.tensor(fitted.means_))
        covariances.append(torch.tensor(fitted.covariances_))
        weights.append(torch.tensor(fitted.weights_) * chosen.double().mean())
    classes = torch.arange(NUM_CLASSES).repeat_interleave(COMPONENTS_PER_CLASS)
    return MixtureOfGaussians(
        torch.cat(means).float(),
        torch.cat(covariances).float(),
        torch.cat(weights).float(),
        classes,
    )


def save_smooth_digits(mixture: MixtureOfGaussians, path: str | os.PathLike[str] = SHIPPED) -> None:
    """Write a mixture to path in float32, with the version of scikit-learn that is installed.

    Raises as `edmfast.models.save_model` does.
    """
    assert mixture.classes is not None, "a model of digits has classes"
    tensors = {name: getattr(mixture, name).float() for name in ("means", "covariances", "weights")}
    tensors["classes"] = mixture.classes.to(torch.uint8)
    metadata = {"kind": "mixture", "scikit-learn": version("scikit-learn")}
    write_tensors(path, tensors, metadata, kind=MIXTURE)


def load_smooth_digits(path: str | os.PathLike[str] = SHIPPED) -> MixtureOfGaussians:
    """Return the mixture, whose states are [B, 64] or [B, 1, 8, 8] in [-1, 1].

    Raises FileNotFoundError where there is no file, and ValueError for a file of another kind.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != "mixture":
        raise ValueError(f"{path} holds no {MIXTURE}")
    return MixtureOfGaussians(**tensors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit the mixture and write it to the path in the arguments, or replace the shipped file."""
    paths = sys.argv[1:] if arguments is None else [*arguments]
    path = Path(paths[0]) if paths else SHIPPED
    save_smooth_digits(fit_smooth_digits(), path)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
