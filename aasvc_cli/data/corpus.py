"""Parallel recordings: where they lie, which belong together, and which set each pair is in.

Two forms of data are understood: the layout of Hi-Fi-CAPTAIN (``<speaker>/wav/<set>/*`` with
``<speaker>/text/<set>.txt``) and any two folders, whose recordings are matched by file name.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aasvc_cli.audio.files import AUDIO_SUFFIXES, list_audio
from aasvc_cli.data.manifest import SETS, UNASSIGNED, Finding, ParallelPair, suggest
from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import storage_error
from aasvc_cli.storage.home import Home

_SET_OF_FOLDER = {"train_parallel": "train", "train": "train", "dev": "dev", "eval": "eval"}
_NOT_A_SPEAKER = frozenset({"wav", "wavs", "audio", "clips", "recordings", "flac", "mp3", "ogg"})
_DEFAULT_SHARE = 0.1
_DEFAULT_MOST = 20
_SHOWN = 3
"""How many examples a message lists."""


@dataclass(frozen=True)
class Recordings:
    """What one speaker has recorded.

    Attributes:
        speaker: name of the speaker, usable in file names
        root: the folder that was given
        sets: recordings per set; only :data:`UNASSIGNED` if the folder has no layout
    """

    speaker: str
    root: Path
    sets: Mapping[str, tuple[Path, ...]]

    @property
    def n_files(self) -> int:
        """Recordings in all sets."""
        return sum(len(paths) for paths in self.sets.values())


def locate(
    home: Home, corpus: str | Path | None, source: str | Path | None, target: str | Path | None
) -> tuple[Recordings, Recordings]:
    """The recordings of both speakers.

    With ``corpus`` (a folder, or the name of one under ``corpora`` in the data folder), ``source`` and ``target`` are
    names of speakers in it; they may be left out where only one choice is left. Without it they are two folders. With
    none of the three, the only corpus in the data folder is meant.

    Raises:
        DataError: something is not there or ambiguous; the message says what there is.
    """
    if corpus is None and source is not None and target is not None:
        folders = [Path(source).expanduser(), Path(target).expanduser()]
        if all(folder.is_dir() for folder in folders) or not _only_corpus(home):
            return _two_folders(*folders)
    root = _corpus_folder(home, corpus)
    speakers = find_speakers(root)
    source_name, target_name = _choose_speakers(root, speakers, source, target)
    both = scan_speaker(speakers[source_name]), scan_speaker(speakers[target_name])
    for recordings in both:
        if not recordings.n_files:
            raise DataError(_no_recordings(recordings.root / "wav"))
    return both


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
        return Recordings(_speaker_name(folder), folder, {UNASSIGNED: tuple(list_audio(folder))})
    sets: dict[str, tuple[Path, ...]] = {}
    for child in _children(folder / "wav"):
        if child.name in _SET_OF_FOLDER:
            name = _SET_OF_FOLDER[child.name]
            sets[name] = sets.get(name, ()) + tuple(list_audio(child))
    return Recordings(_speaker_name(folder), folder, sets)


def read_texts(folder: Path) -> dict[str, str]:
    """Sentences by utterance id from ``text/<set>.txt`` of a speaker (lines ``<id> <sentence>``); empty without any."""
    texts: dict[str, str] = {}
    for path in sorted((folder / "text").glob("*.txt")):
        try:
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            raise storage_error("read", path, error) from None
        for line in lines:
            utterance_id, _, sentence = line.strip().replace("\t", " ").partition(" ")
            if sentence.strip():
                texts[utterance_id] = sentence.strip()
    return texts


def _only_corpus(home: Home) -> Path | None:
    found = _children(home.corpora)
    return found[0] if len(found) == 1 else None


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
    folder = Path(corpus).expanduser()
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
            raise DataError(f"{folder}: no such folder (--{side}); to name a speaker of a corpus, name the corpus too")
        if not folder.is_dir():
            raise DataError(f"{folder}: is a file, expected the folder with the {side} recordings")
    if source.samefile(target):
        raise DataError(f"{source}: source and target are the same folder; give the folders of two speakers")
    layout = _has_layout(source) and _has_layout(target)
    both = []
    for folder in (source.absolute(), target.absolute()):
        if layout:
            recordings = scan_speaker(folder)
        else:
            recordings = Recordings(_speaker_name(folder), folder, {UNASSIGNED: tuple(list_audio(folder))})
        if not recordings.n_files:
            raise DataError(_no_recordings(folder))
        both.append(recordings)
    return _with_distinct_names(*both)


def _with_distinct_names(source: Recordings, target: Recordings) -> tuple[Recordings, Recordings]:
    """``a/speech`` and ``b/speech`` become ``a-speech`` and ``b-speech``."""
    if source.speaker != target.speaker:
        return source, target
    renamed = [
        Recordings(clean_name(f"{each.root.parent.name}-{each.speaker}"), each.root, each.sets)
        for each in (source, target)
    ]
    if renamed[0].speaker == renamed[1].speaker:
        renamed = [
            Recordings(f"{side}-{each.speaker}", each.root, each.sets)
            for side, each in (("source", source), ("target", target))
        ]
    return renamed[0], renamed[1]


def _no_recordings(folder: Path) -> str:
    others = sorted({path.suffix.lower() for path in folder.rglob("*") if path.is_file() and path.suffix})
    return f"{folder}: holds no recordings; expected {', '.join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))}" + (
        f", found only {', '.join(others[:_SHOWN])}" if others else ""
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


def match(source: Recordings, target: Recordings) -> tuple[list[tuple[str, ParallelPair]], list[Finding]]:
    """Put recordings with the same file name (without suffix) together, set by set.

    Returns:
        (set, pair) in the order of their names, and what has no partner or is there twice

    Raises:
        DataError: not a single pair.
    """
    pairs: list[tuple[str, ParallelPair]] = []
    findings: list[Finding] = []
    texts = read_texts(target.root) | read_texts(source.root)
    for name in [key for key in (UNASSIGNED, *SETS) if key in source.sets or key in target.sets]:
        ours, theirs = _by_stem(source.sets.get(name, ())), _by_stem(target.sets.get(name, ()))
        for stem in sorted(ours.keys() | theirs.keys()):
            sides = {"source": ours.get(stem, []), "target": theirs.get(stem, [])}
            twice = next((side for side, paths in sides.items() if len(paths) > 1), None)
            missing = next((side for side, paths in sides.items() if not paths), None)
            if twice is not None:
                listed = ", ".join(str(path) for path in sides[twice][:_SHOWN])
                message = f"{len(sides[twice])} {twice} recordings have this name ({listed}); keep one"
                findings.append(Finding(stem, name, twice, "duplicate", True, message))
            elif missing is not None:
                there = (sides["source"] or sides["target"])[0]
                message = f"no {missing} recording of this name (only {there})"
                findings.append(Finding(stem, name, missing, "no_partner", True, message))
            else:
                pairs.append((name, ParallelPair(stem, ours[stem][0], theirs[stem][0], texts.get(stem))))
    if not pairs:
        examples = [next((paths[0].name for paths in each.sets.values() if paths), "none") for each in (source, target)]
        raise DataError(
            f"no recording in {source.root} ({source.n_files} files, e.g. {examples[0]}) has a partner of the same "
            f"name in {target.root} ({target.n_files} files, e.g. {examples[1]}); recordings of one sentence must "
            "share their file name"
        )
    return pairs, findings


def _by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Recordings by file name without suffix; composed and decomposed accents are the same name."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(unicodedata.normalize("NFC", path.stem), []).append(Path(os.path.abspath(path)))
    return found


# --- splitting ------------------------------------------------------------------------------------------------------


def split(
    utterance_ids: Sequence[str], draw: Mapping[str, str | None], *, seed: int, known: Collection[str] = ()
) -> list[str]:
    """Draw dev and evaluation sets; what is left is for training.

    The draw depends on the seed and the names only, so a pair that is added or removed moves hardly any other one.

    Args:
        draw: for ``dev`` and/or ``eval`` a count (``"20"``), a fraction (``"0.1"``), a file with one utterance id per
            line, or None for a tenth, 20 at most, but leaving two to train on.
        known: further names that a list may hold, as these pairs exist but cannot be used

    Returns:
        the set of each utterance, in order

    Raises:
        DataError: a size that is impossible, or a list with unknown names.
    """
    chosen = [""] * len(utterance_ids)
    sizes: dict[str, str | None] = {}
    for name, wanted in draw.items():
        path = Path(wanted).expanduser() if wanted is not None and not _is_number(wanted) else None
        if path is None:
            sizes[name] = wanted
            continue
        listed = _read_names(path, name)
        unknown = sorted(listed - set(utterance_ids) - set(known))
        if unknown:
            examples = ", ".join(unknown[:_SHOWN])
            raise DataError(
                f"{path}: {len(unknown)} of {len(listed)} names are not among the pairs (first: {examples})"
            )
        for index, utterance_id in enumerate(utterance_ids):
            if utterance_id in listed:
                if chosen[index]:
                    raise DataError(f"{path}: {utterance_id} is listed for both dev and eval; list it once")
                chosen[index] = name
    free = [index for index, name in enumerate(chosen) if not name]
    free.sort(key=lambda index: hashlib.sha256(f"{seed}:{utterance_ids[index]}".encode()).digest())
    n_all, start = len(free), 0
    for name in (each for each in ("dev", "eval") if each in sizes):
        count = _size(name, sizes[name], n_all, n_all - start)
        for index in free[start : start + count]:
            chosen[index] = name
        start += count
    return [name or "train" for name in chosen]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text.strip(), re.IGNORECASE) is not None


def _size(name: str, wanted: str | None, n_all: int, n_left: int) -> int:
    if wanted is None:
        usual = max(1, min(_DEFAULT_MOST, round(n_all * _DEFAULT_SHARE)))
        return max(0, min(usual, n_left - 2))
    text = wanted.strip()
    if text.isdigit():
        count = int(text)
    else:
        share = float(text)
        if not 0.0 < share < 1.0:
            raise DataError(
                f"--{name} {wanted}: expected a count, a fraction between 0 and 1, or a file of utterance ids"
            )
        count = max(1, round(n_all * share))
    if count > n_left:
        raise DataError(
            f"--{name} {wanted}: asks for {count} pairs, but only {n_left} of {n_all} are left to draw from"
        )
    return count


def _read_names(path: Path, name: str) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"--{name} {path}: not a number, and no such file of utterance ids") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected a text file with one utterance id per line") from None
    except OSError as error:
        raise storage_error("read", path, error) from None
    names = {line.strip() for line in lines if line.strip() and not line.strip().startswith("#")}
    names = {
        entry[: -len(Path(entry).suffix)] if Path(entry).suffix.lower() in AUDIO_SUFFIXES else entry for entry in names
    }
    return {unicodedata.normalize("NFC", entry) for entry in names}
