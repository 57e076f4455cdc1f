"""Run sequential Monte Carlo on hard targets."""
