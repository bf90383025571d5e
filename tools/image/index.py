"""Hand this machine's package index to a build without leaving a trace of it in the image.

Where packages come from is a fact of the machine that builds: an index in the company, a folder of wheels, a
certificate. pip on this machine knows it, so pip is asked. The answer goes in as a build secret, which is there while
pip runs and in no layer; folders that it names are mounted for the build. Which versions are taken is no business of
the machine: its constraints stay behind, and the repository's constraints.txt decides.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PLACES = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "timeout")
"""The options of pip that say where packages come from and how to get there."""

SECTIONS = ("global", "install", ":env:")
"""Where pip keeps them, the strongest last."""


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """A configuration file for pip, the local paths that it needs, and what of it must not be found in an image."""

    text: str
    mounts: tuple[Path, ...]
    traces: tuple[str, ...]


def of_this_machine() -> PackageIndex:
    """Ask pip."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    return read(told.stdout)


def read(listing: str) -> PackageIndex:
    """Read what `pip config list` prints."""
    found: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found and key in PLACES:
            found[section][key] = str(ast.literal_eval(value))
    options: dict[str, str] = {}
    for section in SECTIONS:
        options |= found[section]
    mounts: dict[Path, None] = {}
    traces: dict[str, None] = {}
    for key, value in options.items():
        for word in value.split():
            path, trace = _local(word), urlsplit(word).hostname
            if path is not None:
                mounts[path] = None
                # The bundle of certificates has the same path on every Debian.
                trace = None if key == "cert" else str(path)
            if trace:
                traces[trace] = None
    lines = [f"{key} = {' '.join(value.split())}" for key, value in options.items()]
    return PackageIndex("\n".join(["[global]", *lines, ""]), tuple(mounts), tuple(traces))


def _local(word: str) -> Path | None:
    """Give the path to mount for a path or a `file:` address; of an index its parent, for its pages link beside it."""
    if word.startswith("/"):
        return Path(word)
    address = urlsplit(word)
    if address.scheme != "file":
        return None
    folder = Path(address.path)
    return folder if folder.parent == Path("/") else folder.parent
