"""The alignment of two recordings by a model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import read_audio
from aasvc_cli.conversion.alignment import align
from aasvc_cli.conversion.voice import load_voice
from aasvc_cli.errors import DataError
from aasvc_cli.features.stats import FeatureStats
from tests.pages import RATE, tone
from tests.voices import tiny_config, write_voice


def test_an_alignment_is_a_distribution_per_frame_and_its_path_goes_from_first_to_last_token(
    demo_corpus: Path, tmp_path: Path
):
    voice = load_voice(write_voice(tmp_path / "run", tiny_config()))
    source, target = (demo_corpus / side / "wav" / "dev" / "dev_0660.ogg" for side in ("male", "female"))
    weights, path = align(voice, source, target)
    frames, tokens = weights.shape
    wave, rate = read_audio(target)
    assert frames == 1 + math.ceil(len(wave) * 16000 / rate) // 128
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-4)
    assert (path[0], path[-1]) == (0, tokens - 1)
    assert set(np.diff(path)) <= {0, 1}


def test_a_source_of_whom_nothing_is_known_is_normalised_by_the_recording_itself(demo_corpus: Path, tmp_path: Path):
    """So statistics that stand in for its own change nothing."""
    voice = load_voice(write_voice(tmp_path / "run", tiny_config()))
    unknown = dataclasses.replace(voice, source_from_input=True)
    known = voice.stats.source
    wrong = FeatureStats(known.mean + 3.0, known.scale * 2.0, known.n_frames)
    misled = dataclasses.replace(unknown, stats=dataclasses.replace(voice.stats, source=wrong, duration=wrong))
    pair = [demo_corpus / side / "wav" / "dev" / "dev_0660.ogg" for side in ("male", "female")]
    np.testing.assert_array_equal(align(unknown, *pair)[0], align(misled, *pair)[0])


def test_a_recording_too_short_for_the_model_is_refused_by_name(tmp_path: Path):
    voice = load_voice(write_voice(tmp_path / "run", tiny_config()))
    short, long = tmp_path / "short.wav", tmp_path / "long.wav"
    soundfile.write(short, tone(0.005, 200), RATE)
    soundfile.write(long, tone(1.0, 200), RATE)
    for pair in ((short, long), (long, short)):
        with pytest.raises(DataError, match=r"short\.wav"):
            align(voice, *pair)
