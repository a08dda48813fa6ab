"""Resampling, against the golden data and librosa."""

from pathlib import Path

import librosa
import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.resampling import resample
from tests.examples import examples

DATA = Path(__file__).parents[1] / "assets"


def test_equals_the_published_resampling():
    with np.load(DATA / "features.npz") as golden:
        utterance, expected = golden["utterance"], golden["wave_48k"]
    wave, rate = soundfile.read(DATA / f"male_{utterance}.flac", dtype="float32")
    assert rate == 24000
    np.testing.assert_allclose(resample(wave, rate, 48000), expected, atol=1e-6)


@examples(30)
@given(length=st.integers(1, 5000), old=st.sampled_from([8000, 44100, 48000]), new=st.sampled_from([24000, 22050]))
def test_has_the_length_that_librosa_gives_it(length, old, new):
    wave = np.random.default_rng(length).normal(size=length).astype(np.float32)
    ours = resample(wave, old, new)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, librosa.resample(wave, orig_sr=old, target_sr=new), atol=1e-6)
