"""What needs a GPU, and what is known of the GPU kernels without one."""
