"""Checkpoints of a run: written on the way, and checked before a run goes on from one.

Writing: `keeper.Keeper` decides when, and `file.save_state` gathers what a run needs to go on. Then
`edmfast._internal.files.write_tensors` writes it with a checksum, through a temporary file that
`edmfast._internal.atomic_write.replacing` puts in place whole or not at all.

Reading: `file.load_state` checks, in this order: the file and its checksum, the description of the run
(`description`) with the fingerprint of its target (`fingerprint`), numbers that the target gives at a few
points (`probes`), the index of the step, and the dtype, shape and range of every tensor.
"""
