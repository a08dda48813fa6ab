"""Many voices that read the same sentences: a pair for each two of them, in either direction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

from aasvc_cli.config.settings import Config
from aasvc_cli.data.corpus import clean_name
from aasvc_cli.data.manifest import Manifest, ParallelPair
from aasvc_cli.data.readings import Reading
from aasvc_cli.errors import DataError

DEV_EVERY = 16
"""One of so many sentences of a group is kept for measuring."""


def many_voices(root: Path, readings: Sequence[Reading], config: Config, n_frames: Mapping[Path, int]) -> Manifest:
    """Recordings of many people as a set.

    A pair of a sentence that is kept for measuring has each voice as its target once, so that measuring takes no longer
    than it has to.

    Args:
        root: where the recordings lie, which gives the set its name
        readings: the recordings
        n_frames: frames of those that can be used

    Raises:
        DataError: no sentence is read by two voices, or too few sentences to keep some for measuring.
    """
    sets: dict[str, list[ParallelPair]] = {"train": [], "dev": []}
    for number, several in enumerate(_sentences(readings, n_frames)):
        if number % DEV_EVERY == DEV_EVERY - 1:
            step = 1 + number // DEV_EVERY % (len(several) - 1)
            chosen = [(several[index - step], each) for index, each in enumerate(several)]
            sets["dev"] += [_pair(source, target, n_frames) for source, target in chosen]
        else:
            sets["train"] += [_pair(source, target, n_frames) for source, target in permutations(several, 2)]
    longest = config.train.max_frames
    for part, pairs in sets.items():
        sets[part] = [pair for pair in pairs if _can_align(pair, config) and (not longest or _length(pair) <= longest)]
    if not sets["train"] or not sets["dev"]:
        n_sentences = len({(each.group, each.sentence) for each in readings})
        raise DataError(
            f"{root}: {n_sentences} sentences; expected {DEV_EVERY} or more of which each is read by two voices or more"
        )
    name = clean_name(root.absolute().name)
    return Manifest(name, name, name, config, {part: tuple(pairs) for part, pairs in sets.items()})


def voice_of(reading: Reading) -> str:
    """The name of who reads."""
    return f"{reading.group}/{reading.speaker}"


def _sentences(readings: Sequence[Reading], n_frames: Mapping[Path, int]) -> list[list[Reading]]:
    """Who reads the same, for each sentence that two or more do."""
    readers: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    for each in readings:
        if each.path in n_frames:
            readers[each.group, each.sentence].append(each)
    return [several for _, several in sorted(readers.items()) if len(several) > 1]


def _pair(source: Reading, target: Reading, n_frames: Mapping[Path, int]) -> ParallelPair:
    return ParallelPair(
        f"{voice_of(source)}-{target.speaker}-{source.sentence}",
        source.path,
        target.path,
        source_frames=n_frames[source.path],
        target_frames=n_frames[target.path],
        voice=voice_of(target),
    )


def _can_align(pair: ParallelPair, config: Config) -> bool:
    return 0 < config.model.n_tokens(pair.source_frames) <= pair.target_frames


def _length(pair: ParallelPair) -> int:
    return max(pair.source_frames, pair.target_frames)
