"""Which set each pair goes to: the corpus' own sets are kept, others are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from aasvc_cli.data.checks import Pairs
from aasvc_cli.data.manifest import SETS, UNASSIGNED, ParallelPair
from aasvc_cli.data.sources import sentences
from aasvc_cli.data.splitting import split


def assign_sets(
    good: Pairs, candidates: Pairs, requested: Mapping[str, str | None], seed: int
) -> dict[str, tuple[ParallelPair, ...]]:
    """Keep the corpus' own sets; draw those that are asked for or that it does not have.

    What several source speakers say is in one set, as the target says it only once: counts, fractions and lists are of
    sentences then, each with all who say it.

    Args:
        good: the pairs that can be used, with their sets
        candidates: all pairs that a list may name
        requested: what is asked for of each set, as for :func:`aasvc_cli.data.splitting.split`

    Returns:
        the pairs of every set, by name

    Raises:
        DataError: a size that is impossible, or a list with unknown names.
    """
    if not any(pair.speaker for _, pair in candidates):
        return _assign(good, candidates, requested, seed)
    said = sentences(candidates)

    def once(pairs: Pairs) -> Pairs:
        named = {said[pair.utterance_id]: (where, pair) for where, pair in pairs}
        return [(where, dataclasses.replace(pair, utterance_id=name)) for name, (where, pair) in named.items()]

    drawn = _assign(once(good), once(candidates), requested, seed)
    places = {pair.utterance_id: key for key, pairs in drawn.items() for pair in pairs}
    sets: dict[str, list[ParallelPair]] = {key: [] for key in SETS}
    for _, pair in sorted(good, key=lambda each: each[1].utterance_id):
        if (key := places.get(said[pair.utterance_id])) is not None:
            sets[key].append(pair)
    return {key: tuple(pairs) for key, pairs in sets.items()}


def _assign(
    good: Pairs, candidates: Pairs, requested: Mapping[str, str | None], seed: int
) -> dict[str, tuple[ParallelPair, ...]]:
    """:func:`assign_sets` of a single source speaker."""
    own = {name for name, _ in candidates}
    draw = {
        key: wanted for key, wanted in requested.items() if wanted is not None or (key != "train" and key not in own)
    }
    pool = [pair for name, pair in good if name in (UNASSIGNED, "train") or name in draw]
    sets: dict[str, list[ParallelPair]] = {key: [] for key in SETS}
    for name, pair in good:
        if name in sets and name != "train" and name not in draw:
            sets[name].append(pair)
    known = [pair.utterance_id for _, pair in candidates]
    drawn = split([pair.utterance_id for pair in pool], draw, seed=seed, known=known)
    for key, pair in zip(drawn, pool, strict=True):
        if key is not None:
            sets[key].append(pair)
    return {key: tuple(sorted(sets[key], key=lambda pair: pair.utterance_id)) for key in SETS}
