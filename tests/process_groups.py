"""Start the ranks of a test, and leave their process group so that nothing of it is left."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

ROOT = Path(__file__).parents[1]


def environment(**more):
    """Return the environment of a rank, in which the tests can be imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def run_ranks(script, *arguments, ranks=2, timeout=200):
    """Run a script once for each rank, and return the exit codes and all output. A rank that hangs is ended."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=environment(RANK=str(rank), WORLD_SIZE=str(ranks)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        output = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "\n".join(output)


def torchrun(ranks, *arguments):
    """Run a script, or a module after "-m", by torchrun on a number of ranks, and return the finished process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)


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
