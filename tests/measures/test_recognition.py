"""The language that recordings are in, and what is said in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from aasvc_cli.audio.files import write_audio
from aasvc_cli.errors import DataError
from aasvc_cli.measures.recognition import N_HEARD, listener
from aasvc_cli.storage.result_cache import ResultCache


class Ear:
    """Hears in a recording the language that stands for its length, and counts how often it is asked."""

    description: Mapping[str, str] = {"engine": "ear", "model": "anywhere"}

    def __init__(self, chances: Mapping[int, Mapping[str, float]]) -> None:
        self.chances, self.asked = chances, 0

    def recognise(self, wave: np.ndarray, sample_rate: int, language: str) -> str:
        return f"{language}{len(wave)}"

    def languages(self, wave: np.ndarray, sample_rate: int) -> Mapping[str, float]:
        self.asked += 1
        if len(wave) not in self.chances:
            raise DataError("cannot hear this")
        return self.chances[len(wave)]


@pytest.fixture
def recording(tmp_path: Path):
    def write(length: int) -> Path:
        path = tmp_path / f"{length}.wav"
        write_audio(path, np.full(length, 0.1), 8000)
        return path

    return write


def test_the_language_that_is_named_or_written_is_taken_unheard(recording):
    ear, cache = Ear({}), ResultCache(None)
    named = listener(ear, cache, "it", ["今日は"], [recording(800)])
    written = listener(ear, cache, None, ["今日は"], [recording(800)])
    assert [(each.language, each.note) for each in (named, written)] == [("it", ""), ("ja", "")]
    assert ear.asked == 0


def test_the_likeliest_of_several_recordings_is_taken_and_said(recording, tmp_path):
    """Two are surer of Spanish than three are of Italian."""
    chances = {
        **{length: {"es": 0.9, "it": 0.1} for length in (800, 810)},
        **{length: {"it": 0.5, "es": 0.4} for length in (820, 830, 840)},
    }
    ear, cache = Ear(chances), ResultCache(tmp_path / "cache")
    paths = [recording(length) for length in chances]
    heard = [listener(ear, cache, None, ["ciao"], order) for order in (paths, paths[::-1])]
    assert {each.language for each in heard} == {"es"}
    assert heard[0].note == "recognised as es, by the sound (60% sure); another language: --language CODE"
    assert ear.asked == len(paths), "what was heard is kept"
    assert heard[0].text(paths[0]) == "es800"


def test_the_longest_are_heard_and_what_cannot_be_heard_is_passed_over(recording, tmp_path):
    ear = Ear({length: {"fr": 1.0} for length in range(800, 900, 10)})
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"x" * 100_000)
    paths = [tmp_path / "gone.wav", broken, recording(5000), *map(recording, range(800, 900, 10))]
    assert listener(ear, ResultCache(None), None, [], paths * 2).language == "fr"
    assert ear.asked == 1 + N_HEARD, "each once, as several sources may share a target"


def test_recordings_of_which_nothing_is_heard_are_taken_for_english(recording):
    heard = listener(Ear({800: {}}), ResultCache(None), None, [], [recording(800)])
    assert heard.language == "en"
    assert heard.note.startswith("recognised as en, as nothing was heard")
