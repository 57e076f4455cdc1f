"""An import that lets process groups of torch.distributed end when they are destroyed.

The functions of `torch.distributed.nn.functional` (torch 2.13) have the default group at the time of their import
as a default argument. The first optimiser and the first compiled function import it, usually after
`init_process_group`. The group would then outlive `destroy_process_group`, and its threads would run on while the
interpreter ends, which aborts the process now and then. So this module imports it with edmfast, while there is no
group yet.
"""

import torch.distributed as dist

if dist.is_available():
    import torch.distributed.nn.functional  # noqa: F401 - the docstring says why
