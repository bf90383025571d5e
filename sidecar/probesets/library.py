"""Find the probe sets that there are: those that come with the program, and folders of the user's own.

One bad set never takes the others with it: it is set aside with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sidecar
from sidecar.errors import ConfigurationError, DataError
from sidecar.probesets.read import looks_like_a_set, read_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.probesets.read import ProbeSet


@dataclass(frozen=True, slots=True)
class SetAside:
    """A set that cannot be used, and why: the rule that it breaks, one line for each."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Library:
    """The sets that can be used, in the order of their names, and those that were set aside."""

    sets: tuple[ProbeSet, ...]
    aside: tuple[SetAside, ...] = ()


def bundled_folder() -> Path:
    """Give the folder of the bundled sets: in the package of an installed wheel, beside it in a source checkout.

    Raises:
        DataError: neither is there.
    """
    package = Path(sidecar.__file__).parent
    for folder in (package / "probes", package.parent / "probes"):
        if (folder / "sentinel").is_dir():
            return folder
    raise DataError("the bundled probe sets are missing from the installation; rule: in the package or beside it")


def find_sets(bundled: Sequence[str] | None = None, folders: Sequence[Path] = ()) -> Library:
    """Read the bundled sets of these names (None: all), and every set in `folders`.

    Raises:
        ConfigurationError: as `set_places`.
    """
    return _read(set_places(bundled, folders))


def set_places(bundled: Sequence[str] | None = None, folders: Sequence[Path] = ()) -> list[Path]:
    """Give the folders of the sets that are asked for, without reading them.

    A folder is a set itself or holds sets, one folder each; hidden ones are passed over.

    Raises:
        ConfigurationError: there is no bundled set of a name, or no folder where one was named.
    """
    home = bundled_folder()
    names = sorted(one.name for one in home.iterdir() if looks_like_a_set(one))
    if unknown := set(bundled or ()) - set(names):
        raise ConfigurationError(f"no bundled probe set {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    places = [home / name for name in (names if bundled is None else sorted(set(bundled)))]
    for folder in folders:
        try:
            if not folder.is_dir():
                raise ConfigurationError(f"probe sets: {folder} is not a folder")
            inner = sorted(one for one in folder.iterdir() if not one.name.startswith(".") and looks_like_a_set(one))
            # A folder without any is taken for a set, so that the message says what it lacks.
            places += [folder] if looks_like_a_set(folder) or not inner else inner
        except OSError as error:
            raise ConfigurationError(f"probe sets: {folder} cannot be read ({error.strerror})") from None
    return places


def _read(places: Sequence[Path]) -> Library:
    sets: dict[str, ProbeSet] = {}
    aside = []
    for place in places:
        try:
            one = read_set(place)
        except DataError as error:
            aside.append(SetAside(place.name, str(error)))
            continue
        if one.name in sets:
            aside.append(
                SetAside(one.name, f"{place}: {sets[one.name].folder} is a set of the same name; rule: names differ")
            )
        else:
            sets[one.name] = one
    return Library(tuple(sets[name] for name in sorted(sets)), tuple(aside))
