"""Several source speakers with one target: the pairs of each, named by speaker, and every sentence in one set only."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aasvc_cli.data.checks import Pairs
from aasvc_cli.data.corpus import Recordings
from aasvc_cli.data.manifest import Finding
from aasvc_cli.data.matching import Matching, match
from aasvc_cli.errors import DataError

SHOWN_SPEAKERS = 3
"""Speakers whose names a joint name holds."""


def joint_name(speakers: Sequence[str]) -> str:
    """A name for several speakers that is fit for a folder."""
    if len(speakers) <= SHOWN_SPEAKERS:
        return "-".join(speakers)
    return f"{speakers[0]}-and-{len(speakers) - 1}-more"


def match_all(sources: Sequence[Recordings], target: Recordings, table: Path | None = None) -> Matching:
    """The pairs of each source with the target; those of several are called ``<speaker>/<name>``.

    See :func:`aasvc_cli.data.matching.match`.

    Raises:
        DataError: as there, for any of the sources, or a table for several.
    """
    if len(sources) == 1:
        return match(sources[0], target, table)
    if table is not None:
        raise DataError(
            f"{table}: a table of pairs is for one source, and there are {len(sources)}; prepare each alone"
        )
    pairs: Pairs = []
    findings: list[Finding] = []
    rules: Counter[str] = Counter()
    for source in sources:
        matching = match(source, target)
        for where, pair in matching.pairs:
            name = f"{source.speaker}/{pair.utterance_id}"
            pairs.append((where, dataclasses.replace(pair, utterance_id=name, speaker=source.speaker)))
        findings += [_named(finding, source.speaker) for finding in matching.findings]
        rules.update(matching.rules)
    return Matching(pairs, list(dict.fromkeys(findings)), rules)


def by_speaker(pairs: Pairs) -> list[Pairs]:
    """The pairs of each source speaker, in the order in which the speakers come."""
    groups: dict[str, Pairs] = {}
    for where, pair in pairs:
        groups.setdefault(pair.speaker, []).append((where, pair))
    return list(groups.values())


def sentences(pairs: Pairs) -> dict[str, str]:
    """What each pair says, whoever says it, by its name: the name that its target recording has with the first speaker.

    Args:
        pairs: with the recordings that were matched
    """
    names: dict[Path, str] = {}
    said = {}
    for _, pair in pairs:
        own = pair.utterance_id.removeprefix(f"{pair.speaker}/")
        said[pair.utterance_id] = names.setdefault(pair.target, own)
    return said


def _named(finding: Finding, speaker: str) -> Finding:
    """What is said of a pair goes with the speaker, what is said of all recordings does not."""
    if not finding.utterance_id:
        return finding
    return dataclasses.replace(finding, utterance_id=f"{speaker}/{finding.utterance_id}")
