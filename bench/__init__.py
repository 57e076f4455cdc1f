"""Benchmarks: correctness first, then ours and the baselines side by side in one run."""
