"""Checkpoints of a run: written on the way, and checked before a run goes on from one."""
