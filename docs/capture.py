"""Make `images/demo.svg`: run the demo in a real terminal (tmux) and draw what stands on its screen at the end.

    python docs/capture.py

Nothing in the picture is typed by hand. It takes as long as the demo; tmux must be installed.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).parent / "images" / "demo.svg"
COLUMNS, ROWS = 118, 34
SESSION = "rag-drift-capture"
DONE = "demo-has-ended"


def tmux(*arguments: str) -> str:
    """Run one tmux command and give its output."""
    done = subprocess.run(["tmux", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    """Run, wait, draw."""
    command = f"{shlex.quote(sys.executable)} -m sidecar.cli demo --once; echo {DONE}; sleep 60"
    tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", str(ROWS), command)
    try:
        while DONE not in tmux("capture-pane", "-p", "-t", SESSION):
            time.sleep(1)
        screen = tmux("capture-pane", "-p", "-e", "-t", SESSION)
    finally:
        tmux("kill-session", "-t", SESSION)
    lines = screen.split(DONE)[0].rstrip().splitlines()
    console = Console(record=True, width=COLUMNS, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(Text("$ make demo\n", "bold"), Text.from_ansi("\n".join(lines)), sep="", soft_wrap=True)
    TARGET.write_text(console.export_svg(title="rag-drift demo"), encoding="utf-8")
    print(f"wrote {TARGET.name}")


if __name__ == "__main__":
    main()
