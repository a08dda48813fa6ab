"""The measures against published numbers, closed forms and other people's implementations."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.quality import bandwidth
from aasvc_cli.audio.resampling import resample
from aasvc_cli.errors import DataError, MissingExtraError
from aasvc_cli.measures import signal as metrics
from aasvc_cli.measures.catalogue import MEASURES
from tests.examples import examples
from tests.once import once
from tests.oracles import path_cost

DATA = Path(__file__).parents[1] / "assets"
GOLDEN = json.loads((DATA / "metrics.json").read_text(encoding="utf-8"))
RATE = 24000
FEMALE = {"f0_min": 90.0, "f0_max": 440.0}


def recording(name: str) -> tuple[np.ndarray, int]:
    return read_audio(DATA / "recordings" / f"{name}.flac")


@pytest.fixture(scope="module", autouse=True)
def _sounds_are_analysed_once() -> Iterator[None]:
    """The same few sounds are scored again and again, and finding their pitch and envelope is most of that."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pitch", "spectral_envelope"):
            patch.setattr(metrics, name, once(getattr(metrics, name)))
        yield


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A sentence's first second and a half."""
    return recording("female/train_parallel_0007")[0][: RATE * 3 // 2]


@pytest.fixture(scope="module")
def other_speech() -> np.ndarray:
    return recording("female/train_parallel_0006")[0][: RATE * 3 // 2]


@pytest.fixture(scope="module")
def analyses(speech: np.ndarray, other_speech: np.ndarray) -> dict[str, tuple[metrics.Analysis, metrics.Analysis]]:
    """Two different sentences, analysed in each mode."""
    return {
        mode: tuple(metrics.analyse(wave, RATE, mode=mode, **FEMALE) for wave in (speech, other_speech))
        for mode in metrics.MODES
    }


def buzz(frequency: float, seconds: float = 0.6, sample_rate: int = RATE) -> np.ndarray:
    """A voiced sound: 20 harmonics that fall off like speech."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    harmonics = np.arange(1, 21)[:, None]
    wave = (np.cos(2 * np.pi * frequency * harmonics * time + harmonics**2) / harmonics).sum(axis=0)
    return (0.1 * wave).astype(np.float32)


# -- against published numbers


@pytest.mark.parametrize("pair", GOLDEN["pairs"])
def test_published_mode_gives_the_published_numbers(pair):
    converted, target = (recording(name) for name in pair.split(" vs "))
    scores = metrics.score_pair(*converted, *target, f0_min=GOLDEN["f0min"], f0_max=GOLDEN["f0max"])
    golden = GOLDEN["pairs"][pair]
    found = scores.named("published")
    assert {name: found[name] for name in golden} == pytest.approx(golden, rel=0, abs=1e-6)


# -- closed forms


@pytest.mark.parametrize("mode", metrics.MODES)
def test_a_signal_against_itself_is_perfect(speech, mode):
    scores = metrics.score_pair(speech, RATE, speech, RATE, mode=mode, **FEMALE)
    assert (scores.mcd, scores.f0_rmse, scores.ddur) == (0.0, 0.0, 0.0)
    assert scores.f0_corr == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("gain", [0.8, 0.5])  # much more, and the alignment finds louder partners
def test_a_gain_changes_only_c0_so_the_published_distortion_is_its_logarithm(speech, gain):
    scores = metrics.score_pair(speech * np.float32(gain), RATE, speech, RATE, mode="published", **FEMALE)
    # log power moves by 2 ln g, c0 is half of its mean: ln g
    assert scores.mcd == pytest.approx(10 / math.log(10) * math.sqrt(2) * abs(math.log(gain)), abs=1e-3)
    assert scores.ddur == 0.0


@pytest.mark.parametrize("gain", [0.5, 0.1])
def test_the_corrected_distortion_does_not_hear_a_gain(speech, gain):
    scores = metrics.score_pair(speech * np.float32(gain), RATE, speech, RATE, mode="corrected", **FEMALE)
    assert scores.mcd == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("mode", metrics.MODES)
def test_scaled_f0_on_equal_spectra_has_the_error_of_the_scale(analyses, mode):
    target, _ = analyses[mode]
    converted = dataclasses.replace(target, f0=target.f0 * 1.2)
    pairs = metrics.aligned_f0(converted, target)
    voiced = target.f0[target.f0 > 0]
    assert metrics.f0_rmse(pairs) == pytest.approx(0.2 * np.sqrt(np.mean(voiced**2)))
    assert metrics.f0_correlation(pairs) == pytest.approx(1.0)
    assert metrics.mel_cepstral_distortion(converted, target, metrics.aligned_loud_frames(converted, target)) == 0.0


@pytest.mark.parametrize("mode", metrics.MODES)
def test_two_steady_tones_differ_by_their_frequencies(mode):
    scores = metrics.score_pair(buzz(180), RATE, buzz(150), RATE, mode=mode, **FEMALE)
    assert scores.f0_rmse == pytest.approx(30.0, abs=0.5)


def test_mirrored_f0_is_anticorrelated_and_a_constant_one_has_no_correlation():
    rising = np.linspace(100, 200, 50)
    assert metrics.f0_correlation(np.stack([rising, 300 - rising], axis=1)) == pytest.approx(-1.0)
    assert math.isnan(metrics.f0_correlation(np.stack([rising, np.full(50, 120.0)], axis=1)))


@pytest.mark.parametrize("mode", metrics.MODES)
def test_correlation_agrees_with_numpy_on_real_contours(analyses, mode):
    pairs = metrics.aligned_f0(*analyses[mode])
    assert metrics.f0_correlation(pairs) == pytest.approx(np.corrcoef(pairs.T)[0, 1], abs=1e-12)


def test_silence_around_the_speech_is_not_duration(speech):
    start, end = metrics.trim_bounds(speech)
    core = speech[start:end]
    silence = np.zeros(RATE, dtype=np.float32)
    padded = np.concatenate([silence, core, silence, silence])
    scores = metrics.score_pair(padded, RATE, core, RATE, **FEMALE)
    # each edge is known to one frame of 2048 samples
    assert scores.ddur <= 2 * 2048 / RATE


def test_inserted_sound_is_duration():
    short, long = buzz(150, 0.5), buzz(150, 0.9)
    assert metrics.score_pair(long, RATE, short, RATE, **FEMALE).ddur == pytest.approx(0.4, abs=2 / RATE)


# -- measures that the recipe does not have


@pytest.mark.parametrize("semitones", [1.0, -3.0, 12.0])
def test_a_transposed_contour_is_wrong_by_exactly_its_interval(analyses, semitones):
    target, _ = analyses["corrected"]
    converted = dataclasses.replace(target, f0=target.f0 * 2 ** (semitones / 12))
    assert metrics.log_f0_rmse(metrics.aligned_f0(converted, target)) == pytest.approx(abs(semitones), abs=1e-9)
    assert metrics.voicing_error(converted, target, metrics.aligned_loud_frames(converted, target)) == 0.0


@given(st.floats(0.3, 3.0))
@examples(20)
def test_the_log_error_does_not_grow_with_the_pitch_of_the_voice(factor):
    pairs = np.random.default_rng(3).uniform(80, 300, (40, 2))
    assert metrics.log_f0_rmse(pairs * factor) == pytest.approx(metrics.log_f0_rmse(pairs))
    assert metrics.f0_rmse(pairs * factor) == pytest.approx(factor * metrics.f0_rmse(pairs))


def test_a_pitch_shift_of_the_sound_itself_is_a_semitone_too():
    scores = metrics.score_pair(buzz(180 * 2 ** (1 / 12)), RATE, buzz(180), RATE, mode="corrected", **FEMALE)
    assert scores.log_f0_rmse == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("mode", metrics.MODES)
def test_the_voicing_error_counts_the_frames_that_lost_their_voice(analyses, mode):
    target, _ = analyses[mode]
    flipped = np.flatnonzero(target.loud & (target.f0 > 0))[::3]
    f0 = target.f0.copy()
    f0[flipped] = 0.0
    converted = dataclasses.replace(target, f0=f0)
    # equal spectra: the path is the diagonal over loud frames
    path = metrics.aligned_loud_frames(converted, target)
    assert metrics.voicing_error(converted, target, path) == pytest.approx(len(flipped) / target.loud.sum())
    assert metrics.voicing_error(target, target, path) == 0.0


def test_a_loud_alignment_indexes_frames_of_the_whole_signals(analyses):
    converted, target = analyses["corrected"]
    path = metrics.aligned_loud_frames(converted, target)
    assert converted.loud[path[:, 0]].all() and target.loud[path[:, 1]].all()
    assert set(path[:, 0]) == set(np.flatnonzero(converted.loud))


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_global_variance_is_that_of_scaled_movements(analyses, factor):
    target, _ = analyses["corrected"]
    centre = target.mcep[target.loud].mean(axis=0)
    converted = dataclasses.replace(target, mcep=centre + factor * (target.mcep - centre))
    assert metrics.global_variance_ratio(converted, target) == pytest.approx(2 * math.log(factor))
    assert metrics.global_variance_ratio(target, converted) == pytest.approx(-2 * math.log(factor))
    assert metrics.global_variance_ratio(target, target) == 0.0


def test_the_published_global_variance_is_its_formula_on_the_conversion_alone(analyses):
    analysis, other = analyses["published"]
    variances = [np.var(analysis.mcep[analysis.loud, d]) for d in range(40)]
    expected = np.mean([abs(math.log(variance)) for variance in variances])
    assert metrics.global_variance(analysis) == pytest.approx(expected)
    assert metrics.score_analyses(analysis, other).named("published")["GV"] == pytest.approx(expected)


@pytest.mark.parametrize("factor", [0.5, 1.25, 2.0])
def test_a_stretched_conversion_speaks_slower_by_its_factor(factor):
    converted, target = buzz(180, 0.8 * factor), buzz(180, 0.8)
    scores = metrics.score_pair(converted, RATE, target, RATE, mode="corrected", **FEMALE)
    assert scores.speaking_rate == pytest.approx(1 / factor, abs=2e-3)
    back = metrics.score_pair(target, RATE, converted, RATE, mode="corrected", **FEMALE)
    assert scores.speaking_rate * back.speaking_rate == pytest.approx(1.0)


def test_silence_has_no_global_variance_and_no_rate_and_spoils_nothing_else(speech):
    silence = np.zeros(RATE, dtype=np.float32)
    for mode in metrics.MODES:
        scores = metrics.score_pair(silence, RATE, speech, RATE, mode=mode, **FEMALE)
        assert math.isnan(scores.variance) and math.isnan(scores.variance_ratio) and math.isnan(scores.log_f0_rmse)
        assert 0.0 <= scores.voicing_error <= 1.0
        assert math.isnan(scores.speaking_rate) and math.isfinite(scores.ddur)


def test_the_names_of_both_modes_are_the_signal_measures_and_never_the_same(analyses):
    published = metrics.score_analyses(*analyses["published"]).named("published")
    corrected = metrics.score_analyses(*analyses["corrected"]).named("corrected")
    assert not published.keys() & corrected.keys()
    assert [*published, *corrected] == [measure.name for measure in MEASURES if measure.group == "signal"]


@pytest.mark.parametrize("mode", metrics.MODES)
def test_measures_barely_depend_on_which_side_is_which(analyses, mode):
    first, second = analyses[mode]
    forth, back = metrics.score_analyses(first, second), metrics.score_analyses(second, first)
    assert forth.ddur == back.ddur
    # ties and the coarse levels are decided in the order of the arguments
    assert forth.mcd == pytest.approx(back.mcd, rel=0.02 if mode == "published" else 1e-9)


def test_an_exact_alignment_is_never_worse_than_the_approximate_one(analyses):
    first, second = analyses["published"]
    x, y = first.mcep[first.loud], second.mcep[second.loud]
    from aasvc_cli.audio import dtw

    assert path_cost(x, y, dtw.exact_path(x, y)) <= path_cost(x, y, dtw.fast_path(x, y))


# -- settings of the modes


def test_the_published_analysis_is_the_same_at_every_rate_and_the_corrected_one_is_not():
    published = {
        dataclasses.replace(metrics.settings_for("published", rate, 90), sample_rate=0) for rate in (16000, 48000)
    }
    assert len(published) == 1
    corrected = [metrics.settings_for("corrected", rate, 90) for rate in (16000, 24000, 48000)]
    assert [each.fft_size for each in corrected] == [1024, 1024, 2048]
    assert [each.alpha for each in corrected] == pytest.approx([0.41, 0.466, 0.554], abs=1e-9)
    assert all(each.first_coefficient == 1 and not each.high_pass for each in corrected)


def test_the_corrected_fft_resolves_the_lowest_f0():
    for sample_rate in (8000, 16000, 22050, 24000, 44100, 48000):
        for f0_min in (40.0, 90.0, 120.0):
            settings_ = metrics.settings_for("corrected", sample_rate, f0_min)
            assert 3 * sample_rate / (settings_.fft_size - 3) < f0_min  # the lowest F0 that CheapTrick takes as it is
            assert settings_.fft_size & (settings_.fft_size - 1) == 0


def test_analyses_of_different_modes_cannot_be_compared(analyses):
    with pytest.raises(ValueError, match="analyses differ"):
        metrics.score_analyses(analyses["published"][0], analyses["corrected"][0])


def test_both_modes_find_f0_and_envelope_of_a_frame_at_the_same_time(analyses):
    """A click is where the envelope is loudest, in the high-passed signal 127 samples later than in the original."""
    click = np.zeros(RATE // 2, dtype=np.float32)
    click[RATE // 4] = 0.5
    loudest = [int(metrics.analyse(click, RATE, mode=mode, **FEMALE).mcep[:, 0].argmax()) for mode in metrics.MODES]
    assert abs(loudest[0] - loudest[1]) <= 1
    assert np.array_equal(analyses["published"][0].f0, analyses["corrected"][0].f0)


def test_the_envelopes_of_a_long_recording_are_made_block_by_block(speech, monkeypatch):
    whole = metrics.analyse(speech, RATE, mode="corrected", **FEMALE)
    monkeypatch.setattr(metrics, "BLOCK_FRAMES", 77)
    blocks = metrics.analyse(speech, RATE, mode="corrected", **FEMALE)
    assert np.array_equal(blocks.loud, whole.loud)
    assert blocks.mcep[blocks.loud] == pytest.approx(whole.mcep[whole.loud], abs=1e-6)


def test_mel_cepstrum_without_warping_is_the_cepstrum_of_the_log_amplitude():
    envelope = np.random.default_rng(0).uniform(0.01, 2.0, (5, 513))
    cepstrum = np.fft.irfft(np.log(envelope), axis=1)[:, :40]
    cepstrum[:, 0] /= 2
    assert metrics.mel_cepstrum(np.log(envelope), 39, 0.0) == pytest.approx(cepstrum, abs=1e-9)


def test_the_mel_cepstrum_is_sptks(analyses):
    import pysptk

    for n_bins, alpha in ((33, 0.7), (513, 0.41), (513, 0.466), (4097, 0.65)):
        envelope = np.exp(np.random.default_rng(2).normal(0, 4, (20, n_bins)))
        expected = pysptk.sp2mc(envelope, 39, alpha)
        assert metrics.mel_cepstrum(np.log(envelope), 39, alpha) == pytest.approx(expected, abs=1e-9)


def test_relative_level_is_that_of_the_signal_behind_the_spectrum():
    frames = np.random.default_rng(1).standard_normal((6, 64)) * np.arange(1, 7)[:, None]
    energy = np.square(frames).sum(axis=1)  # Parseval
    spectrum = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    assert metrics.relative_level(metrics.frame_power(spectrum)) == pytest.approx(10 * np.log10(energy / energy.mean()))


# -- trimming


def test_trimming_finds_planted_edges_to_one_frame():
    wave = np.zeros(40000, dtype=np.float32)
    wave[9000:25000] = np.random.default_rng(0).standard_normal(16000) * 0.1
    start, end = metrics.trim_bounds(wave)
    assert 9000 - 2048 <= start <= 9000
    assert 25000 <= end <= 25000 + 2048


def test_the_filter_of_the_published_procedure_is_scipys():
    from scipy.signal import firwin, lfilter

    wave = np.random.default_rng(0).standard_normal(1000)
    for sample_rate in (8000, 24000, 44100):
        expected = lfilter(firwin(255, 70 / (sample_rate // 2), pass_zero=False), 1, wave)
        assert metrics._published_high_pass(wave, sample_rate) == pytest.approx(expected, abs=1e-12)


def test_trimming_silence_keeps_it_whole():
    assert metrics.trim_bounds(np.zeros(5000)) == (0, 5000)


# -- no voice, no sound, nothing


@pytest.mark.parametrize("mode", metrics.MODES)
def test_without_voiced_frames_f0_measures_are_undefined_and_the_others_are_not(speech, mode):
    silence = np.zeros(RATE, dtype=np.float32)
    for pair in ((silence, speech), (speech, silence), (silence, silence)):
        scores = metrics.score_pair(pair[0], RATE, pair[1], RATE, mode=mode, **FEMALE)
        assert math.isnan(scores.f0_rmse)
        assert math.isnan(scores.f0_corr)
        assert math.isfinite(scores.mcd)
        assert math.isfinite(scores.ddur)
        assert math.isnan(scores.speaking_rate), "who is silent speaks at no rate"


@pytest.mark.parametrize("n_samples", [1, 7, 300])
@pytest.mark.parametrize("mode", metrics.MODES)
def test_signals_of_a_few_samples_do_not_break_the_analysis(speech, mode, n_samples):
    scores = metrics.score_pair(speech[6000 : 6000 + n_samples], RATE, speech, RATE, mode=mode, **FEMALE)
    assert math.isfinite(scores.mcd)


@pytest.mark.parametrize(
    ("wave", "sample_rate", "f0_range", "message"),
    [
        (np.zeros(0), RATE, (90, 440), "no samples"),
        (np.full(100, np.nan), RATE, (90, 440), "not numbers"),
        (np.zeros((2, 100)), RATE, (90, 440), "one channel"),
        (np.zeros(100), RATE, (440, 90), "F0 range 440-90"),
        (np.zeros(100), 800, (90, 390), "sample rate 800 Hz: expected 1000"),
        (np.zeros(100), 192000, (90, 440), "use the corrected mode"),
    ],
)
def test_what_cannot_be_analysed_is_a_data_error(wave, sample_rate, f0_range, message):
    with pytest.raises(DataError, match=message):
        metrics.analyse(wave, sample_rate, f0_min=f0_range[0], f0_max=f0_range[1], mode="published")


def test_an_unknown_mode_is_a_data_error():
    with pytest.raises(DataError, match="expected one of published, corrected"):
        metrics.analyse(np.zeros(100), RATE, f0_min=90, f0_max=440, mode="best")  # type: ignore[arg-type]


# -- different rates


def needs_torchaudio(test):
    """Where torchaudio does not load beside this torch, the published definition takes one sample rate only."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return pytest.mark.skip(reason=f"torchaudio does not load: {error}")(test)
    return test


@needs_torchaudio
@pytest.mark.parametrize(("old", "new"), [(48000, 24000), (24000, 48000), (44100, 24000), (22050, 16000)])
@pytest.mark.parametrize("n_samples", [1, 1000, 7919])
def test_published_resampling_is_a_windowed_sinc_at_99_percent_of_the_band(old, new, n_samples):
    """Every output sample by its sum over all input samples, in float64."""
    wave = np.random.default_rng(0).uniform(-1, 1, n_samples).astype(np.float32)
    length = math.ceil(n_samples * new / old)
    picked = np.unique(np.linspace(0, length - 1, 50).astype(int))
    cutoff = min(old, new) * 0.99  # zero crossings per second
    zeros = (picked[:, None] / new - np.arange(n_samples) / old) * cutoff
    window = np.where(np.abs(zeros) < 6, np.cos(zeros * np.pi / 12) ** 2, 0.0)
    expected = (np.sinc(zeros) * window) @ wave * (cutoff / old)
    resampled = metrics.resample_published(wave, old, new)
    assert (resampled.shape, resampled.dtype) == ((length,), np.float32)
    assert resampled[picked] == pytest.approx(expected, abs=1e-4)


def test_resampling_between_rates_without_a_common_divisor_is_refused_before_it_takes_memory():
    for rates in ((16001, 16000), (44099, 48000), (192000, 7919)):
        with pytest.raises(DataError, match="needs sample rates with a common divisor"):
            metrics.resample_published(np.zeros(100), *rates)


def test_without_torchaudio_the_reason_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(MissingExtraError, match="the published resampling needs torchaudio, which does not load"):
        metrics.resample_published(np.zeros(100), 48000, 24000)


@needs_torchaudio
def test_published_mode_brings_the_converted_signal_to_the_targets_rate(speech, other_speech):
    target = other_speech[::2]
    half = metrics.resample_published(speech, RATE, RATE // 2)
    scores = metrics.score_pair(speech, RATE, target, RATE // 2, **FEMALE)
    assert scores == metrics.score_pair(half, RATE // 2, target, RATE // 2, **FEMALE)


def test_corrected_mode_compares_at_the_lower_rate_whichever_side_has_it(speech):
    double = resample(speech, RATE, 2 * RATE)
    for pair in ((double, 2 * RATE, speech, RATE), (speech, RATE, double, 2 * RATE)):
        first, second, rate = metrics.to_common_rate(*pair, mode="corrected")
        assert rate == RATE
        assert abs(len(first) - len(second)) <= 1
        scores = metrics.score_pair(*pair, mode="corrected", **FEMALE)
        assert scores.f0_rmse < 0.1
        assert scores.ddur == 0.0


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("stored", [22050, 24000, 44100, 48000])
def test_the_rate_before_a_recording_was_stored_at_a_higher_one_is_found(speech, rate, stored):
    narrow = resample(speech, RATE, rate)
    assert metrics.rate_before(bandwidth(resample(narrow, rate, stored), stored), stored) == rate
    assert metrics.rate_before(bandwidth(narrow, rate), rate) is None


def test_a_recording_that_uses_its_band_had_no_other_rate(speech):
    assert metrics.rate_before(bandwidth(speech, RATE), RATE) is None


def test_an_empty_upper_band_is_no_distortion_in_the_corrected_mode(speech, other_speech):
    wide = resample(other_speech, RATE, 2 * RATE)
    wide = wide + np.random.default_rng(0).standard_normal(len(wide)).astype(np.float32) * 1e-3  # a true upper band
    apart = metrics.score_pair(speech, RATE, wide, 2 * RATE, mode="corrected", **FEMALE)
    upsampled = metrics.score_pair(
        resample(speech, RATE, 2 * RATE), 2 * RATE, wide, 2 * RATE, mode="corrected", **FEMALE
    )
    assert apart.mcd < upsampled.mcd


# -- F0 range


def test_the_estimated_range_lies_around_the_quartiles_and_ignores_octave_errors():
    f0 = np.random.default_rng(0).uniform(203, 303, 4000)
    found = metrics.estimate_f0_range([f0[:1000], f0[1000:]])
    assert (found.minimum, found.maximum) == (170.0, 420.0)
    f0[:80] = 55.0  # two per cent of wild values
    f0[80:160] = 790.0
    assert metrics.estimate_f0_range([f0]) == found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_parallel_0005", "train_parallel_0006"])
def test_in_the_estimated_range_a_recording_agrees_with_itself_a_moment_later(name):
    wave, rate = recording(f"female/{name}")
    late = np.pad(wave, (round(0.0025 * rate), 0))
    found = metrics.estimate_f0_range([metrics.voiced_f0(wave, rate)])
    narrow, wide = (
        metrics.score_pair(late, rate, wave, rate, f0_min=low, f0_max=high).f0_corr
        for low, high in ((found.minimum, found.maximum), (40.0, 800.0))
    )
    assert narrow > max(0.9, wide + 0.02)


def test_the_estimated_range_stays_within_what_voices_do():
    assert metrics.estimate_f0_range([np.full(10, 60.0)]).minimum == 40.0
    assert metrics.estimate_f0_range([np.full(10, 700.0)]).maximum == 800.0


def test_a_range_cannot_be_estimated_without_voice():
    with pytest.raises(DataError, match="no voiced frames"):
        metrics.estimate_f0_range([metrics.voiced_f0(np.zeros(RATE), RATE)])


def test_the_quick_estimator_finds_the_pitch_of_a_tone():
    assert np.median(metrics.voiced_f0(buzz(210), RATE)) == pytest.approx(210, rel=0.01)


def test_the_recipes_speakers_have_the_recipes_ranges():
    assert metrics.recipe_f0_range("Female") == metrics.F0Range(90, 440, "recipe's range for female")
    assert metrics.recipe_f0_range("somebody") is None
