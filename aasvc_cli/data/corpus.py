"""The recordings of two speakers: where they lie, and which set each is in.

Two forms of data are understood: the layout of Hi-Fi-CAPTAIN (``<speaker>/wav/<set>/*`` with
``<speaker>/text/<set>.txt``) and any two folders.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

from aasvc_cli.audio.files import AUDIO_SUFFIXES, Listing, list_sounds
from aasvc_cli.data.manifest import UNASSIGNED, suggest
from aasvc_cli.errors import DataError
from aasvc_cli.storage.home import Home

_SET_OF_FOLDER = {"train_parallel": "train", "train": "train", "dev": "dev", "eval": "eval"}
_NOT_A_SPEAKER = frozenset({"wav", "wavs", "audio", "clips", "recordings", "flac", "mp3", "ogg"})
SHOWN = 3
"""How many examples a message lists."""


@dataclass(frozen=True)
class Recordings:
    """What one speaker has recorded.

    Attributes:
        speaker: name of the speaker, usable in file names
        root: the folder that was given
        sets: recordings per set; only :data:`UNASSIGNED` if the folder has no layout
        others: sounds that have to be converted first
    """

    speaker: str
    root: Path
    sets: Mapping[str, tuple[Path, ...]]
    others: tuple[Path, ...] = ()

    @property
    def advice(self) -> str:
        """How many other sounds there are and what to do; empty without any."""
        return Listing((), self.others).advice

    @cached_property
    def _beginning(self) -> str:
        return os.path.join(self.root, "")

    def relative(self, path: Path) -> str:
        """The path of a recording in the folder of its set, with ``/`` between folders."""
        parts = os.fspath(path).removeprefix(self._beginning).split(os.sep)
        layout = len(parts) > 2 and parts[0] == "wav" and parts[1] in _SET_OF_FOLDER
        return "/".join(parts[2:] if layout else parts)

    @property
    def n_files(self) -> int:
        """Recordings in all sets."""
        return sum(len(paths) for paths in self.sets.values())


def locate(
    home: Home, corpus: str | Path | None, source: str | Path | None, target: str | Path | None
) -> tuple[Recordings, Recordings]:
    """The recordings of both speakers.

    With ``corpus`` (a folder, or the name of one under ``corpora`` in the data folder), ``source`` and ``target`` are
    names of speakers in it; they may be left out where only one choice is left. Without it they are two folders, or
    speakers of the only corpus in the data folder, which is also meant with none of the three.

    Raises:
        DataError: something is not there or ambiguous; the message says what there is.
    """
    named = [Path(os.path.expanduser(side)) for side in (source, target) if side is not None]
    if corpus is None and (any(path.is_dir() or path.parent != Path() for path in named) or not _only_corpus(home)):
        if source is not None and target is not None:
            return _two_folders(*named)
        if named:
            one, other = ("source", "target") if source is not None else ("target", "source")
            raise DataError(f"--{one} {named[0]}: a folder needs another one beside it; add --{other} DIR")
    root = _corpus_folder(home, corpus)
    speakers = find_speakers(root)
    source_name, target_name = _choose_speakers(root, speakers, source, target)
    both = scan_speaker(speakers[source_name]), scan_speaker(speakers[target_name])
    for recordings in both:
        if not recordings.n_files:
            raise DataError(_no_recordings(recordings.root / "wav", recordings))
    return both


def locate_all(
    home: Home, corpus: str | Path | None, sources: Sequence[str | Path], target: str | Path | None
) -> tuple[tuple[Recordings, ...], Recordings]:
    """The recordings of any number of source speakers and of the target, each under a name of its own.

    See :func:`locate`.

    Raises:
        DataError: as there, or a source is given twice.
    """
    located = [locate(home, corpus, source, target) for source in sources or (None,)]
    speakers, target_speaker = [source for source, _ in located], located[0][1]
    for one, other in combinations(speakers, 2):
        if one.root.samefile(other.root):
            raise DataError(f"{one.root}: is given twice as a source; name each speaker once")
    counts = Counter(each.speaker for each in (*speakers, target_speaker))
    if max(counts.values()) > 1:
        speakers = [replace(each, speaker=f"{clean_name(each.root.parent.name)}-{each.speaker}") for each in speakers]
    counts = Counter(each.speaker for each in (*speakers, target_speaker))
    if max(counts.values()) > 1:
        speakers = [replace(each, speaker=f"source{number}") for number, each in enumerate(speakers, start=1)]
    return tuple(speakers), target_speaker


def find_speakers(root: Path) -> dict[str, Path]:
    """Folders of speakers in the Hi-Fi-CAPTAIN layout at or below ``root``, by name.

    Raises:
        DataError: there are none, or there are several languages, which are listed.
    """
    homes = _speaker_homes(root, depth=3)
    if not homes:
        raise DataError(
            f"{root}: found no speakers; expected <speaker>/wav/train_parallel/*.wav, or give two folders of "
            "recordings: aasvc prepare --source DIR --target DIR"
        )
    if len(homes) > 1:
        listed = ", ".join(str(path.relative_to(root)) for path in homes)
        raise DataError(f"{root}: holds {len(homes)} corpora ({listed}); choose one, e.g. aasvc prepare {homes[0]}")
    return {path.name: path for path in _children(homes[0]) if _has_layout(path)}


def scan_speaker(folder: Path) -> Recordings:
    """The recordings of one speaker: set by set if the folder has the Hi-Fi-CAPTAIN layout, all of them otherwise."""
    if not _has_layout(folder):
        return _scan_folder(folder)
    sets: dict[str, tuple[Path, ...]] = {}
    others: tuple[Path, ...] = ()
    for child in _children(folder / "wav"):
        if child.name in _SET_OF_FOLDER:
            listing = list_sounds(child)
            name = _SET_OF_FOLDER[child.name]
            sets[name] = sets.get(name, ()) + listing.recordings
            others += listing.others
    return Recordings(_speaker_name(folder), folder, sets, others)


def _scan_folder(folder: Path) -> Recordings:
    listing = list_sounds(folder)
    return Recordings(_speaker_name(folder), folder, {UNASSIGNED: listing.recordings}, listing.others)


def _only_corpus(home: Home) -> Path | None:
    corpora = _children(home.corpora)
    return corpora[0] if len(corpora) == 1 else None


def _corpus_folder(home: Home, corpus: str | Path | None) -> Path:
    installed = [path.name for path in _children(home.corpora)]
    if corpus is None:
        only = _only_corpus(home)
        if only is None:
            raise DataError(
                "say what to prepare: aasvc prepare CORPUS, or aasvc prepare --source DIR --target DIR"
                + (
                    f"; corpora here: {', '.join(installed)}"
                    if installed
                    else "; aasvc download demo lays out a small corpus"
                )
            )
        return only
    # a bare name means the data folder first, as a folder of that name may happen to be in the current one
    if str(corpus) in installed:
        return home.corpora / str(corpus)
    folder = Path(os.path.expanduser(corpus))
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{folder}: is a file, expected the folder of a corpus")
    raise DataError(
        f"{corpus}: no such folder, and no corpus of that name{suggest(str(corpus), installed)}; "
        "aasvc download --list shows what can be fetched"
    )


def _choose_speakers(
    root: Path, speakers: Mapping[str, Path], source: str | Path | None, target: str | Path | None
) -> tuple[str, str]:
    names = sorted(speakers)
    for wanted in (source, target):
        if wanted is not None and str(wanted) not in speakers:
            raise DataError(f"{root}: no speaker named {wanted}{suggest(str(wanted), names)}")
    if source is None and target is None and names == ["female", "male"]:
        return "male", "female"  # the direction of the published recipe
    if source is None and target is None and names == ["source", "target"]:
        return "source", "target"  # as they call themselves
    if len(names) == 2:
        if source is None and target is not None:
            source = next(name for name in names if name != str(target))
        elif target is None and source is not None:
            target = next(name for name in names if name != str(source))
    if source is None or target is None:
        raise DataError(f"{root}: holds the speakers {', '.join(names)}; choose with --source and --target")
    if str(source) == str(target):
        raise DataError(f"source and target are the same speaker, {source}; choose two")
    return str(source), str(target)


def _two_folders(source: Path, target: Path) -> tuple[Recordings, Recordings]:
    for side, folder in (("source", source), ("target", target)):
        if not folder.exists():
            hint = "; to name a speaker of a corpus, name the corpus too" if folder.parent == Path() else ""
            raise DataError(f"{folder}: no such folder (--{side}){hint}")
        if not folder.is_dir():
            raise DataError(f"{folder}: is a file, expected the folder with the {side} recordings")
    if source.samefile(target):
        raise DataError(f"{source}: source and target are the same folder; give the folders of two speakers")
    layout = _has_layout(source) and _has_layout(target)
    both = []
    for folder in (source.absolute(), target.absolute()):
        recordings = scan_speaker(folder) if layout else _scan_folder(folder)
        if not recordings.n_files:
            raise DataError(_no_recordings(folder, recordings))
        both.append(recordings)
    return _with_distinct_names(*both)


def _with_distinct_names(source: Recordings, target: Recordings) -> tuple[Recordings, Recordings]:
    """``a/speech`` and ``b/speech`` become ``a-speech`` and ``b-speech``."""
    if source.speaker != target.speaker:
        return source, target
    renamed = [
        replace(each, speaker=clean_name(f"{each.root.parent.name}-{each.speaker}")) for each in (source, target)
    ]
    if renamed[0].speaker == renamed[1].speaker:
        renamed = [
            replace(each, speaker=f"{side}-{each.speaker}") for side, each in (("source", source), ("target", target))
        ]
    return renamed[0], renamed[1]


def _no_recordings(folder: Path, recordings: Recordings) -> str:
    if recordings.others:
        return f"{folder}: holds no recordings but {recordings.advice}"
    others = sorted({path.suffix.lower() for path in folder.rglob("*") if path.is_file() and path.suffix})
    return f"{folder}: holds no recordings; expected {', '.join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))}" + (
        f", found only {', '.join(others[:SHOWN])}" if others else ""
    )


def _speaker_homes(root: Path, depth: int) -> list[Path]:
    children = _children(root)
    if any(_has_layout(child) for child in children):
        return [root]
    return [] if depth == 0 else [home for child in children for home in _speaker_homes(child, depth - 1)]


def _has_layout(folder: Path) -> bool:
    return any((folder / "wav" / name).is_dir() for name in _SET_OF_FOLDER)


def _children(folder: Path) -> list[Path]:
    """Visible folders in a folder, sorted; none if it cannot be listed."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _speaker_name(folder: Path) -> str:
    """A name for the owner of a folder: the first one upwards that is not just ``wav`` or the like."""
    absolute = folder.absolute()
    for candidate in (absolute, *absolute.parents):
        if candidate.name and candidate.name.lower() not in _NOT_A_SPEAKER:
            return clean_name(candidate.name)
    return "speaker"


def clean_name(name: str) -> str:
    """A name that is safe in file names on every system."""
    return re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name)).strip("-.") or "speaker"
