"""How many threads torch may use: as many as this container has processors, which torch itself does not know.

Torch counts the machine's cores. In a container that may use two of sixty-four it starts sixty-four threads, which
wait for each other most of the time. Very short texts one by one (the sentinels) are fastest with a single thread
even on a quiet machine, and by a factor of ten on a busy one.
"""

from __future__ import annotations

import importlib
import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available(quota_file: Path = CPU_QUOTA) -> int:
    """Count the processors that this process may use: affinity and cgroup quota (version 2), at least 1.

    `OMP_NUM_THREADS` wins where it is set, as it does for torch.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))


def load_torch() -> ModuleType:
    """Import torch so that its threads sleep while they wait for each other.

    They spin by default, which on cores that other processes use as well (a sidecar's always are) makes two threads
    several times slower than one. OpenMP reads the policy when it starts; what the operator has set wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return importlib.import_module("torch")  # seconds and hundreds of MB: only when an encoder is really wanted


def use(threads: int) -> None:
    """Let torch use `threads` threads for the work of the calling thread."""
    load_torch().set_num_threads(threads)


@contextmanager
def single() -> Iterator[None]:
    """Let torch use one thread inside the block."""
    torch = load_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
