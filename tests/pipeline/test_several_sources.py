"""Several sources, one target: from recordings to scores per speaker."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import read_audio
from aasvc_cli.config.settings import Config, FeatureConfig, MelConfig
from aasvc_cli.data.manifest import ParallelPair, read_manifest
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import feature_key
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.prepare import PrepareOptions, PrepareReport, prepare
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home

RATE = 8000
CONFIG = Config(features=FeatureConfig(mel=MelConfig(sample_rate=RATE, n_fft=256, hop_length=64, n_mels=20)))


def put(folder: Path, names: list[str], level: float, seed: int) -> Path:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        noise = np.random.default_rng(100 * seed + index).uniform(-level, level, round((0.5 + 0.02 * seed) * RATE))
        soundfile.write(folder / f"{name}.wav", noise, RATE)
    return folder


NAMES = [f"s{index:02}" for index in range(12)]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Anna says all twelve sentences, Bob nine of them under names with a prefix, Tina is the target."""
    return {
        "anna": put(tmp_path / "anna", NAMES, 0.1, 1),
        "bob": put(tmp_path / "bob", [f"bob_{name}" for name in NAMES[:9]], 0.3, 2),
        "tina": put(tmp_path / "tina", NAMES, 0.2, 3),
    }


@pytest.fixture
def run(home: Home, folders: dict[str, Path]) -> Callable[..., PrepareReport]:
    def call(**arguments: object) -> PrepareReport:
        both = {"source": [folders["anna"], folders["bob"]], "target": folders["tina"], "jobs": 1}
        return prepare(home, CONFIG, PrepareOptions(**(both | arguments)))  # type: ignore[arg-type]

    return call


def pairs_of(home: Home, *sets: str) -> list[ParallelPair]:
    manifest = read_manifest(home)
    return [pair for name in sets or ("train", "dev", "eval") for pair in manifest.sets[name]]


def test_the_pairs_of_every_source_are_prepared_and_the_target_is_analysed_once(home, folders, run):
    report = run()
    assert (report.name, report.n_matched) == ("anna-bob_tina", 21)
    assert report.n_computed == 12 + 9 + 12
    assert report.n_pairs_of == {"anna": 12, "bob": 9}
    assert report.matched_by == {"path": 12, "affix": 9}
    seconds = [report.source_seconds, report.target_seconds]
    assert seconds == pytest.approx([12 * 0.52 + 9 * 0.54, 12 * 0.56]), "what the target says counts once"
    manifest = read_manifest(home)
    assert (manifest.source_speaker, manifest.target_speaker) == ("anna-bob", "tina")
    assert (manifest.source_root, *manifest.more_source_roots) == (folders["anna"], folders["bob"])
    assert Counter(pair.speaker for pair in pairs_of(home)) == {"anna": 12, "bob": 9}
    for pair in pairs_of(home):
        assert pair.utterance_id.startswith(f"{pair.speaker}/")
        assert folders[pair.speaker] in pair.source.parents


def test_a_sentence_is_in_one_set_whoever_says_it(home, run):
    run(dev="3", evaluation="2")
    places = defaultdict(set)
    for name in ("train", "dev", "eval"):
        for pair in pairs_of(home, name):
            places[pair.target].add(name)
    assert all(len(sets) == 1 for sets in places.values())
    assert Counter(next(iter(sets)) for sets in places.values()) == {"train": 7, "dev": 3, "eval": 2}


def test_lists_name_sentences(home, run, tmp_path):
    (tmp_path / "dev.txt").write_text("s01\ns10\n")
    run(dev=str(tmp_path / "dev.txt"))
    assert [pair.utterance_id for pair in pairs_of(home, "dev")] == ["anna/s01", "anna/s10", "bob/s01"]


def test_it_can_be_prepared_again_and_other_folders_are_refused(home, folders, run):
    run()
    before = read_manifest(home)
    assert run().n_computed == 0
    assert read_manifest(home) == before
    with pytest.raises(DataError, match="already stands for"):
        run(source=folders["anna"], name="anna-bob_tina")


def test_what_is_usual_depends_on_the_speaker(run):
    """Bob is three times as loud as Anna, so neither is called loud or quiet, and each is matched to the own level."""
    assert "level" not in run().counts


def test_a_set_of_one_source_says_nothing_of_speakers(home, folders, run):
    run(source=folders["anna"])
    tree = read_json(home.prepared / "anna_tina" / "manifest.json", "a manifest")
    assert "more_source_roots" not in tree
    assert all("speaker" not in pair for pairs in tree["sets"].values() for pair in pairs)
    compute_stats(home)
    assert "speakers" not in read_json(home.stats / "anna_tina" / "self.json", "statistics")


def test_statistics_are_those_of_each_speaker_and_of_all(home, run):
    run()
    path = compute_stats(home).path
    stats = NormStats.from_tree(read_json(path, "statistics"), str(path))
    store = FeatureStore(home.features, CONFIG.features, feature_key)
    frames = defaultdict(list)
    for pair in pairs_of(home, "train"):
        frames[pair.speaker].append(store.load("mel", pair.source))
    everything = [array for arrays in frames.values() for array in arrays]
    assert sorted(stats.speakers) == ["anna", "bob"]
    for found, arrays in ((stats.source, everything), *((stats.speakers[name], frames[name]) for name in frames)):
        joined = np.concatenate(arrays).astype(np.float64)
        np.testing.assert_allclose(found.mean, joined.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found.scale, joined.std(axis=0), rtol=1e-5)
        np.testing.assert_array_equal(found.low, joined.min(axis=0).astype(np.float32))
        np.testing.assert_array_equal(found.high, joined.max(axis=0).astype(np.float32))
        assert found.n_frames == len(joined)
        quartiles = [np.percentile(array, 75.0, axis=0) for array in arrays]
        np.testing.assert_allclose(found.likeness.typical, np.median(quartiles, axis=0), rtol=1e-5)
    assert abs(stats.speakers["anna"].mean - stats.speakers["bob"].mean).min() > 0.3, "a tenth and three tenths"


class TestCommands:
    """prepare, train, convert and evaluate, with a man, his quiet twin on the telephone, and a woman as target."""

    @pytest.fixture
    def learnt(self, aasvc, home: Home, small_corpus: Path, tiny_conf: Path, tmp_path: Path, monkeypatch) -> Home:
        monkeypatch.chdir(tmp_path)
        twin = tmp_path / "twin"
        for path in (small_corpus / "male" / "wav").rglob("*.*"):
            wave, rate = read_audio(path)
            place = twin / "wav" / path.parent.name / f"{path.stem}.wav"
            place.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(place, 0.02 * wave, rate)
        sources = ("--source", small_corpus / "male", "--source", twin, "--target", small_corpus / "female")
        outcome = aasvc("prepare", *sources, "--conf", tiny_conf, "--name", "two", "--jobs", 1)
        assert outcome.code == 0, outcome.err
        assert "10 of male, 10 of twin" in outcome.out
        Path("aasvc.yaml").write_text("train: {preview_every: 1, n_previews: 3}")
        assert aasvc("train", "--tag", "two").code == 0
        return home

    def most_typical(self, home: Home, run: Path, speaker: str) -> Path:
        """The training recording that is nearest to what is typical of its speaker."""
        own = NormStats.from_tree(read_json(run / "stats.json", "statistics"), "stats.json").speakers[speaker]
        manifest = read_manifest(home)
        store = FeatureStore(home.features, manifest.config.features, feature_key)

        def distance(pair: ParallelPair) -> float:
            quartile = np.percentile(store.load("mel", pair.source), 75.0, axis=0)
            return float((abs(quartile - own.likeness.typical) / own.scale).mean())

        pairs = [pair for pair in manifest.sets["train"] if pair.speaker == speaker]
        distances = [distance(pair) for pair in pairs]
        assert max(distances) == pytest.approx(own.likeness.reach, rel=1e-5)
        return pairs[distances.index(min(distances))].source

    def test_all_of_it(self, aasvc, learnt: Home, small_corpus: Path, tmp_path: Path):
        outcome = aasvc("convert", "--set", "eval", "--model", "two", "--jobs", 1)
        assert outcome.code == 0, outcome.err
        assert outcome.out.rstrip().endswith("eval")
        folder = learnt.exp / "male-twin_female_two"
        assert len(list((folder / "previews").glob("step-000002-*.wav"))) == 3, "of both speakers, in one folder"
        converted = folder / "converted" / "eval"
        names = sorted(path.relative_to(converted).as_posix() for path in converted.rglob("*.wav"))
        assert [name.split("/")[0] for name in names] == ["male", "male", "twin", "twin"]

        outcome = aasvc(
            "evaluate", "--model", "two", "--measures", "signal", "--jobs", 1, "--json", tmp_path / "s.json",
            "--report", tmp_path / "s.html",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        tree = json.loads((tmp_path / "s.json").read_text())
        assert list(tree["by_source"]) == ["male", "twin"]
        for speaker, summaries in tree["by_source"].items():
            values = [each["scores"]["MCD"] for each in tree["utterances"] if each["id"].startswith(f"{speaker}/")]
            assert len(values) == 2
            assert summaries["MCD"]["mean"] == pytest.approx(np.mean(values))
        assert 'id="speakers"' in (tmp_path / "s.html").read_text()
        table = outcome.out.split("mean by source speaker")[1].split()
        assert table[:3] == ["measure", "male", "twin"]

        known = aasvc(
            "convert", self.most_typical(learnt, folder, "male"), "-o", tmp_path / "known.wav", "--model", "two"
        )
        assert (known.code, "sounds like none" in known.err) == (0, False)
        soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(np.arange(32000)), 16000)
        new = aasvc("convert", tmp_path / "tone.wav", "-o", tmp_path / "new.wav", "--model", "two")
        assert new.code == 0 and (tmp_path / "new.wav").is_file()
        assert "sounds like none of the 2 speakers" in new.err
