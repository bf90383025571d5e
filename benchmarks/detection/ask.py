"""Start a peer's script in its own environment and read its answers."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SCRIPTS = Path(__file__).resolve().parent / "peers"
ENVIRONMENTS = SCRIPTS.parent / ".venvs"


def missing(peer: str) -> str | None:
    """Say why a peer cannot be asked, None if it can."""
    if (ENVIRONMENTS / peer / "bin" / "python").exists():
        return None
    failed = ENVIRONMENTS / f"{peer}.failed"
    return failed.read_text().strip() or "did not install" if failed.exists() else "not set up (setup_peers.sh)"


def write(file: Path, reference: NDArray[Any], change: NDArray[Any], live: Mapping[str, NDArray[Any]]) -> None:
    """Write the streams of one world as the contract wants them."""
    lives: dict[str, Any] = {f"live|{name}": values for name, values in live.items()}
    np.savez(file, reference=reference, change=change, **lives)


def ask(peer: str, streams: Path, jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Have a peer answer jobs on one file of streams; raises RuntimeError with the end of what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "jobs.json", Path(folder) / "answers.json"
        asked.write_text(json.dumps(list(jobs)))
        python = ENVIRONMENTS / peer / "bin" / "python"
        command = [str(python), "-W", "ignore", str(SCRIPTS / f"{peer}_peer.py"), *map(str, (streams, asked, answered))]
        # One thread each: the benchmark counts processor time.
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | limits, check=False)
        if ran.returncode:
            raise RuntimeError(f"{peer}: {ran.stderr[-2000:]}")
        return dict(json.loads(answered.read_text()))
