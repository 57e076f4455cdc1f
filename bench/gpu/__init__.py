"""Run the checks that need a GPU, and those of GPU kernels that need none."""
