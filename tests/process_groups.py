"""Leave a process group at the end of a test's process, and check that nothing of it is left."""

import gc
from pathlib import Path

import torch.distributed as dist


def gloo_threads():
    """Return the names of this process's threads that belong to gloo. They can be read on Linux only."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def leave():
    """Destroy the default group, whose threads must end with it: otherwise they may abort the process at its end.

    No rank leaves while another one still sends.
    """
    dist.barrier()
    # a collection would hide a run that keeps its group alive
    gc.disable()
    assert not Path("/proc/self/task").exists() or gloo_threads()
    dist.destroy_process_group()
    assert not gloo_threads(), "something keeps the process group alive"
