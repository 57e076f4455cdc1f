"""The modules of k-diffusion under their own names, so that code written for it needs one other import.

import edmfast.k_diffusion as K

model = K.external.CompVisDenoiser(network)
x = K.sampling.sample_dpmpp_2m(model, x, model.get_sigmas(20))
"""

from edmfast.k_diffusion import external, layers, sampling, utils
from edmfast.k_diffusion.layers import Denoiser

__all__ = ["Denoiser", "external", "layers", "sampling", "utils"]
