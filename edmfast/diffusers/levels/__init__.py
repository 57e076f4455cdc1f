"""The timesteps and noise levels of runs, as the schedulers of diffusers have them."""
