"""Recordings of many voices as pairs: who is paired with whom, and what is kept for measuring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.settings import Config
from aasvc_cli.data.many_voices import DEV_EVERY, many_voices
from aasvc_cli.data.readings import Reading
from aasvc_cli.errors import DataError

ROOT = Path("people")


def readings(n_voices: int = 3, n_sentences: int = 2 * DEV_EVERY) -> list[Reading]:
    return [
        Reading("g", f"v{voice}", f"s{sentence:02d}", ROOT / f"g/v{voice}/s{sentence:02d}.flac")
        for sentence in range(n_sentences)
        for voice in range(n_voices)
    ]


def config(**train: object) -> Config:
    return parse_config({"model": {"frames_per_token": 4}, "train": train}, "test")


def test_everybody_is_paired_with_everybody_else() -> None:
    listed = readings()
    manifest = many_voices(ROOT, listed, config(), {each.path: 100 for each in listed})
    train, dev = manifest.sets["train"], manifest.sets["dev"]
    sentences = Counter(pair.source.stem for pair in train)
    assert set(sentences.values()) == {3 * 2} and len(sentences) == 2 * DEV_EVERY - 2
    assert all(pair.source.stem == pair.target.stem and pair.source != pair.target for pair in (*train, *dev))
    assert all(pair.voice == f"g/{pair.target.parent.name}" for pair in train)
    # of the sentences that are kept, each voice is the target once
    assert {pair.source.stem for pair in dev} == {"s15", "s31"} and not {"s15", "s31"} & set(sentences)
    assert Counter((pair.source.stem, pair.voice) for pair in dev).most_common(1)[0][1] == 1 and len(dev) == 6


def test_pairs_that_cannot_be_aligned_or_are_too_long_are_left_out() -> None:
    listed = readings(2)
    lengths = {each.path: 100 for each in listed} | {listed[0].path: 500, listed[2].path: 300}
    manifest = many_voices(ROOT, listed, config(max_frames=320), lengths)
    kept = [(pair.source.stem, pair.voice) for pair in manifest.sets["train"]]
    assert not [name for name, _ in kept if name == "s00"]
    assert sorted(entry for entry in kept if entry[0] == "s01") == [("s01", "g/v0"), ("s01", "g/v1")]
    lengths[listed[2].path] = 420  # 105 tokens do not fit into 100 frames, but 25 do into 420
    manifest = many_voices(ROOT, listed, config(), lengths)
    assert [pair.voice for pair in manifest.sets["train"] if pair.source.stem == "s01"] == ["g/v0"]


@pytest.mark.parametrize("listed", [readings(1), readings(2, DEV_EVERY - 1)], ids=["alone", "few"])
def test_too_little_is_refused(listed: list[Reading]) -> None:
    with pytest.raises(DataError, match="people: .* sentences; expected 16 or more of which each is read by two"):
        many_voices(ROOT, listed, config(), {each.path: 100 for each in listed})
