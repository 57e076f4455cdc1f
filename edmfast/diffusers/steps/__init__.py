"""The steps of `EdmfastScheduler`: plans of solvers in the coordinates of diffusers, and what goes around them."""
