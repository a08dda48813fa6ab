"""Recordings of two folders, put side by side by their names."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aasvc_cli.audio.files import list_audio
from aasvc_cli.errors import DataError
from aasvc_cli.measures.results import Failure


@dataclass(frozen=True)
class Counterparts:
    """Converted and target recordings by utterance id, and those without a partner."""

    pairs: dict[str, tuple[Path, Path]]
    """Utterance id (of the converted side) -> converted, target."""
    failures: list[Failure]
    without_target: list[str]
    without_conversion: list[str]


def recordings_below(folder: Path, what: str, hint: str = "expected wav, flac, ogg or mp3 files") -> dict[str, Path]:
    """Recordings below a folder by their path in it without suffix.

    Args:
        what: ``converted``, ``target`` or ``source``, for messages
        hint: what to do if there are none

    Raises:
        DataError: no such folder, no recordings, or two of the same name.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder of {what} recordings")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file, expected a folder of {what} recordings")
    recordings: dict[str, Path] = {}
    for path in list_audio(folder):
        name = composed(path.relative_to(folder).with_suffix("").as_posix())
        if name in recordings:
            raise DataError(
                f"{folder}: {recordings[name].name} and {path.name} are the same utterance; remove one of them"
            )
        recordings[name] = path
    if not recordings:
        raise DataError(f"{folder}: no {what} recordings; {hint}")
    return recordings


def composed(name: str) -> str:
    """One spelling for composed and decomposed accents, which some file systems exchange."""
    return unicodedata.normalize("NFC", name)


def counterparts(converted: Mapping[str, Path], target: Mapping[str, Path]) -> Counterparts:
    """Partners by the whole id, else by its last part where only one target has it."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in target:
        by_stem[name.rsplit("/", 1)[-1]].append(name)
    result, used = Counterparts({}, [], [], []), set()
    for name, path in converted.items():
        partners = [name] if name in target else by_stem.get(name.rsplit("/", 1)[-1], [])
        used.update(partners)
        if len(partners) == 1:
            result.pairs[name] = (path, target[partners[0]])
        elif partners:
            named = ", ".join(str(target[partner]) for partner in partners[:3])
            result.failures.append(Failure(name, f"{len(partners)} recordings have this name: {named}"))
        else:
            result.without_target.append(name)
    result.without_conversion.extend(name for name in target if name not in used)
    return result
