"""Running averages of weights: those of a run, snapshots of them, and averages chosen after training."""
