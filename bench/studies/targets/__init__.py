"""Sequential Monte Carlo on hard targets."""
