"""Recordings of many people: who reads what, and who is kept for measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from aasvc_cli.config.settings import Config
from aasvc_cli.data.readings import find_readings, held_out, many_speakers
from aasvc_cli.errors import DataError


def recordings(root: Path, *names: str) -> Path:
    """Empty files, which are found and not read."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_the_last_of_four_speakers_of_a_group_is_kept_for_measuring(tmp_path: Path) -> None:
    several = [f"several/p{number}/s0.wav" for number in (2, 0, 3, 1)]
    root = recordings(tmp_path, *several, "few/a/s0.wav", "few/b/s0.wav", "few/c/s0.wav")
    assert held_out(find_readings(root)) == {("several", "p3")}


def test_recordings_of_many_become_pairs_of_each_with_itself(tmp_path: Path) -> None:
    root = recordings(tmp_path / "people", *(f"g/p{number}/s{number}.flac" for number in range(4)))
    manifest = many_speakers(root, Config())
    assert manifest.target_speaker == "people"
    assert [pair.utterance_id for pair in manifest.sets["train"]] == ["g-p0-s0", "g-p1-s1", "g-p2-s2"]
    assert [(pair.source, pair.target) for pair in manifest.sets["dev"]] == [(root / "g/p3/s3.flac",) * 2]


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "no recordings"), (("g/a/s.wav", "g/b/s.wav", "g/c/s.wav"), "expected 4 speakers or more in a group")],
)
def test_too_few_recordings_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        many_speakers(recordings(tmp_path, *names), Config())
