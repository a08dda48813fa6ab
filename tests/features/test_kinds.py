import dataclasses
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import librosa
import numpy as np
import pytest
import pyworld
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aasvc_cli.audio.mel import log_mel, mel_basis, n_frames
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.settings import Config, FeatureConfig, McepConfig, MelConfig, ModelConfig, WhisperConfig
from aasvc_cli.errors import ConfigError, DataError, MissingExtraError
from aasvc_cli.features.kinds import (
    KINDS,
    FeatureKind,
    extract,
    feature_key,
    feature_keys,
    feature_width,
    mcep,
    readable_keys,
    unavailable_kinds,
    with_widths,
)
from aasvc_cli.features.speech_encoders import BUNDLES
from aasvc_cli.features.stats import FeatureStats, NormStats, RunningStats
from tests.examples import examples

DATA = Path(__file__).parents[1] / "assets"
MEL_24K = MelConfig()
MEL_48K = MelConfig(sample_rate=48000, n_fft=2048, hop_length=512)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "features.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def recording(golden: dict[str, np.ndarray]) -> np.ndarray:
    wave, rate = soundfile.read(DATA / f"male_{golden['utterance']}.flac", dtype="float32")
    assert rate == 24000
    return wave


def librosa_log_mel(wave: np.ndarray, config: MelConfig) -> np.ndarray:
    """The recipe in librosa's words."""
    mel = librosa.feature.melspectrogram(
        y=wave,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=1.0,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
    ).T
    return np.log(np.maximum(1e-10, mel)) / (np.log(config.log_base) if config.log_base else 1.0)


class TestLogMel:
    def test_equals_the_published_features_at_24_khz(self, golden, recording):
        assert np.abs(log_mel(recording, MEL_24K) - golden["mel_24k"]).max() <= 1e-5

    def test_equals_the_published_features_at_48_khz_even_in_bands_without_energy(self, golden):
        assert np.abs(log_mel(golden["wave_48k"], MEL_48K) - golden["mel_48k"]).max() <= 1e-5

    @pytest.mark.filterwarnings("ignore::UserWarning")  # librosa: n_fft is too large, empty filters
    @examples(60)
    @given(
        length=st.integers(1, 9000),
        half_fft=st.sampled_from([8, 100, 128, 256, 500]),
        hop_share=st.floats(0.05, 1.0),
        window_share=st.none() | st.floats(0.1, 1.0),
        n_mels=st.integers(4, 90),
        sample_rate=st.sampled_from([8000, 16000, 22050, 44100]),
        band=st.tuples(st.floats(0.0, 0.4), st.none() | st.floats(0.5, 1.0)),
        log_base=st.sampled_from([10.0, 2.0, None, 3.0]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_equals_librosa_for_any_settings_and_length(
        self, length, half_fft, hop_share, window_share, n_mels, sample_rate, band, log_base, seed
    ):
        n_fft = 2 * half_fft
        config = MelConfig(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=max(1, int(n_fft * hop_share)),
            win_length=None if window_share is None else max(2, int(n_fft * window_share)),
            n_mels=n_mels,
            fmin=band[0] * sample_rate / 2,
            fmax=None if band[1] is None else band[1] * sample_rate / 2,
            log_base=log_base,
        )
        wave = np.random.default_rng(seed).normal(size=length).astype(np.float32) * 0.1
        ours = log_mel(wave, config)
        assert ours.dtype == np.float32
        assert ours.shape == (1 + length // config.hop_length, n_mels)
        expected = librosa_log_mel(wave, config)
        if (
            n_fft - config.hop_length <= half_fft
        ):  # what librosa cuts out for its last frame is too short to be reflected
            ours, expected = ours[:-1], expected[:-1]
        np.testing.assert_allclose(ours, expected, atol=2e-5)

    @pytest.mark.parametrize("config", [MEL_24K, MEL_48K, MelConfig(n_fft=512, fmin=80.0, fmax=7600.0)])
    def test_filters_equal_those_of_librosa(self, config):
        expected = librosa.filters.mel(
            sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax
        )
        np.testing.assert_allclose(mel_basis(config), expected, atol=1e-8)

    def test_silence_is_the_floor(self):
        np.testing.assert_allclose(log_mel(np.zeros(5000, np.float32), MEL_24K), -10.0, atol=1e-6)

    def test_does_not_change_its_input(self, recording):
        copy = recording.copy()
        log_mel(recording, MEL_24K)
        np.testing.assert_array_equal(recording, copy)

    def test_a_recording_without_samples_is_refused(self):
        with pytest.raises(DataError, match="without samples"):
            log_mel(np.zeros(0, np.float32), MEL_24K)


class TestMcep:
    @pytest.mark.parametrize(
        ("rate", "fft_size", "alpha"), [(16000, 1024, 0.41), (24000, 1024, 0.466), (48000, 2048, 0.554)]
    )
    def test_is_the_warped_cepstrum_of_the_world_envelope(self, recording, rate, fft_size, alpha):
        """pysptk warps the envelope, with the FFT size and the constant that belong to the rate."""
        pysptk = pytest.importorskip("pysptk")
        hop = rate // 100
        config = FeatureConfig(mel=MelConfig(sample_rate=rate, hop_length=hop, n_fft=1024))
        wave = resample(recording[:24000], 24000, rate)
        signal = wave.astype(np.float64)
        times = np.arange(1 + len(wave) // hop) / 100
        rough, rough_times = pyworld.dio(signal, rate, f0_floor=71.0, f0_ceil=800.0, frame_period=10.0)
        f0 = pyworld.stonemask(signal, rough, rough_times, rate)
        assert len(f0) == len(times)
        envelope = pyworld.cheaptrick(signal, f0, times, rate, f0_floor=71.0, fft_size=fft_size)
        expected = pysptk.sp2mc(envelope + 1e-12, 39, alpha)
        np.testing.assert_allclose(mcep(wave, config), expected, atol=1e-3)  # WORLD adds a little noise of its own

    @examples(25)
    @given(
        length=st.integers(1, 6000),
        hop=st.sampled_from([80, 101, 256, 300]),
        rate=st.sampled_from([16000, 22050, 48000]),
    )
    def test_has_as_many_frames_as_the_mel(self, length, hop, rate):
        config = FeatureConfig(mel=MelConfig(sample_rate=rate, hop_length=hop))
        wave = np.sin(np.arange(length) * (2 * np.pi * 150 / rate)).astype(np.float32)
        cepstrum = mcep(wave, config)
        assert cepstrum.shape == (len(log_mel(wave, config.mel)), 40) == (n_frames(length, hop), 40)
        assert np.isfinite(cepstrum).all()

    def test_digital_silence_is_finite(self):
        assert np.isfinite(mcep(np.zeros(4000, np.float32), FeatureConfig())).all()


def changed(config):
    """Every configuration that differs from this one in a single value."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        for other in {str: [], type(None): [123], int: [2 * (value or 1)], float: [(value or 1.0) * 0.5]}[type(value)]:
            yield f.name, dataclasses.replace(config, **{f.name: other})


class TestKinds:
    """The registry."""

    @pytest.fixture
    def ramp(self, monkeypatch):
        """A kind that is the time in seconds, at 50 frames a second."""
        kind = FeatureKind(
            extract=lambda wave, config: np.arange(1 + len(wave) * 50 // config.mel.sample_rate)[:, None] / 50,
            width=lambda _: 1,
            settings=lambda _: {},
            frames_per_second=lambda _: 50,
            packages=("no_such_package",),
            extra="ramp",
        )
        monkeypatch.setitem(KINDS, "ramp", kind)
        return kind

    @pytest.mark.parametrize("length", [1, 255, 256, 24000, 30001])
    def test_a_kind_with_a_frame_rate_of_its_own_is_brought_to_the_frames_of_the_mel(self, ramp, length):
        times = extract("ramp", np.zeros(length, np.float32), FeatureConfig())
        expected = np.arange(n_frames(length, 256)) * 256 / 24000
        np.testing.assert_allclose(times[:, 0], np.minimum(expected, length * 50 // 24000 / 50), atol=1e-6)
        assert times.dtype == np.float32

    def test_a_missing_package_is_named_with_the_extra_that_brings_it(self, ramp, monkeypatch):
        def fail(wave, config):
            raise ModuleNotFoundError("No module named 'no_such_package'")

        monkeypatch.setitem(KINDS, "ramp", dataclasses.replace(ramp, extract=fail))
        with pytest.raises(MissingExtraError, match=r"ramp needs no_such_package .* pip install 'aasvc\[ramp\]'"):
            extract("ramp", np.zeros(300, np.float32), FeatureConfig())
        assert unavailable_kinds()["ramp"] == "ramp"

    def test_widths_are_written_into_the_model(self):
        config = Config(features=FeatureConfig(source="mcep", mcep=McepConfig(order=24)))
        model = with_widths(config).model
        assert (model.source_dim, model.target_dim, model.duration_dim) == (25, 80, 80)
        assert with_widths(with_widths(config)) == with_widths(config)
        with pytest.raises(ConfigError, match=r"model\.source_dim: 81, but features\.source is mcep with 25 channels"):
            with_widths(dataclasses.replace(config, model=dataclasses.replace(config.model, source_dim=81)))

    @pytest.mark.parametrize("kind", ["content_f0", "whisper_f0", "content"])
    def test_only_what_has_a_melody_can_be_heard_without_one(self, kind):
        config = Config(features=FeatureConfig(source=kind), model=ModelConfig(source_melody=False))
        assert with_widths(config).model.source_melody is (kind == "content")


class TestFeatureKey:
    def test_every_setting_of_the_mel_counts(self):
        keys = {feature_key("mel", FeatureConfig())}
        variants = list(changed(MelConfig()))
        assert {name for name, _ in variants} == {f.name for f in dataclasses.fields(MelConfig)}
        keys |= {feature_key("mel", FeatureConfig(mel=mel)) for _, mel in variants}
        assert len(keys) == 1 + len(variants)

    def test_every_setting_of_the_mcep_counts(self):
        variants = [McepConfig(), *(each for _, each in changed(McepConfig()))]
        assert len({feature_key("mcep", FeatureConfig(mcep=each)) for each in variants}) == len(variants) == 4

    def test_settings_of_the_same_meaning_have_the_same_key(self):
        spelt_out = FeatureConfig(mel=MelConfig(win_length=1024, fmax=12000.0))
        assert feature_key("mel", spelt_out) == feature_key("mel", FeatureConfig())

    def test_settings_that_do_not_matter_to_a_kind_do_not_count(self):
        other_mel = FeatureConfig(mel=MelConfig(n_mels=40))
        other_mcep = FeatureConfig(mcep=McepConfig(order=24))
        assert feature_key("mcep", other_mel) == feature_key("mcep", FeatureConfig())
        assert feature_key("mel", other_mcep) == feature_key("mel", FeatureConfig())
        assert feature_key("mcep", FeatureConfig(mel=MelConfig(hop_length=300))) != feature_key("mcep", FeatureConfig())

    def test_kinds_and_versions_differ(self, monkeypatch, tmp_path):
        for name in ("model.bin", "tokenizer.json"):
            (tmp_path / name).touch()
        monkeypatch.setattr("aasvc_cli.features.speech_encoders.weights_of", lambda _: "0" * 16)
        config = FeatureConfig(whisper=WhisperConfig(model=str(tmp_path)))
        keys = {feature_key(kind, config) for kind in KINDS}
        for kind, spec in list(KINDS.items()):
            monkeypatch.setitem(KINDS, kind, dataclasses.replace(spec, version=spec.version + 1))
        keys |= {feature_key(kind, config) for kind in KINDS}
        assert len(keys) == 2 * len(KINDS)
        assert all(len(key) == 12 and int(key, 16) >= 0 for key in keys)

    def test_every_kind_has_the_width_that_the_configuration_says(self, recording):
        elsewhere = {
            "whisper",
            "whisper_f0",
            "folder",
            *BUNDLES,
        }  # need what is not there; in the tests of their modules
        for kind in KINDS.keys() - elsewhere:
            config = FeatureConfig(mcep=McepConfig(order=24))
            assert extract(kind, recording[:6000], config).shape[1] == feature_width(kind, config)

    def test_sides_have_the_keys_of_their_kinds(self):
        config = FeatureConfig(source="mcep")
        keys = feature_keys(config)
        assert keys == {
            "source": feature_key("mcep", config),
            "target": keys["duration"],
            "duration": feature_key("mel", config),
        }

    def test_what_reads_a_kind_reads_those_that_imitate_it(self):
        one, other = (FeatureConfig(source=kind, duration=kind) for kind in ("content_f0", "whisper_f0"))
        assert readable_keys(other) == readable_keys(one) == feature_keys(one)
        assert {kind for kind, spec in KINDS.items() if spec.reads_as} == {"whisper_f0"}
        widths = {feature_width(kind, one) for kind in ("content_f0", "whisper_f0")}
        assert len(widths) == 1


def two_pass(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation without any rounding but the last."""
    means, scales = [], []
    for column in frames.T:
        exact = [Fraction(float(value)) for value in column]
        mean = sum(exact) / len(exact)
        means.append(float(mean))
        scales.append(float(sum((value - mean) ** 2 for value in exact) / len(exact)) ** 0.5)
    return np.array(means), np.array(scales)


def merged(pieces: list[np.ndarray], order: list[int]) -> RunningStats:
    """Pieces in the given order."""
    whole = RunningStats()
    for index in order:
        whole.update(pieces[index])
    return whole


class TestRunningStats:
    @examples(60)
    @given(
        frames=hnp.arrays(
            np.float32,
            st.tuples(st.integers(2, 40), st.integers(1, 3)),
            # values whose mean float32 could not hold are not features
            elements=st.floats(-1e4, 1e4, width=32).map(lambda value: value if abs(value) > 1e-20 else 0.0),
        ),
        data=st.data(),
    )
    def test_any_split_in_any_order_gives_the_exact_result(self, frames, data):
        cuts = sorted(data.draw(st.lists(st.integers(0, len(frames)), max_size=5)))
        pieces = np.split(frames, cuts)  # some of them empty
        order = data.draw(st.permutations(range(len(pieces))))
        result = merged(pieces, order).result()
        mean, scale = two_pass(frames)
        assert result.n_frames == len(frames)
        np.testing.assert_allclose(result.mean, mean, rtol=1e-6, atol=1e-9 * np.abs(frames).max())
        for ours, exact in zip(result.scale, scale, strict=True):
            if exact > 1e-7 * np.abs(frames).max():
                assert ours == pytest.approx(exact, rel=1e-6)
            elif exact == 0:
                assert ours == 1.0

    def test_the_range_is_that_of_all_pieces_and_limits_what_lies_outside(self):
        frames = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)
        stats = merged(np.split(frames, [7, 7, 31]), [3, 0, 2, 1]).result()
        np.testing.assert_array_equal(stats.low, frames.min(axis=0))
        np.testing.assert_array_equal(stats.high, frames.max(axis=0))
        np.testing.assert_array_equal(stats.limit(frames), frames)
        np.testing.assert_array_equal(stats.limit(frames * 0 + 99), np.broadcast_to(stats.high, frames.shape))
        again = FeatureStats.from_tree(stats.to_tree(), "here")
        np.testing.assert_array_equal(again.limit(frames * 9), stats.limit(frames * 9))
        unknown = FeatureStats(stats.mean, stats.scale, 1)
        np.testing.assert_array_equal(unknown.limit(frames * 9), frames * 9)
        with pytest.raises(DataError, match="low and high"):
            FeatureStats.from_tree(stats.to_tree() | {"low": [0.0]}, "here")

    def test_a_huge_offset_does_not_cancel_a_small_variance(self):
        noise = np.random.default_rng(0).integers(-3, 4, size=(5000, 2)) * 2.0**-10
        frames = 2.0**30 + noise  # exact in float64, hopeless for sums of squares
        running = RunningStats()
        for piece in np.array_split(frames, 37):
            running.update(piece)
        np.testing.assert_allclose(running.result().scale, noise.std(axis=0), rtol=1e-5)

    def test_a_constant_dimension_has_scale_one(self):
        frames = np.random.default_rng(2).normal(size=(3001, 3)).astype(np.float32)
        frames[:, 1] = 0.1
        running = RunningStats()
        for piece in np.array_split(frames, 7):
            running.update(piece)
        result = running.result()
        assert result.scale[1] == 1.0
        assert (result.scale[[0, 2]] != 1.0).all()

    def test_agrees_with_the_scaler_that_the_published_statistics_come_from(self):
        """scikit-learn's StandardScaler, fitted piece by piece."""
        preprocessing = pytest.importorskip("sklearn.preprocessing")
        rng, scaler, running = np.random.default_rng(3), preprocessing.StandardScaler(), RunningStats()
        for length in (200, 1, 17, 950):
            piece = rng.normal(rng.normal(0, 4), 1.5, size=(length, 5)).astype(np.float32)
            piece[:, 4] = 2.5
            scaler.partial_fit(piece)
            running.update(piece)
        np.testing.assert_allclose(running.result().mean, scaler.mean_, rtol=1e-6)
        np.testing.assert_allclose(running.result().scale, scaler.scale_, rtol=1e-6)

    def test_nothing_seen_is_an_error(self):
        running = RunningStats()
        running.update(np.zeros((0, 3), np.float32))
        with pytest.raises(DataError, match="no frames"):
            running.result()

    def test_other_widths_are_refused(self):
        running = RunningStats()
        running.update(np.zeros((2, 3), np.float32))
        with pytest.raises(DataError, match="4 dimensions cannot join others of 3"):
            running.update(np.zeros((2, 4), np.float32))


def some_stats(width: int, seed: int = 0) -> FeatureStats:
    rng = np.random.default_rng(seed)
    return FeatureStats(rng.normal(size=width).astype(np.float32), rng.uniform(0.1, 3, width).astype(np.float32), 123)


class TestStatsTrees:
    def test_normalising_is_the_plain_formula_in_float32(self):
        stats, feature = some_stats(5), np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
        normalised = stats.normalise(feature)
        assert normalised.dtype == np.float32
        np.testing.assert_array_equal(normalised, (feature - stats.mean) / stats.scale)
        np.testing.assert_allclose(stats.denormalise(normalised), feature, atol=1e-6)

    def test_survive_json_exactly(self):
        sides = ("source", "target", "duration")
        stats = NormStats(
            some_stats(4, 1),
            some_stats(5, 2),
            some_stats(6, 3),
            dict.fromkeys(sides, "mel"),
            dict.fromkeys(sides, "ab12"),
            "a",
        )
        again = NormStats.from_tree(json.loads(json.dumps(stats.to_tree())), "file")
        assert (again.kinds, again.keys, again.origin) == (stats.kinds, stats.keys, "a")
        for side in sides:
            one, other = getattr(stats, side), getattr(again, side)
            np.testing.assert_array_equal(one.mean, other.mean)
            np.testing.assert_array_equal(one.scale, other.scale)
            assert one.n_frames == other.n_frames

    @pytest.mark.parametrize(
        "change",
        [
            {"mean": [1.0]},
            {"scale": [1.0, 0.0]},
            {"scale": [1.0, None]},
            {"mean": [float("nan"), 1.0]},
            {"mean": "ab"},
            {"n_frames": "many"},
            {"mean": [], "scale": []},
        ],
    )
    def test_impossible_statistics_are_refused_by_file_name(self, change):
        good = {"mean": [0.0, 1.0], "scale": [1.0, 2.0], "n_frames": 3}
        FeatureStats.from_tree(good, "stats.json")
        with pytest.raises(DataError, match=r"^stats\.json: "):
            FeatureStats.from_tree(good | change, "stats.json")

    @pytest.mark.parametrize("tree", [None, [], {}, {"source": {}}, "text"])
    def test_trees_of_another_kind_are_refused(self, tree):
        with pytest.raises(DataError, match="aasvc stats"):
            NormStats.from_tree(tree, "stats.json")


@pytest.mark.process
def test_features_of_mels_load_neither_torch_nor_librosa_nor_scipy():
    code = (
        "import sys, numpy; from aasvc_cli.pipeline import prepare; from aasvc_cli.audio.mel import log_mel;"
        "from aasvc_cli.config.settings import MelConfig; log_mel(numpy.zeros(3000, 'f4'), MelConfig());"
        "print(*{'torch', 'torchaudio', 'librosa', 'numba', 'scipy', 'pyworld', 'pysptk'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.split() == []
