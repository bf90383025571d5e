"""Write the dashboards, or say which files are stale: `python -m dashboards.generate [--check]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.generate import health, on_call, probes, weekly

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "grafana"
BOARDS = {"on-call": on_call.board, "probes": probes.board, "weekly": weekly.board, "health": health.board}


def files() -> Iterator[tuple[Path, str]]:
    """Give each file with the text that it should have."""
    for name, board in BOARDS.items():
        yield FOLDER / f"{name}.json", board().text()


def main(arguments: list[str] | None = None) -> int:
    """Write what is stale, or with `--check` only tell, and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file would change")
    check = parser.parse_args(arguments).check
    stale = [(file, text) for file, text in files() if not file.exists() or file.read_text(encoding="utf-8") != text]
    for file, text in stale:
        if not check:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        print(f"{file.name}: {'is stale, run python -m dashboards.generate' if check else 'written'}")  # noqa: T201
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
