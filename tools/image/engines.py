"""The programs that build and run images, behind one small interface: docker and podman alike, and buildah alone.

A container is tried as a strict cluster runs it: the image's own user, a read-only root file system with /tmp alone
writable, no capabilities, no new privileges, and no network, so that whatever wants to download something fails.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tools.image.index import PackageIndex

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
CONFINE = (
    'mount -o remount,bind,ro / && user=$1 group=$2 && shift 2 && exec setpriv --reuid="$user" --regid="$group"'
    ' --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"'
)


class EngineError(Exception):
    """The program is not there, or failed."""


@dataclass(frozen=True, slots=True)
class Build:
    """One target of the Dockerfile under a name."""

    target: str
    name: str
    arguments: Mapping[str, str]
    labels: Mapping[str, str]
    index: PackageIndex
    secret: Path


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command in a container ended, and all that it printed."""

    code: int
    output: str


class Engine(Protocol):
    """What is needed of a program that builds images."""

    def has(self, image: str) -> bool:
        """Say whether the image is here."""

    def pull(self, image: str) -> bool:
        """Try to fetch it."""

    def import_base(self, image: str, root: Path) -> None:
        """Make an image of a root file system."""

    def build(self, wanted: Build) -> None:
        """Build one target; its output goes to the terminal."""

    def inspect(self, image: str) -> dict[str, Any]:
        """Give the configuration: User, Entrypoint, Cmd, Env, Labels, ExposedPorts."""

    def run(self, image: str, command: Sequence[str], mounts: Mapping[Path, str]) -> Ran:
        """Run a command confined; `mounts` are read-only."""

    def run_as_root(self, image: str, command: Sequence[str]) -> Ran:
        """Run a command that may read everything."""

    def size(self, image: str) -> str:
        """Give the size, uncompressed."""


def choose(name: str | None, storage: Path | None) -> Engine:
    """Give the named program, or the first that works here; `storage` is a folder for buildah's images."""
    for one in [name] if name else ["docker", "podman", "buildah"]:
        if shutil.which(one) and _works(one):
            return Buildah(storage) if one == "buildah" else DockerLike(one)
    raise EngineError(
        f"{name} does not work here" if name else "none of docker, podman, buildah works here: install one"
    )


def _works(program: str) -> bool:
    # `docker --version` answers without a daemon; `images` does not.
    return subprocess.run([program, "images"], capture_output=True, check=False).returncode == 0


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"{' '.join(command[:3])}: {done.stderr.strip()}")
    return done.stdout


def _ran(command: Sequence[str]) -> Ran:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return Ran(done.returncode, done.stdout.strip())


def _build_options(wanted: Build) -> list[str]:
    options = ["--target", wanted.target, "--tag", wanted.name, "--secret", f"id=pip-conf,src={wanted.secret}"]
    for name, value in wanted.arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    # The Dockerfile has them too, but buildah takes that layer from its cache when only an argument changed.
    for name, value in wanted.labels.items():
        options += ["--label", f"{name}={value}"]
    return options


@dataclass(frozen=True, slots=True)
class DockerLike:
    """Docker, or podman, which takes the same commands."""

    program: str

    def has(self, image: str) -> bool:
        """Say whether the image is here."""
        return _ran([self.program, "image", "inspect", image]).code == 0

    def pull(self, image: str) -> bool:
        """Try to fetch it."""
        return _ran([self.program, "pull", image]).code == 0

    def import_base(self, image: str, root: Path) -> None:
        """Make an image of a root file system."""
        archive = _archive(root)
        _call(self.program, "import", "--change", f"ENV PATH={PATH}", str(archive), image)

    def build(self, wanted: Build) -> None:
        """Build one target."""
        options = ["--network", "host", *_build_options(wanted)]
        if self.program == "podman":
            options += ["--layers", "--pull=never"]
            options += [f"--volume={path}:{path}:ro" for path in wanted.index.mounts]
        elif wanted.index.mounts:
            paths = ", ".join(map(str, wanted.index.mounts))
            raise EngineError(f"docker cannot mount what pip's configuration names ({paths}): use podman or buildah")
        if subprocess.run([self.program, "build", *options, "."], check=False).returncode:
            raise EngineError(f"{self.program} could not build {wanted.target}")

    def inspect(self, image: str) -> dict[str, Any]:
        """Give the configuration."""
        found: dict[str, Any] = json.loads(_call(self.program, "image", "inspect", image))[0]["Config"]
        return found

    def run(self, image: str, command: Sequence[str], mounts: Mapping[Path, str]) -> Ran:
        """Run a command confined."""
        options = ["--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL"]  # noqa: S108
        options += ["--security-opt", "no-new-privileges"]
        # Podman would mount /run and /var/tmp writable as well.
        options += ["--read-only-tmpfs=false"] if self.program == "podman" else []
        options += [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        return self._run(image, command, options)

    def run_as_root(self, image: str, command: Sequence[str]) -> Ran:
        """Run a command that may read everything."""
        return self._run(image, command, ["--user", "0:0", "--network", "none"])

    def _run(self, image: str, command: Sequence[str], options: Sequence[str]) -> Ran:
        return _ran([self.program, "run", "--rm", *options, "--entrypoint", command[0], image, *command[1:]])

    def size(self, image: str) -> str:
        """Give the size."""
        return _call(self.program, "images", "--format", "{{.Size}}", image).split("\n")[0]


@dataclass(frozen=True, slots=True)
class Buildah:
    """Buildah with chroot isolation, for root on a machine where no container can be started.

    It has no read-only root of its own: the root is mounted again read-only inside the container before the
    command loses all rights. The network is taken away from the outside.
    """

    storage: Path | None = None

    def has(self, image: str) -> bool:
        """Say whether the image is here."""
        return _ran(self._command("inspect", "--type", "image", image)).code == 0

    def pull(self, image: str) -> bool:
        """Try to fetch it."""
        return _ran(self._command("pull", image)).code == 0

    def import_base(self, image: str, root: Path) -> None:
        """Make an image of a root file system."""
        container = self._call("from", "scratch")
        try:
            self._call("add", container, str(_archive(root)), "/")
            self._call("config", "--env", f"PATH={PATH}", container)
            self._call("commit", container, image)
        finally:
            self._call("rm", container)

    def build(self, wanted: Build) -> None:
        """Build one target."""
        options = ["--layers", "--isolation", "chroot", "--network", "host", "--pull-never", *_build_options(wanted)]
        options += [f"--volume={path}:{path}:ro" for path in wanted.index.mounts]
        if subprocess.run(self._command("build", *options, "."), check=False).returncode:
            raise EngineError(f"buildah could not build {wanted.target}")

    def inspect(self, image: str) -> dict[str, Any]:
        """Give the configuration."""
        found: dict[str, Any] = json.loads(self._call("inspect", "--type", "image", image))["OCIv1"]["config"]
        return found

    def run(self, image: str, command: Sequence[str], mounts: Mapping[Path, str]) -> Ran:
        """Run a command confined."""
        user, _, group = self.inspect(image)["User"].partition(":")
        options = ["--cap-add", "CAP_SYS_ADMIN", "--mount", "type=tmpfs,destination=/tmp"]
        options += [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        return self._run(image, ["sh", "-c", CONFINE, "confine", user, group, *command], options)

    def run_as_root(self, image: str, command: Sequence[str]) -> Ran:
        """Run a command that may read everything."""
        return self._run(image, command, [])

    def _run(self, image: str, command: Sequence[str], options: Sequence[str]) -> Ran:
        container = self._call("from", "--pull-never", image)
        try:
            run = self._command("run", "--isolation", "chroot", "--user", "0:0", *options, container, "--", *command)
            return _ran(["unshare", "--net", "--", *run])
        finally:
            self._call("rm", container)

    def size(self, image: str) -> str:
        """Give the size."""
        return self._call("images", "--format", "{{.Size}}", image).split("\n")[0]

    def _command(self, *words: str) -> list[str]:
        place = ["--root", f"{self.storage}/root", "--runroot", f"{self.storage}/run"] if self.storage else []
        return ["buildah", *place, *words]

    def _call(self, *words: str) -> str:
        return _call(*self._command(*words)).strip()


def _archive(root: Path) -> Path:
    archive = root.with_suffix(".tar")
    with tarfile.open(archive, "w") as out:
        out.add(root, arcname=".")
    return archive
