"""The samplers under the names of k-diffusion, EDM and EDM2, and the one entry for every solver."""
