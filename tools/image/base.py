"""Have the image that the Dockerfile starts from: pulled, or made from Debian's packages where nothing can be pulled.

The stand-in is a Debian of the same release with the same Python, under a name of its own, so that nobody takes it for
the published image. It is meant for trying the Dockerfile; release images from the published one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tools.image.engines import Engine

STAND_IN = "rag-drift-base"
PACKAGES = "python3,python3-pip,python-is-python3,ca-certificates"
LEFT_OVER = ("var/cache/apt", "var/lib/apt/lists", "var/log", "etc/apt/sources.list", "etc/hostname", "etc/resolv.conf")


class NoBaseError(Exception):
    """There is nothing to build on."""


def named_in(dockerfile: Path) -> str:
    """Give the default of the argument PYTHON_IMAGE."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise NoBaseError(f"{dockerfile.name} has no ARG PYTHON_IMAGE")
    return found[1]


def prepare(engine: Engine, image: str, how: str, work: Path) -> str:
    """Give the name of the image to build on: `image`, or its stand-in. `how`: pull, debootstrap, or auto for both.

    Raises:
        NoBaseError: neither is to be had.
    """
    if how != "debootstrap" and (engine.has(image) or engine.pull(image)):
        return image
    if how == "pull":
        raise NoBaseError(f"{image} cannot be pulled")
    tag = image.partition("@")[0].rpartition(":")[2]
    name = f"{STAND_IN}:{tag}"
    if not engine.has(name):
        print(f"{image} is not pulled: making {name} from Debian's packages", flush=True)
        engine.import_base(name, _debian(tag, work))
    return name


def _debian(tag: str, work: Path) -> Path:
    """Make the root file system for a tag such as 3.11-slim-bookworm."""
    python, _, suite = tag.partition("-slim-")
    if not suite:
        raise NoBaseError(f"the tag {tag} names no Debian release; rule: VERSION-slim-RELEASE")
    if shutil.which("debootstrap") is None:
        raise NoBaseError("debootstrap is not installed: apt-get install debootstrap, and run this as root")
    root = work / "base"
    log = work / "debootstrap.log"
    with log.open("w", encoding="utf-8") as out:
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(root)],
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if made.returncode:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise NoBaseError(f"debootstrap failed:\n{last}")
    for name in LEFT_OVER:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    told = subprocess.run(["chroot", str(root), "python", "--version"], capture_output=True, text=True, check=True)
    if not told.stdout.startswith(f"Python {python}."):
        raise NoBaseError(f"Debian {suite} has {told.stdout.strip()} and {tag} wants {python}")
    return root
