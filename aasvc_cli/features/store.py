"""Features on disk, which are never served once they are stale.

The name of a folder holds the key of the feature configuration, the header of an entry the size, the time and the
content of the recording: another setting leads to another folder, another recording under the same name to a new entry.
A recording that was only copied anew has another time, but the same content, which is looked at then. How entries lie
in files is said in :mod:`aasvc_cli.features.shelf`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.errors import DataError, StorageError
from aasvc_cli.features.kinds import at_frames
from aasvc_cli.features.shelf import Entry, Shelf, write_entry
from aasvc_cli.storage.files import file_sha256, storage_error

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]


def recording_stamp(recording: Path | str) -> list[int] | None:
    """Size in bytes and time of change in nanoseconds; None if there is no such file."""
    try:
        status = os.stat(recording)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


class Known(NamedTuple):
    """What is known about a recording: what was kept with it, and the SHA-256 of its file, empty if nobody noted it."""

    facts: dict[str, Any]
    content: str


class Present(NamedTuple):
    """A recording that can be read, the name of what is kept for it, and its :func:`recording_stamp`."""

    recording: Path
    name: str
    stamp: list[int]


@dataclass(frozen=True)
class FeatureStore:
    """Features below one folder, for one feature configuration.

    Attributes:
        folder: ``Home.features``
        config: settings of the features
        feature_key: names the settings that decide a kind of feature, as :func:`aasvc_cli.features.kinds.storage_key`
    """

    folder: Path
    config: FeatureConfig
    feature_key: Callable[[str, FeatureConfig], str]
    _shelves: dict[str, Shelf] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Any, ...]]:
        """Another process finds out for itself what is there."""
        return FeatureStore, (self.folder, self.config, self.feature_key)

    def path(self, kind: str, recording: Path) -> Path:
        """Where the feature of a recording is written, whether it is there, or elsewhere by now, or not."""
        return self._shelf(kind).path(recording)

    def has(self, kind: str, recording: Path) -> bool:
        """Whether there is a feature, fresh or not."""
        return self._shelf(kind).has(recording)

    def facts(self, kind: str, recording: Path) -> dict[str, Any] | None:
        """What :meth:`save` was told about the recording; None if the feature is not fresh."""
        known = self.known(kind, recording)
        return None if known is None else known.facts

    def known(self, kind: str, recording: Path) -> Known | None:
        """The same with the content of the recording."""
        return self._known(self._shelf(kind), recording)

    def present(self, recordings: Iterable[Path]) -> dict[Path, Present]:
        """Those of many recordings that can be read, so that each is looked at once, whatever is asked about it."""
        name = Shelf(self.folder, self.folder.parent).name  # the same on all shelves
        present = {}
        for recording in recordings:
            text = os.fspath(recording)  # asked of the path again and again, it takes long
            if os.access(text, os.R_OK) and (stamp := recording_stamp(text)) is not None:
                present[recording] = Present(recording, name(text), stamp)
        return present

    def all_known(self, kind: str, recordings: Iterable[Present]) -> Iterator[tuple[Path, Known]]:
        """:meth:`known` of many recordings, in any order; those without a fresh feature are left out."""
        return self._all_known(self._shelf(kind), recordings)

    def save(
        self,
        kind: str,
        recording: Path,
        array: npt.NDArray[np.floating[Any]],
        *,
        frame_rate: float | None = None,
        facts: Mapping[str, Any] | None = None,
        stamp: list[int] | None = None,
    ) -> str:
        """Keep a feature (T, D) of a recording, atomically: float16 as such, anything else as float32.

        Args:
            frame_rate: frames per second if they are not those of the mel; then ``facts`` says ``n_frames``, how many
                :meth:`load` gives.
            facts: anything JSON-able about the recording that is worth keeping with it.
            stamp: :func:`recording_stamp` from before the recording was read, if it may change meanwhile.

        Returns:
            the SHA-256 of the recording; empty if it has changed meanwhile

        Raises:
            DataError: the recording is gone.
            StorageError: no permission, no space.
        """
        header: dict[str, Any] = {} if frame_rate is None else {"frame_rate": frame_rate}
        return _put(self._shelf(kind), recording, header | {"facts": dict(facts or {})}, array, stamp)

    def load(self, kind: str, recording: Path) -> Array:
        """The feature of a recording at the frame times of the mel: (T, D) float32.

        A recording that was deleted since does no harm; one that was changed does.

        Raises:
            DataError: there is none, it is damaged, or the recording has changed; says to run ``aasvc prepare``.
        """
        shelf = self._shelf(kind)
        try:
            entry = shelf.get(recording)
        except OSError as error:
            raise storage_error("read", shelf.path(recording), error) from None
        if entry is None:
            raise DataError(f"{recording}: no {kind} features with these settings; run: aasvc prepare")
        header, stamp = entry.header, recording_stamp(recording)
        if stamp is not None and not _is_fresh(shelf, entry, header, recording, stamp):
            raise DataError(f"{recording}: changed after its features were computed; run: aasvc prepare")
        if "frame_rate" not in header:
            return entry.array()
        return at_frames(
            entry.array(), header["frame_rate"], header["facts"]["n_frames"], self.config.mel.frames_per_second
        )

    def recall(self, what: str, recording: Path) -> Known | None:
        """What :meth:`remember` was told about a recording as it is now; None if nothing."""
        return self._known(self._shelf(what, what), recording)

    def recall_all(self, what: str, recordings: Iterable[Present]) -> Iterator[tuple[Path, Known]]:
        """:meth:`recall` of many recordings, in any order; those of which nothing is known are left out."""
        return self._all_known(self._shelf(what, what), recordings)

    def recall_array(self, what: str, recording: Path) -> tuple[Array, str] | None:
        """What :meth:`remember` was given for a recording as it is now, and the SHA-256 of it; None if nothing."""
        shelf = self._shelf(what, what)
        if (found := self._fresh(shelf, recording)) is None or "content" not in found[1]:
            return None
        return found[0].array(), str(found[1]["content"])

    def remember(
        self,
        what: str,
        recording: Path,
        facts: Mapping[str, Any],
        stamp: list[int] | None,
        array: npt.NDArray[np.floating[Any]] | None = None,
    ) -> str:
        """Keep something JSON-able, or an array, about a recording; returns and raises as :meth:`save` does."""
        import numpy as np

        kept = np.zeros(0, dtype=np.float32) if array is None else array
        return _put(self._shelf(what, what), recording, {"facts": dict(facts)}, kept, stamp)

    def pack(self) -> None:
        """Put small files together where there are many, whoever wrote them; raises StorageError."""
        for shelf in self._all_shelves():
            shelf.pack()

    def remove_leftovers(self) -> None:
        """Remove what writes that were killed have left; recent ones are spared, as another process may be at it."""
        for shelf in self._all_shelves():
            shelf.remove_leftovers()

    def _all_shelves(self) -> list[Shelf]:
        try:
            folders = [Path(each.path) for each in os.scandir(self.folder) if each.is_dir()]
        except OSError:  # nothing is kept yet
            return []
        return [Shelf(folder, self.folder.parent) for folder in folders]

    def _shelf(self, kind: str, name: str | None = None) -> Shelf:
        if kind not in self._shelves:
            place = self.folder / (name or f"{kind}-{self.feature_key(kind, self.config)}")
            self._shelves[kind] = Shelf(place, self.folder.parent)
        return self._shelves[kind]

    def _known(self, shelf: Shelf, recording: Path) -> Known | None:
        found = self._fresh(shelf, recording)
        return None if found is None else _known_from(found[1])

    def _fresh(self, shelf: Shelf, recording: Path) -> tuple[Entry, dict[str, Any]] | None:
        """An entry and its header, if it belongs to the recording as it is now."""
        try:
            entry = shelf.get(recording)
        except (OSError, DataError):
            return None
        if entry is None or (stamp := recording_stamp(recording)) is None:
            return None
        header = entry.header
        return (entry, header) if _is_fresh(shelf, entry, header, recording, stamp) else None

    def _all_known(self, shelf: Shelf, recordings: Iterable[Present]) -> Iterator[tuple[Path, Known]]:
        named = {each.name: each for each in recordings}
        for name, entry in shelf.each(named):
            recording, _, stamp = named[name]
            header = entry.header
            if _is_fresh(shelf, entry, header, recording, stamp):
                yield recording, _known_from(header)


def _known_from(header: dict[str, Any]) -> Known:
    return Known(header["facts"], header.get("content", ""))


def _put(
    shelf: Shelf,
    recording: Path,
    header: dict[str, Any],
    array: npt.NDArray[np.floating[Any]],
    stamp: list[int] | None,
) -> str:
    """Write an entry with the stamp and the content of its recording, which is returned if it is still that."""
    stamp = stamp or recording_stamp(recording)
    if stamp is None:
        raise DataError(f"{recording}: the recording vanished while its features were computed")
    header = {"stamp": stamp, **header}
    with contextlib.suppress(StorageError):  # it has just been read
        header["content"] = file_sha256(recording)
    if recording_stamp(recording) != stamp:  # it has changed meanwhile, so its content is that of something else
        header.pop("content", None)
    shelf.put(recording, header, array)
    return str(header.get("content", ""))


def _is_fresh(shelf: Shelf, entry: Entry, header: dict[str, Any], recording: Path, stamp: list[int]) -> bool:
    """Whether an entry belongs to a recording as it is now; notes the time of one that was copied anew."""
    if header["stamp"] == stamp:
        return True
    if "content" not in header or header["stamp"][:1] != stamp[:1]:
        return False
    try:
        same = file_sha256(recording) == header["content"] and recording_stamp(recording) == stamp
    except StorageError:
        return False
    if same:
        with contextlib.suppress(StorageError):  # only so that the next time need not look
            renewed = json.dumps({**header, "stamp": stamp})
            write_entry(shelf.path(recording), renewed, entry.dtype, entry.shape, entry.data)
    return same
