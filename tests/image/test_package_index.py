"""What reaches a build of this machine's package index, and what must not be found in an image afterwards."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from tools.image.index import of_this_machine, read


def options(listing: str) -> dict[str, str]:
    """Give what pip would read."""
    parser = ConfigParser(interpolation=None)
    parser.read_string(read(listing).text)
    return dict(parser["global"])


def test_only_places_are_handed_on():
    """Where packages come from goes in; which versions, and how pip behaves, stays behind."""
    listing = "global.constraint='/etc/limits.txt'\nglobal.index-url='https://a.example/simple'\ninstall.user='1'\n"
    assert options(listing) == {"index-url": "https://a.example/simple"}
    assert read(listing).mounts == ()


def test_the_strongest_source_wins():
    """As for pip: the environment over the command's section over the global one, whatever the order of the lines."""
    listing = ":env:.timeout='3'\nglobal.timeout='1'\ninstall.timeout='2'\ninstall.proxy='p'\nglobal.proxy='q'\n"
    assert options(listing) == {"timeout": "3", "proxy": "p"}


def test_several_values_stay_several():
    """Pip prints a list with line breaks, which a line of the file cannot hold."""
    listing = "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'\n"
    assert options(listing) == {"extra-index-url": "https://a.example/simple https://b.example/simple"}
    assert read(listing).traces == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("line", "mounts", "traces"),
    [
        ("global.find-links='/srv/wheels'", ["/srv/wheels"], ("/srv/wheels",)),
        ("global.index-url='file:///srv/index/simple'", ["/srv/index"], ("/srv/index",)),
        ("global.index-url='file:///simple'", ["/simple"], ("/simple",)),
        ("global.cert='/etc/ssl/certs/ca-certificates.crt'", ["/etc/ssl/certs/ca-certificates.crt"], ()),
        ("global.index-url='https://me:secret@a.example/simple'", [], ("a.example",)),
        ("global.timeout='60'", [], ()),
    ],
    ids=["folder", "index-on-disk", "index-in-the-root", "certificates", "address", "number"],
)
def test_local_paths_are_mounted_and_looked_for(line, mounts, traces):
    """A path is mounted for the build and must not be in the image; the certificates' path is there on every Debian."""
    found = read(line)
    assert found.mounts == tuple(map(Path, mounts))
    assert found.traces == traces


def test_an_empty_configuration_is_a_file_that_pip_reads():
    """A machine with no configuration hands on an empty section."""
    assert options("") == {}


def test_pip_on_this_machine_is_understood():
    """The real listing of the real pip: what is to be mounted exists."""
    assert all(path.exists() for path in of_this_machine().mounts)
