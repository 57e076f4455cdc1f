"""The demonstration on handwritten digits: control of a plain denoiser, beside the exact answer."""
