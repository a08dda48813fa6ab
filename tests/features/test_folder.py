"""Features that another program wrote: found, checked, and used from ``prepare`` to ``convert``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from aasvc_cli.config.settings import Config, FeatureConfig, FolderConfig, ModelConfig
from aasvc_cli.conversion.converter import Converter, ConvertOptions
from aasvc_cli.data.analysis import Bench, Excerpt, Job, analyse
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.errors import DataError
from aasvc_cli.features.folder import part, read_description, read_features
from aasvc_cli.features.kinds import at_frames, feature_faults, feature_key, storage_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.convert import LoadOptions, convert_files
from aasvc_cli.published.voices import config_from_published
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.result_cache import ResultCache

ASSETS = Path(__file__).parents[1] / "assets"
RATE = 100.0


def write_folder(folder: Path, *, name: str = "ppg", channels: int = 8, rate: float = RATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    described = {"name": name, "channels": channels, "frames_per_second": rate}
    (folder / "features.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def posteriorgram(seconds: float, channels: int = 8, rate: float = RATE) -> np.ndarray:
    """Shares of phones that change from one to the next, as a recogniser would write them."""
    times = np.arange(round(seconds * rate))[:, None] / rate
    logits = 3.0 * np.sin(2.0 * np.pi * (times * (1.0 + np.arange(channels)) / 3.0))
    shares = np.exp(logits)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def config_of(folder: Path | None, **folder_settings: object) -> FeatureConfig:
    settings = {"name": "ppg", "channels": 8, "frames_per_second": RATE} | folder_settings
    return FeatureConfig(source="folder", folder=FolderConfig(path=folder and str(folder), **settings))


class TestFinding:
    def test_the_longest_path_that_is_there_counts(self, tmp_path):
        folder = write_folder(tmp_path / "ppg")
        recording = tmp_path / "anna" / "wav" / "a.flac"
        for index, place in enumerate(["a.npy", "wav/a.npy", "anna/wav/a.npy"]):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / place, np.full((10, 8), index))
            assert read_features(config_of(folder), recording)[0][0, 0] == index

    def test_beside_the_recording_goes_before_the_folder_and_what_is_given_before_both(self, tmp_path):
        folder, other = write_folder(tmp_path / "ppg"), write_folder(tmp_path / "other", rate=25.0)
        recording = tmp_path / "a.wav"
        for index, path in enumerate([folder / "a.npy", tmp_path / "a.npy", other / "a.npy"]):
            np.save(path, np.full((10, 8), index))
        config = config_of(folder)
        assert read_features(config, recording)[0][0, 0] == 1
        assert read_features(config, recording, place=other)[0][0, 0] == 2
        assert read_features(config, recording, place=other)[1] == 25.0
        assert read_features(config, recording, place=folder / "a.npy")[0][0, 0] == 0

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((10, 5)), r"a\.npy: has shape \(10, 5\) of float64, expected \(frames, 8\)"),
            (np.zeros((6,)), r"a\.npy: has shape \(6,\)"),
            (np.zeros((0, 8)), r"a\.npy: has shape \(0, 8\)"),
            (np.zeros((10, 8), dtype=complex), r"a\.npy: has shape \(10, 8\) of complex128"),
            (np.full((100, 8), np.nan), r"a\.npy: holds values that are not numbers"),
            (np.zeros((160, 8)), r"a\.npy: has 160 frames, 1\.60 s at 100 a second, but .*a\.wav lasts 1\.00 s"),
            (np.array([{}] * 6, dtype=object), r"a\.npy: expected an array \(frames, channels\) of NumPy, but"),
        ],
    )
    def test_what_does_not_fit_is_one_line_that_names_the_file(self, tmp_path, array, message):
        folder = write_folder(tmp_path / "ppg")
        np.save(folder / "a.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=message) as caught:
            read_features(config_of(folder), tmp_path / "a.wav", 1.0)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("n_frames", [97, 98, 100, 103])
    def test_extractors_may_differ_by_some_frames_at_the_end(self, tmp_path, n_frames):
        folder = write_folder(tmp_path / "ppg")
        np.save(folder / "a.npy", np.zeros((n_frames, 8), np.float16))
        values, rate = read_features(config_of(folder), tmp_path / "a.wav", 1.0)
        assert values.shape == (n_frames, 8) and values.dtype == np.float32 and rate == RATE

    def test_what_is_missing_is_named(self, tmp_path):
        folder = write_folder(tmp_path / "ppg")
        recording = tmp_path / "a.wav"
        with pytest.raises(DataError, match=r"a\.wav: no features of it in .*ppg; expected a\.npy"):
            read_features(config_of(folder), recording)
        with pytest.raises(DataError, match=r"a\.wav: its features \(ppg\) are needed.* put a\.npy beside it"):
            read_features(config_of(None), recording)
        with pytest.raises(DataError, match="gone: no such folder of features"):
            read_features(config_of(folder), recording, place=tmp_path / "gone")

    @pytest.mark.parametrize(("what", "value"), [("name", "hubert"), ("channels", 7)])
    def test_another_kind_of_features_is_refused(self, tmp_path, what, value):
        folder = write_folder(tmp_path / "ppg", **{what: value})
        with pytest.raises(DataError, match=rf"features\.json: {what} is {value}, expected (ppg|8)"):
            read_features(config_of(None), tmp_path / "a.wav", place=folder)

    @pytest.mark.parametrize(
        "text",
        ["{}", "[]", '{"name": "", "channels": 1, "frames_per_second": 1}', "?"]
        + [
            f'{{"name": "a", "channels": {c}, "frames_per_second": {r}}}'
            for c, r in ((0, 1), (1.5, 1), (1, 0), (1, "NaN"))
        ],
    )
    def test_a_description_of_no_sense_is_refused(self, tmp_path, text):
        write_folder(tmp_path)
        (tmp_path / "features.json").write_text(text)
        with pytest.raises(DataError, match=r"features\.json: expected"):
            read_description(tmp_path)


def test_a_part_is_that_of_its_seconds():
    frames = np.arange(100, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(part(frames, 100.0, 0.2, 0.3)[:, 0], np.arange(20, 31))
    assert len(part(frames, 100.0, 5.0, 6.0)) == 1, "never none at all"


def test_features_of_two_folders_are_stored_apart_but_fit_the_same_voice(tmp_path):
    one, other = config_of(tmp_path / "a"), config_of(tmp_path / "b", frames_per_second=50.0)
    assert feature_key("folder", one) == feature_key("folder", other)
    assert storage_key("folder", one) != storage_key("folder", other)
    assert feature_key("folder", one) != feature_key("folder", config_of(tmp_path / "a", name="hubert"))


def test_too_few_channels_for_the_duration_branch_are_refused_before_training():
    features = FeatureConfig(duration="folder", folder=FolderConfig(name="ppg", channels=6))
    (fault,) = feature_faults(Config(features=features))
    assert fault.startswith("features.duration: folder has 6 channels, fewer than the 7")
    assert not feature_faults(Config(features=features, model=ModelConfig(duration_input="tokens")))


@pytest.fixture(scope="module")
def small_corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus with a second and a half of each recording."""
    root = tmp_path_factory.mktemp("short") / "ja-JP"
    shutil.copytree(small_corpus, root)
    for path in root.rglob("*.wav"):
        wave, rate = soundfile.read(path)
        soundfile.write(path, wave[rate // 4 : rate * 7 // 4], rate)
    return root


@pytest.fixture
def ppg(small_corpus: Path, tmp_path: Path) -> Path:
    """Made-up posteriorgrams of the small corpus's source speaker."""
    folder = write_folder(tmp_path / "ppg")
    for path in (small_corpus / "male" / "wav").rglob("*.wav"):
        np.save(folder / f"{path.stem}.npy", posteriorgram(soundfile.info(path).duration))
    return folder


def test_prepare_stats_train_and_convert_work_on_a_folder(aasvc, small_corpus, tiny_conf, ppg, home, tmp_path):
    command = ["prepare", small_corpus, "--conf", tiny_conf, "--jobs", 1, "--src-feat", ppg, "--dp-feat", ppg]
    gone = next(ppg.glob("train*.npy"))
    kept = gone.read_bytes()
    gone.unlink()
    outcome = aasvc(*command)
    assert outcome.code == 0, outcome.err
    assert f"no features of it in {ppg}; expected {gone.name}" in outcome.out
    gone.write_bytes(kept)
    assert aasvc(*command).code == 0
    manifest = read_manifest(home)
    assert len(manifest.sets["train"]) == 6
    assert manifest.config.features.folder == FolderConfig(
        path=str(ppg), name="ppg", channels=8, frames_per_second=RATE
    )
    pair = manifest.sets["train"][0]
    stored = FeatureStore(home.features, manifest.config.features, storage_key).load("folder", pair.source)
    expected = at_frames(np.load(ppg / f"{pair.source.stem}.npy"), RATE, pair.source_frames, 16000 / 256)
    np.testing.assert_allclose(stored, expected, atol=1e-6)

    for arguments in (["stats"], ["train", "--tag", "ppg"], ["convert", "--set", "eval", "--model", "ppg"]):
        outcome = aasvc(*arguments)
        assert outcome.code == 0, outcome.err
    recording = shutil.copy(manifest.sets["eval"][0].source, tmp_path / "new.wav")
    outcome = aasvc("convert", recording, "-o", tmp_path / "out.wav", "--model", "ppg")
    assert outcome.code == 1 and "no features of it in" in outcome.err and "expected new.npy" in outcome.err
    np.save(tmp_path / "new.npy", np.load(ppg / f"{manifest.sets['eval'][0].source.stem}.npy"))
    for arguments in ([], ["--features", tmp_path / "new.npy"]):
        (tmp_path / "out.wav").unlink(missing_ok=True)
        assert aasvc("convert", recording, "-o", tmp_path / "out.wav", "--model", "ppg", *arguments).code == 0
        in_set = next((home.exp).rglob(f"converted/eval/{manifest.sets['eval'][0].utterance_id}.wav"))
        assert np.array_equal(*(soundfile.read(path)[0] for path in (tmp_path / "out.wav", in_set)))
    write_folder(ppg, name="hubert")
    outcome = aasvc("convert", recording, "-o", tmp_path / "out.wav", "--model", "ppg", "--features", ppg)
    assert outcome.code == 1 and "features.json: name is hubert, expected ppg" in outcome.err


def test_posteriorgrams_that_were_written_anew_are_taken_again(aasvc, small_corpus, tiny_conf, ppg, home):
    command = ["prepare", small_corpus, "--conf", tiny_conf, "--jobs", 1, "--src-feat", ppg, "--json", "-"]
    assert json.loads(aasvc(*command).out)["n_computed"] == 20
    assert json.loads(aasvc(*command).out)["n_computed"] == 0
    changed = next(ppg.glob("train*.npy"))
    np.save(changed, np.load(changed) * 0.5)
    assert json.loads(aasvc(*command).out)["n_computed"] == 1


def test_an_excerpt_of_a_recording_has_the_features_of_its_seconds(small_corpus, ppg, tmp_path):
    config = config_of(ppg)
    bench = Bench(FeatureStore(tmp_path / "features", config, storage_key), ResultCache(None), tmp_path / "excerpts")
    recording = max((small_corpus / "male" / "wav" / "dev").iterdir(), key=lambda path: path.stat().st_size)
    analysis = analyse(Job(recording, ("folder",), Excerpt(0.5, 1.0)), bench)
    assert analysis.path is not None and analysis.path != recording
    stored = bench.store.load("folder", analysis.path)
    whole = np.load(ppg / f"{recording.stem}.npy")
    expected = at_frames(whole[50:], RATE, 1 + 12000 // 256, 24000 / 256)
    np.testing.assert_allclose(stored, expected, atol=1e-6)


class TestPublishedPosteriorgrams:
    """The configuration ``aas_vc.ppgmelppg`` of the published recipe and a model that was trained with it."""

    FOLDER = ASSETS / "aasvc-ppg"

    def test_its_configuration_is_read(self):
        config = config_from_published(yaml.safe_load((self.FOLDER / "config.yml").read_text()), "config.yml")
        assert (config.features.source, config.features.duration, config.features.target) == ("folder", "folder", "mel")
        assert config.features.folder == FolderConfig(name="ppg_sxliu", channels=144)
        assert config.model.source_dim == config.model.duration_dim == 144

    def test_features_from_a_folder_give_the_published_result(self, tmp_path, monkeypatch):
        """Statistics are those of nothing to do, so that what the golden example was given can lie in the folder."""
        import h5py

        example = np.load(self.FOLDER / "example.npz")
        longest = int(np.argmax(example["ilens"]))
        source = example["xs"][longest, : example["ilens"][longest]]
        folder = write_folder(tmp_path / "ppg", name="ppg_sxliu", channels=144, rate=24000 / 256)
        np.save(folder / "a.npy", source)
        with h5py.File(tmp_path / "source.h5", "w") as stream:
            stream["ppg_sxliu_mean"], stream["ppg_sxliu_scale"] = np.zeros(144, "f4"), np.ones(144, "f4")
        converter = Converter.load(
            self.FOLDER, device="cpu", source_stats=tmp_path / "source.h5", vocoder="griffin-lim"
        )
        config = converter.voice.config.features
        given = read_features(config, tmp_path / "a.wav", place=folder)
        model = converter.voice.model
        heard: list[torch.Tensor] = []
        convert = model.convert_batch

        def listen(sources, durations, **settings):
            heard.extend([*sources, *durations])
            return convert(sources, durations, **settings)

        monkeypatch.setattr(model, "convert_batch", listen)
        seconds = (len(source) - 1) * 256 / 24000
        noise = np.random.default_rng(0).normal(0.0, 0.1, round(seconds * 24000)).astype(np.float32)
        result = converter.convert(noise, 24000, noise_scale=0.0, features=given)
        for side in heard:
            np.testing.assert_array_equal(side.numpy(), source)
        assert len(heard) == 2
        np.testing.assert_array_equal(result.durations, example["infer_noise0.0_durations"])
        stats = converter.voice.stats.target
        expected = stats.restore(example["infer_noise0.0_outs"])
        assert np.abs(result.log_mel - expected).max() <= 1e-5 * float(stats.scale.max()) + 1e-6

    def test_a_mel_does_not_go_over_the_features_it_is_made_of(self, tmp_path):
        folder = write_folder(tmp_path / "ppg", name="ppg_sxliu", channels=144, rate=24000 / 256)
        noise = np.random.default_rng(0).normal(0.0, 0.1, 24000).astype(np.float32)
        soundfile.write(tmp_path / "a.wav", noise, 24000)
        np.save(folder / "a.npy", np.zeros((94, 144), np.float32))
        before = (folder / "a.npy").read_bytes()
        load = LoadOptions(Home(tmp_path / "home"), self.FOLDER, "cpu", "griffin-lim", features=folder)
        summary = convert_files(load, [tmp_path / "a.wav"], output=tmp_path / "o.wav", save_mel=folder / "a.npy")
        assert "has the features of the recording" in str(summary.error)
        assert (folder / "a.npy").read_bytes() == before
        assert not (tmp_path / "o.wav").exists()

    def test_features_of_another_length_are_refused(self, tmp_path):
        converter = Converter.load(self.FOLDER, device="cpu", vocoder="griffin-lim")
        noise = np.random.default_rng(0).normal(0.0, 0.1, 24000).astype(np.float32)
        with pytest.raises(
            DataError, match=r"features: has 40 frames, 0\.40 s at 100 a second, but here lasts 1\.00 s"
        ):
            converter.convert(noise, 24000, name="here", features=(np.zeros((40, 144), np.float32), 100.0))
        with pytest.raises(DataError, match="ppg_sxliu are written by another program"):
            list(converter.stream(_Noise(noise), ConvertOptions()))


class _Noise:
    name, sample_rate = "noise", 24000

    def __init__(self, samples: np.ndarray):
        self.samples = samples

    def blocks(self):
        yield self.samples
