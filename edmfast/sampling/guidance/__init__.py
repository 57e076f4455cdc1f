"""Guidance: denoisers that combine the denoised states of several evaluations, for every plain sampler.

| name                             | denoised states                                                             |
|----------------------------------|-----------------------------------------------------------------------------|
| `ClassifierFreeGuidance`         | D_u + w (D_c - D_u), with and without the condition                         |
| `AutoGuidance`                   | D_guide + w (D - D_guide), with a weaker model as the guide                 |
| `ReinforcementLearningGuidance`  | D_base + w (D_tuned - D_base), before and after a fine-tuning               |
| `PerpendicularNegative`          | D_u + w (p - sum_i n_i q_i), with the part q_i of a negative condition that |
|                                  | is perpendicular to p = D_c - D_u                                           |

Each is a denoiser, called as model(x, sigma, **conditions), so that wrappers can be nested: the guidance of two
models that have classifier-free guidance of their own is a wrapper around two wrappers. `edmfast.targets.Guided`
is the density base^(1-w) model^w, whose denoiser these wrappers compute where both models are given. Guidance by a
denoiser alone does not sample that density. `smc.sample` does it with weights, and can take a wrapper as the model
that the moves follow: `targets.ProposedBy(targets.Guided(base, model, w), wrapper)`.
"""

from edmfast.sampling.guidance.classifier_free import ClassifierFreeGuidance
from edmfast.sampling.guidance.perpendicular import PerpendicularNegative
from edmfast.sampling.guidance.two_models import AutoGuidance, ReinforcementLearningGuidance

__all__ = [
    "AutoGuidance",
    "ClassifierFreeGuidance",
    "PerpendicularNegative",
    "ReinforcementLearningGuidance",
]
