"""One run by several processes that torchrun has started: the first leads, the others follow.

Whether it has started this one is known before torch is imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from gstds.common.process_group import Group
    from gstds.train.running.options import RunConfig


BACKENDS = ("auto", "gloo", "nccl")
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The first process may compute features for hours while the others wait. One that dies is noticed
# at once all the same: its connections close, and torchrun ends the others.
_PATIENCE = timedelta(days=2)


def launched_rank() -> int:
    """Return this process's number among those that a launcher has started; 0 without one.

    Raises:
        ValueError: If the launcher's variables are no whole numbers.
    """
    return _number("RANK") if _launched_size() > 1 else 0


def refuse_launcher(command: str) -> None:
    """Refuse a command that several processes would do over each other.

    Raises:
        ValueError: If a launcher has started more than one process.
    """
    if _launched_size() > 1:
        what = f"{_launched_size()} processes of gstds {command}, which is for one"
        mend = "start it without torchrun (--workers and --ray do many runs)"
        raise ValueError(f"torchrun starts {what}; train by gstds run, or {mend}")


def _launched_size() -> int:
    return max(1, _number("WORLD_SIZE")) if all(map(os.environ.get, _VARIABLES)) else 1


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise ValueError(f"environment variable {name} must be a whole number, got {text!r}")
    return int(text)


@contextlib.contextmanager
def process_group(config: RunConfig, backend: str = "auto") -> Iterator[Group]:
    """Join the processes that a launcher has started; without one, be alone.

    Args:
        config: The run's options.
        backend: ``gloo``, ``nccl``, or ``auto``: nccl on GPUs, else gloo.

    Raises:
        ValueError: If the backend or the device is not there, or there are more processes than a
            drawn batch has samples.
    """
    from gstds.common.process_group import Group, ProcessGroup, check_size

    size = _launched_size()
    if backend not in BACKENDS:
        raise ValueError(f"--backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if size == 1:
        yield Group()
        return
    import torch
    import torch.distributed as dist

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _own_device(config.device, local_rank)
    name = _checked_backend(backend, device)
    check_size(size, config.batch_size)
    dist.init_process_group(name, timeout=_PATIENCE)
    try:
        yield ProcessGroup(device if name == "nccl" else torch.device("cpu"), local_rank)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _own_device(name: str, local_rank: int) -> torch.device:
    """Return this process's device, and make it torch's own: one GPU for each process."""
    import torch

    from gstds.envs.learner.learner import resolve_device

    device = resolve_device(name)
    if device.type != "cuda":
        return device
    if ":" in name:
        raise ValueError(f"device {name!r} is one GPU for several processes; use --device cuda")
    there = torch.cuda.device_count()
    if local_rank >= there:
        what = f"process {local_rank} of this machine has no GPU, there are {there}"
        mend = "start as many processes as GPUs (torchrun --nproc-per-node), or use --device cpu"
        raise ValueError(f"{what}; {mend}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _checked_backend(backend: str, device: torch.device) -> str:
    import torch.distributed as dist

    name = ("nccl" if device.type == "cuda" else "gloo") if backend == "auto" else backend
    if not dist.is_available() or not dist.is_backend_available(name):
        mend = "use gloo, or install a torch that has it"
        raise ValueError(f"--backend {name!r} is not in this torch; {mend}")
    if name == "nccl" and device.type != "cuda":
        raise ValueError(f"--backend 'nccl' is for GPUs, device is {str(device)!r}; use gloo")
    return name
