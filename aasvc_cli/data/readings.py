"""Recordings of many people, without pairs: ``<group>/<speaker>/<sentence>``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aasvc_cli.audio.files import list_audio
from aasvc_cli.config.settings import Config
from aasvc_cli.data.corpus import clean_name
from aasvc_cli.data.manifest import Manifest, ParallelPair
from aasvc_cli.errors import DataError

FEWEST_READERS = 4
"""Of the speakers of a group with at least as many, the last is kept for measuring."""


@dataclass(frozen=True)
class Reading:
    """One recording: who reads which sentence."""

    group: str
    speaker: str
    sentence: str
    path: Path


def find_readings(root: Path) -> list[Reading]:
    """The recordings below ``<group>/<speaker>``; raises DataError if there are none."""
    readings = [
        Reading(speaker.parent.name, speaker.name, path.relative_to(speaker).with_suffix("").as_posix(), path)
        for speaker in sorted(root.glob("*/*"))
        if speaker.is_dir()
        for path in list_audio(speaker)
    ]
    if not readings:
        raise DataError(f"{root}: no recordings; expected {root / '<group>' / '<speaker>' / '<sentence>.flac'}")
    return readings


def held_out(readings: Sequence[Reading]) -> set[tuple[str, str]]:
    """Group and speaker of those who are kept for measuring."""
    speakers: dict[str, set[str]] = defaultdict(set)
    for reading in readings:
        speakers[reading.group].add(reading.speaker)
    return {(group, max(names)) for group, names in speakers.items() if len(names) >= FEWEST_READERS}


def many_speakers(root: Path, config: Config) -> Manifest:
    """Recordings of many people as a set: a pair of each with itself.

    Raises:
        DataError: no recordings, or no group with speakers enough to keep one for measuring.
    """
    readings = find_readings(root)
    kept = held_out(readings)
    if not kept:
        raise DataError(f"{root}: expected {FEWEST_READERS} speakers or more in a group, of whom one is measured")
    sets: dict[str, list[ParallelPair]] = {"train": [], "dev": []}
    for reading in readings:
        pair = ParallelPair(f"{reading.group}-{reading.speaker}-{reading.sentence}", reading.path, reading.path)
        sets["dev" if (reading.group, reading.speaker) in kept else "train"].append(pair)
    name = clean_name(root.absolute().name)
    return Manifest(name, name, name, config, {part: tuple(pairs) for part, pairs in sets.items()})
