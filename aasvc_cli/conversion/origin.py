"""Where a converted recording comes from, as the comment in its file says: which voice, how, and of which recording.

Results that a voice left before it was trained on, or that were made with other options, look like those of today.
The comment tells them apart. It holds short hashes and no names, so that nothing is given away with the sound.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aasvc_cli.audio.files import Sound, read_comment
from aasvc_cli.audio.streams import CONTAINERS
from aasvc_cli.conversion.voice import CONFIG_FILE, STATS_FILE, WEIGHT_FILES, is_exported, read_card
from aasvc_cli.errors import AudioError, DataError, ModelError
from aasvc_cli.storage.files import as_bytes, file_sha256
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.folder import GRIFFIN_LIM, find_vocoder, find_vocoder_of, vocoder_files

DIGITS = 16
"""Of each hash."""
_TEXT = re.compile(r"converted by aasvc; voice ([0-9a-f]{16}), settings ([0-9a-f]{16}), recording ([0-9a-f]{16}|-)")


@dataclass(frozen=True)
class Origin:
    """What made a recording.

    Attributes:
        voice: of the weights, the configuration and the statistics of the model
        settings: of the vocoder and of the options
        recording: of the content that was converted; ``-`` until it is known
    """

    voice: str
    settings: str
    recording: str = "-"

    def of(self, recording: Path) -> Origin:
        """The same, of one recording."""
        return replace(self, recording=file_sha256(recording)[:DIGITS])

    def __str__(self) -> str:
        """The comment."""
        return f"converted by aasvc; voice {self.voice}, settings {self.settings}, recording {self.recording}"


def origin_of(
    home: Home, folder: Path, *, vocoder: str | None, source_stats: Path | None, options: Mapping[str, Any]
) -> Origin:
    """What a voice makes of any recording.

    Args:
        vocoder: as for :meth:`aasvc_cli.conversion.converter.Converter.load`
        options: whatever else decides the result; JSON-able

    Raises:
        ModelError, DataError: a vocoder that is not there, or a damaged model card.
        StorageError: a file cannot be read.
    """
    decisive = [*_vocoder_files(home, folder, vocoder), *([] if source_stats is None else [source_stats])]
    settings = json.dumps([[file_sha256(path) for path in decisive if path.is_file()], options], sort_keys=True)
    return Origin(voice_of(folder), hashlib.sha256(as_bytes(settings)).hexdigest()[:DIGITS])


def voice_of(folder: Path) -> str:
    """What :attr:`Origin.voice` is for a model folder as it is now; raises StorageError."""
    content = "\n".join(file_sha256(path) for path in _voice_files(folder) if path.is_file())
    return hashlib.sha256(content.encode()).hexdigest()[:DIGITS]


def read_origin(path: Path) -> Origin | None:
    """What made a recording; None if it does not say so, as those from elsewhere."""
    found = _TEXT.fullmatch(read_comment(path))
    return Origin(*found.groups()) if found else None


def is_finished(output: Path, format_name: str, origin: Origin, recording: Path) -> bool:
    """Whether a result is there already: a whole recording that the same voice made of the same one in the same way.

    One that doesn't say what made it counts, too: it may be anybody's, and is not to be overwritten.

    Args:
        origin: of results of today, without the recording

    Raises:
        DataError: something else is there.
    """
    try:
        if not output.is_file():
            return False
        fault = None if output.stat().st_size else "is empty"
        if fault is None and format_name in CONTAINERS and Sound(output, str(output)).parts[0].share != 1.0:
            fault = "ends too early"
    except AudioError:
        fault = "is no recording"
    if fault is not None:
        raise DataError(f"{output}: stands where a result would go and {fault}; delete it, or drop --skip-existing")
    made_by = read_origin(output) if format_name in CONTAINERS else None
    if made_by is None:
        return True
    # a pipe can be read once, and a recording that is gone leaves its result
    same = origin.of(recording) if recording.is_file() else replace(origin, recording=made_by.recording)
    return made_by == same


def origins_notes(paths: Iterable[Path], folder: Path | None = None) -> list[str]:
    """What there is to say of conversions that are not all by one voice in one way.

    Args:
        folder: the model that is meant to have made them
    """
    origins = [origin for path in paths if (origin := read_origin(path)) is not None]
    notes = []
    now = voice_of(folder) if folder is not None and origins else None
    earlier = sum(origin.voice != now for origin in origins) if now is not None else 0
    if earlier:
        notes.append(
            f"{earlier} of {len(origins)} conversions are by other weights than {folder} has now, as before more "
            "training; convert the set again to score it as it is"
        )
    ways = len({(origin.voice, origin.settings) for origin in origins})
    if ways > 1:
        notes.append(f"conversions made in {ways} ways (voices, vocoders or options) are scored as if they were of one")
    return notes


def _voice_files(folder: Path) -> list[Path]:
    from aasvc_cli.published.voices import is_published_folder, published_files

    if is_exported(folder):
        return sorted([*folder.glob("*.onnx"), *folder.glob("*.json")])
    if not (folder / CONFIG_FILE).is_file() and is_published_folder(folder):
        return published_files(folder)
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), folder / WEIGHT_FILES[0])
    return [folder / CONFIG_FILE, folder / STATS_FILE, weights]


def _vocoder_files(home: Home, folder: Path, vocoder: str | None) -> list[Path]:
    """Of the vocoder that was asked for, or that goes with the voice; none for the default."""
    if vocoder == GRIFFIN_LIM:
        return []
    if vocoder is not None:
        return vocoder_files(find_vocoder(home, vocoder))
    own = None if is_exported(folder) else read_card(folder).get("vocoder")
    if not isinstance(own, str) or own in ("", GRIFFIN_LIM):
        return []
    try:
        return vocoder_files(find_vocoder_of(home, folder, own))
    except (DataError, ModelError):  # conversion says so, and takes the default
        return []
