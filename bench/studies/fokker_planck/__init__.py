"""A study of the Fokker–Planck residual as a training loss: what it costs, and what it does to samples."""
