"""Every error that a user can cause, drawn as one tree.

::

    AasvcError              one clear line on stderr, exit code 1
    ├── ConfigError         the configuration has faults (all of them are listed)
    ├── DataError           recordings, features or statistics cannot be used
    │   └── AudioError      one audio file cannot be used
    ├── ModelError          a model folder or a checkpoint cannot be used
    ├── StorageError        the file system refused: no permission, no space
    ├── DownloadError       a file could not be fetched, or is not the right one
    ├── TrainingError       training diverged or cannot go on
    ├── ClusterError        the workers of a cluster cannot be used, or were lost
    ├── ServeError          the server cannot use its address, or has ended
    ├── MissingExtraError   an optional package is not installed
    ├── ToldElsewhere       another process of the job says why; this one ends without a word
    └── Interrupted         stopped by the user; exit code 130

Messages say what was found, what was expected and what to do next. Library code raises these and never exits the
process; the command line is the only place that turns them into exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_FAULT = 400
"""Characters of one fault of a configuration, whose keys and values may be of any length."""


class AasvcError(Exception):
    """Base of all errors that are shown to the user as one line."""

    exit_code: int = 1


class ConfigError(AasvcError):
    """A configuration that cannot be used.

    Attributes:
        faults: one sentence per fault, each starting with the path of the key.
    """

    def __init__(self, origin: str, faults: Sequence[str]) -> None:
        self.origin = origin
        self.faults = tuple(
            fault if len(fault) <= _LONGEST_FAULT else f"{fault[:_LONGEST_FAULT]}..." for fault in faults
        )
        super().__init__(f"{origin}: " + "; ".join(self.faults))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, tuple[str, ...]]]:
        """How another process makes it again."""
        return type(self), (self.origin, self.faults)


class DataError(AasvcError):
    """Recordings, features or statistics that cannot be used."""


class AudioError(DataError):
    """One audio file that cannot be used.

    Attributes:
        code: why, for programs: ``missing``, ``unreadable``, ``empty`` or ``nan``.
    """

    def __init__(self, message: str, code: str = "unreadable") -> None:
        self.code = code
        super().__init__(message)


class ModelError(AasvcError):
    """A model folder or a checkpoint that cannot be used."""


class StorageError(AasvcError):
    """The file system refused a read or a write."""


class DownloadError(AasvcError):
    """A file could not be fetched, or is not the right one; what arrived is kept."""


class TrainingError(AasvcError):
    """Training diverged or cannot go on."""


class ClusterError(AasvcError):
    """The workers of a cluster cannot be used, or were lost; what is done is kept."""


class ServeError(AasvcError):
    """The server cannot use its address, or has ended by itself."""


class MissingExtraError(AasvcError):
    """A feature needs an optional package that is not installed."""


class ToldElsewhere(AasvcError):
    """Another process of the same job reports the error; this one exits silently."""


class Interrupted(AasvcError):
    """The user stopped the command; whatever was finished is kept."""

    exit_code = 130
