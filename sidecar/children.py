"""Child processes that cannot outlive us, not even when we are killed with -9.

That is for Linux; elsewhere they end when they are stopped.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Run by a fresh interpreter that then becomes the program: the order "die with your parent" survives `exec`, and
# unlike a `preexec_fn` nothing of ours runs between fork and exec of a process full of threads. It looks at its
# parent again because that may have died before the order was given.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """Give a command that runs `command` (its first part a path) bound to the life of the thread that starts it."""
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
