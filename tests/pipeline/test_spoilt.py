"""Recordings as people bring them: a few pairs of the demo corpus, spoilt in seven ways, through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.spoilt import WAYS, Pair, Spoilt, held, read_pairs

pytestmark = pytest.mark.slow

N_PAIRS = 20


@pytest.fixture(scope="module")
def pairs(demo_corpus: Path) -> list[Pair]:
    folders = (demo_corpus / side / "wav" / "train_parallel" for side in ("male", "female"))
    return read_pairs(*folders, N_PAIRS)


@pytest.fixture
def said(
    aasvc: Callable[..., Any], pairs: list[Pair], tmp_path: Path
) -> Callable[[str], tuple[dict[str, Any], Spoilt]]:
    """What `prepare --json` says of the pairs, spoilt in one way, and what was done to them."""

    def call(way: str) -> tuple[dict[str, Any], Spoilt]:
        spoilt = WAYS[way](pairs, tmp_path / "recordings", np.random.default_rng(3))
        path = tmp_path / "said.json"
        line = ("--source", spoilt.source, "--target", spoilt.target, "--name", "set", "--jobs", 1, "--json", path)
        outcome = aasvc("prepare", *line)
        assert outcome.code == 0, outcome.err
        return json.loads(path.read_text()), spoilt

    return call


def named(report: dict[str, Any], code: str) -> set[str]:
    return {finding["utterance_id"] for finding in report["findings"] if finding["code"] == code}


def kept(report: dict[str, Any]) -> int:
    return sum(report["n_pairs"].values())


def test_a_prefix_for_each_speaker_does_no_harm(said: Any) -> None:
    report, _ = said("prefix names")
    assert (report["matched_by"], kept(report), report["findings"]) == ({"affix": N_PAIRS}, N_PAIRS, [])


def test_channels_that_cancel_are_read_as_one_of_them_and_named(said: Any) -> None:
    report, _ = said("inverted channel")
    assert (kept(report), report["counts"]) == (N_PAIRS, {"channels": 2 * N_PAIRS})


def test_other_words_are_named_and_kept(said: Any) -> None:
    report, spoilt = said("swapped texts")
    assert len(spoilt.truth) == 2
    assert (named(report, "different_words"), kept(report)) == (spoilt.truth, N_PAIRS)


def test_long_takes_become_pairs_of_the_same_sentences(said: Any) -> None:
    report, spoilt = said("joined takes")
    (cut,) = report["cuts"]
    pieces = [piece for piece in cut["pieces"].values() if not piece["fault"]]
    assert kept(report) == len(pieces) > N_PAIRS / 2
    sides = [
        [held(piece[side]["start"], piece[side]["stop"], spoilt.spans[side]) for piece in pieces]
        for side in ("source", "target")
    ]
    assert sides[0] == sides[1]
    assert len({name for names in sides[0] for name in names}) >= 0.95 * N_PAIRS


def test_a_telephone_is_recognised_in_a_file_of_a_higher_rate(said: Any) -> None:
    report, _ = said("8 kHz upsampled")
    assert (kept(report), report["counts"]) == (N_PAIRS, {})
    (advice,) = report["advice"]
    assert "--sample-rate 8000" in advice


def test_odd_levels_are_named(said: Any) -> None:
    report, spoilt = said("levels ± 15 dB")
    assert (named(report, "level"), kept(report)) == (spoilt.truth, N_PAIRS)
    assert any("--loudness" in advice for advice in report["advice"])


def test_silence_around_the_speech_goes(said: Any) -> None:
    report, _ = said("2 s of silence")
    assert (kept(report), report["counts"]) == (N_PAIRS, {})
    assert report["trimmed_seconds"] == pytest.approx(2 * N_PAIRS * 4, rel=0.15)
