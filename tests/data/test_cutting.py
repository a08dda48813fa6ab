"""Where long pairs are cut: content that is made up, with pauses at known places."""

from __future__ import annotations

import numpy as np
import pytest

from aasvc_cli.audio.quality import KEPT_SECONDS, Quality
from aasvc_cli.data.cutting import Piece, Take, cut_pair

RATE = 50
Spans = dict[int, tuple[float, float]]


def take(
    sentences: list[int], lengths: dict[int, float], pauses: list[float], seed: int, speed: float = 1.0
) -> tuple[Take, Spans]:
    """Somebody reads sentences with pauses between them.

    Args:
        lengths: of each sentence in seconds
        pauses: after each sentence
        speed: how much slower this speaker is

    Returns:
        the take, and where each sentence lies
    """
    rng = np.random.default_rng(seed)
    voice = rng.standard_normal(24)
    parts, spans, silences, now = [0.1 * rng.standard_normal((RATE // 2, 24))], {}, [], 0.5
    for sentence, pause in zip(sentences, pauses, strict=True):
        words = np.random.default_rng(1000 + sentence).standard_normal((round(lengths[sentence] * RATE / 5), 24))
        said = np.repeat(words, 5, axis=0)
        said = said[np.linspace(0, len(said) - 1, round(speed * len(said))).astype(int)]
        parts += [
            said + voice + 0.7 * rng.standard_normal(said.shape),
            0.1 * rng.standard_normal((round(pause * RATE), 24)),
        ]
        spans[sentence] = now, now + len(said) / RATE
        silences.append((spans[sentence][1], spans[sentence][1] + pause))
        now = silences[-1][1]
    content = np.concatenate(parts).astype(np.float32)
    seconds = len(content) / RATE
    start, stop = 0.5 - KEPT_SECONDS, silences[-1][0] + KEPT_SECONDS
    quality = Quality(seconds, 16000, 0.5, 0.0, -20.0, 8000.0, start, stop, tuple(silences[:-1]))
    return Take(quality, content), spans


def readings(
    ours: list[int], theirs: list[int], seed: int = 0, shortest: float = 1.5
) -> tuple[tuple[Take, Spans], tuple[Take, Spans]]:
    """Two people read lists of sentences, the second one slower."""
    rng = np.random.default_rng(seed)
    lengths = {sentence: float(rng.uniform(shortest, 4.0)) for sentence in {*ours, *theirs}}
    pauses = [[float(rng.uniform(0.3, 1.5)) for _ in side] for side in (ours, theirs)]
    return take(ours, lengths, pauses[0], seed + 1), take(theirs, lengths, pauses[1], seed + 2, speed=1.2)


def held(start: float, stop: float, spans: Spans) -> list[int]:
    return [name for name, (first, last) in spans.items() if min(stop, last) - max(start, first) > 0.2]


def good(pieces: list[Piece]) -> list[Piece]:
    return [piece for piece in pieces if not piece.fault]


@pytest.mark.parametrize("seed", range(4))
def test_every_piece_holds_the_same_sentences_whole_and_none_is_lost(seed: int) -> None:
    names = list(range(20))
    (source, ours), (target, theirs) = readings(names, names, seed)
    pieces = cut_pair(source, target, 12.0)
    assert not [piece for piece in pieces if piece.fault]
    assert [name for piece in pieces for name in held(piece.source.start, piece.source.stop, ours)] == names
    for piece in pieces:
        for excerpt, spans in ((piece.source, ours), (piece.target, theirs)):
            assert excerpt.stop - excerpt.start <= 12.0
            for name in held(excerpt.start, excerpt.stop, spans):
                assert excerpt.start <= spans[name][0] and spans[name][1] <= excerpt.stop
        assert held(piece.source.start, piece.source.stop, ours) == held(piece.target.start, piece.target.stop, theirs)


def test_long_pauses_lie_outside_of_pieces() -> None:
    names = list(range(20))
    (source, _), (target, _) = readings(names, names, 5)
    for piece in cut_pair(source, target, 12.0):
        inside = [
            stop - start
            for start, stop in source.quality.pauses
            if piece.source.start < start and stop < piece.source.stop
        ]
        assert max(inside, default=0.0) < 1.0


def test_a_sentence_that_only_one_of_them_says_is_left_out() -> None:
    names = list(range(16))
    (source, ours), (target, theirs) = readings([*names[:8], 99, *names[8:]], names, 3)
    pieces = cut_pair(source, target, 8.0)
    kept = good(pieces)
    for piece in kept:
        assert held(piece.source.start, piece.source.stop, ours) == held(piece.target.start, piece.target.stop, theirs)
    lost = set(names) - {name for piece in kept for name in held(piece.source.start, piece.source.stop, ours)}
    assert len(lost) <= 2, "no more than its neighbours"
    assert any(piece.fault for piece in pieces)


def test_other_words_in_the_place_of_a_sentence_are_left_out() -> None:
    names = list(range(16))
    replaced = [*names[:8], 99, *names[9:]]
    (source, ours), (target, _) = readings(names, replaced, 4, shortest=3.5)
    pieces = cut_pair(source, target, 6.0)
    kept = [held(piece.source.start, piece.source.stop, ours) for piece in good(pieces)]
    assert sorted(name for held_here in kept for name in held_here) == [name for name in names if name != 8]


def test_without_a_shared_pause_in_time_a_piece_is_too_long_and_says_so() -> None:
    (source, _), (target, _) = readings([1, 2], [1, 2], 6, shortest=3.9)
    pieces = cut_pair(source, target, 3.0)
    assert {piece.fault.split(" for ")[0] for piece in pieces} == {"has no pause that both share"}


def test_what_holds_no_speech_has_no_pieces() -> None:
    (source, _), (target, _) = readings([1, 2], [1, 2])
    assert cut_pair(source, Take(target.quality, np.zeros((0, 24), dtype=np.float32)), 3.0) == []
