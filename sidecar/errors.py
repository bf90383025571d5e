"""The one error hierarchy, so that a caller can tell whose fault a failure is.

    SidecarError
    ├── ConfigurationError      the operator must change a setting, a flag or a file        exit 2
    ├── DataError               a file that somebody gave us breaks a stated rule           exit 2
    │   └── EventError          one stream entry breaks the event contract (has a reason)
    ├── DependencyError         something that we need could not be reached or used         exit 3
    │   ├── StoreError          Redis
    │   ├── EncoderError        an embedding model
    │   └── VectorIndexError    a vector index
    │       └── MismatchError   the index was built by another encoder than the one it is used with
    └── DemoError               the demo cannot run on this machine                         exit 3

Errors of libraries are mapped to these where they enter (redis in `store`, torch in `encoders`, files in `indexes`),
and nowhere else. A message names what, where and the rule; it never carries query text. "Not enough data" is a state
of a verdict and therefore not here.
"""

from __future__ import annotations


class SidecarError(Exception):
    """Base of everything that this package raises on purpose."""

    exit_code = 3


class ConfigurationError(SidecarError):
    """A setting, flag or file of the operator breaks a rule that the message names."""

    exit_code = 2


class DataError(SidecarError):
    """A data file breaks a rule; the message names file, line and rule."""

    exit_code = 2


class EventError(DataError):
    """One stream entry breaks the event contract.

    `reason` is a short word from a fixed list: it becomes a metric label and must stay bounded.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DependencyError(SidecarError):
    """A thing that the sidecar depends on could not be reached or used."""


class StoreError(DependencyError):
    """Redis could not be reached, refused us, or answered with an error.

    `refused` says that waiting does not help: a password, a permission or a key of another type.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class EncoderError(DependencyError):
    """An encoder could not be loaded or failed while encoding."""


class VectorIndexError(DependencyError):
    """A vector index is missing, damaged or cannot be searched."""


class MismatchError(VectorIndexError):
    """An index holds vectors of another encoder than the one that it would be searched with."""


class DemoError(SidecarError):
    """The demo lacks something on this machine; the message says what to install."""
