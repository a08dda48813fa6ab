"""Recordings of the target without a partner: they are learnt from with changed copies of themselves."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.config.reading import override, parse_config
from aasvc_cli.config.settings import Config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.data.dataset import pair_batches
from aasvc_cli.data.manifest import Manifest, read_manifest
from aasvc_cli.data.reconstruction import EXTRA, SHORTEST_PIECE, _spans
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.pipeline.train import train
from aasvc_cli.storage.home import Home


@pytest.fixture(scope="module")
def config(tiny_conf: Path) -> Config:
    plain = parse_config(read_config_file(tiny_conf), str(tiny_conf))
    return with_widths(override(plain, {"features.source": "content", "features.duration": "content"}))


@pytest.fixture(scope="module")
def alone(demo_corpus: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two more sentences of the target, one of which is there twice, and three that have a partner."""
    folder = tmp_path_factory.mktemp("alone")
    more = sorted((demo_corpus / "female/wav/train_parallel").iterdir())[6:8]
    paired = [sorted((small_corpus / "female/wav" / name).iterdir())[0] for name in ("train_parallel", "dev", "eval")]
    for path in [*more, *paired]:
        shutil.copy(path, folder)
    shutil.copy(more[0], folder / f"again{more[0].suffix}")
    return folder


@pytest.fixture(scope="module")
def once(config: Config, small_corpus: Path, alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A data folder in which all of it is prepared; not to be changed."""
    home = Home(tmp_path_factory.mktemp("once") / "home")
    prepared(home, config, small_corpus, alone)
    return home


@pytest.fixture
def manifest(once: Home) -> Manifest:
    return read_manifest(once)


@pytest.fixture
def filled(once: Home, home: Home) -> Home:
    """The data folder of this test, in which all of it is prepared."""
    shutil.copytree(once.root, home.root)
    return home


def samples(path: Path) -> bytes:
    return soundfile.read(path, dtype="int16")[0].tobytes()


def prepared(home: Home, config: Config, corpus: Path, alone: Path | None, **more: object) -> Manifest:
    report = prepare(home, config, PrepareOptions(corpus=corpus, extra_target=alone, jobs=1, **more))
    return read_manifest(home, report.name)


class TestPairs:
    def test_they_are_of_what_has_no_partner_and_of_the_training_targets(self, manifest, alone):
        heard = {pair.target for pair in manifest.extra}
        assert {pair.target for pair in manifest.sets["train"]} <= heard
        others = [pair.target for pair in manifest.alone]
        assert sorted(samples(path) for path in others) == sorted(
            {samples(path) for path in alone.iterdir()}
            - {samples(pair.target) for pairs in manifest.sets.values() for pair in pairs}
        )

    def test_no_sentence_that_is_measured_on_is_among_them(self, manifest):
        measured = {samples(pair.target) for name in ("dev", "eval") for pair in manifest.sets[name]}
        assert not measured & {samples(pair.target) for pair in manifest.extra}

    def test_sources_are_other_samples_and_exist(self, manifest):
        for pair in manifest.extra:
            assert samples(pair.source) != samples(pair.target)
            assert pair.source_frames > 0 < pair.target_frames

    def test_true_pairs_are_half_of_what_is_learnt_from(self, manifest):
        pairs = [*manifest.sets["train"], *manifest.extra]
        batches = pair_batches(pairs, 2, seed=1, epoch=1, bucket=True, max_frames=None, processes=1)
        heard = [pairs[index].speaker for batch in batches for index in batch]
        assert heard.count(EXTRA) == heard.count("")


def test_the_target_of_a_pair_whose_words_differ_is_learnt_from(home, config, small_corpus, tmp_path, monkeypatch):
    target = small_corpus / "female/wav"
    shutil.copytree(target, tmp_path / "corner/target")
    monkeypatch.chdir(tmp_path / "corner")  # paths may be given from where one is
    names = sorted((target / "train_parallel").iterdir())[:1]
    (tmp_path / "drop.txt").write_text("".join(f"{path.stem}\n" for path in names))
    manifest = prepared(home, config, small_corpus, Path("target"), drop=str(tmp_path / "drop.txt"))
    assert [samples(pair.target) for pair in manifest.alone] == [samples(path) for path in names]
    assert all(pair.target.is_absolute() for pair in manifest.extra)


def test_statistics_and_sets_are_those_without_them_and_a_voice_learns(filled, config, small_corpus, manifest):
    statistics = compute_stats(filled).path.read_text()
    result = train(filled, override(read_manifest(filled).config, {"train.max_steps": 1}), tag="more")
    assert result.step == 1
    without = prepared(filled, config, small_corpus, None)
    assert without.sets == read_manifest(filled).sets and not without.extra
    assert compute_stats(filled).path.read_text() == statistics


def test_what_is_there_is_not_made_again(filled, config, small_corpus, alone):
    first = read_manifest(filled)
    times = {pair.source: pair.source.stat().st_mtime_ns for pair in first.extra}
    assert prepared(filled, config, small_corpus, alone) == first
    assert {path: path.stat().st_mtime_ns for path in times} == times
    next(iter(times)).write_bytes(b"damaged")
    assert prepared(filled, config, small_corpus, alone) == first
    soundfile.read(next(iter(times)))


def test_long_ones_are_cut_at_pauses_and_all_are_brought_to_the_usual_level(
    home, config, small_corpus, demo_corpus, tmp_path
):
    parts = [soundfile.read(path) for path in sorted((demo_corpus / "female/wav/train_parallel").iterdir())[6:8]]
    rate = parts[0][1]
    whole = np.concatenate([each for wave, _ in parts for each in (wave, np.zeros(rate))])
    (tmp_path / "long").mkdir()
    soundfile.write(tmp_path / "long/story.wav", 0.1 * whole, rate, subtype="FLOAT")
    longest = 1.05 * max(len(wave) for wave, _ in parts) / rate
    manifest = prepared(home, config, small_corpus, tmp_path / "long", max_seconds=longest, loudness=True)

    def level(path: Path) -> float:
        wave, rate = soundfile.read(path)
        return float(pyloudnorm.Meter(rate).integrated_loudness(wave))

    usual = np.median([level(pair.target) for pair in manifest.sets["train"]])
    assert len(manifest.alone) >= 2
    for pair in manifest.alone:
        assert max(pair.target_seconds, pair.source_seconds) <= longest + 0.01
        assert level(pair.target) == pytest.approx(usual, abs=2.0)


@given(
    st.lists(st.floats(0.05, 4.0), min_size=2, max_size=30),
    st.floats(SHORTEST_PIECE, 8.0),
)
def test_pieces_are_short_enough_apart_and_end_at_pauses(lengths, longest):
    edges = np.cumsum([0.0, *lengths])
    pauses = [(edges[i], edges[i + 1]) for i in range(1, len(edges) - 2, 2)]  # speech and pauses in turn
    pieces = list(_spans(0.0, edges[-1], pauses, longest))
    ends = {0.0, edges[-1], *(edge for pause in pauses for edge in pause)}
    for start, stop in pieces:
        assert SHORTEST_PIECE <= stop - start <= longest
        assert {start, stop} <= ends
    assert all(one[1] <= other[0] for one, other in pairwise(pieces))


class TestRefusals:
    def test_features_that_hold_the_speaker(self, home, small_corpus, tiny_conf, alone):
        plain = with_widths(parse_config(read_config_file(tiny_conf), str(tiny_conf)))
        with pytest.raises(DataError, match="features.source is mel; add: --src-feat content_f0 --dp-feat content_f0"):
            prepared(home, plain, small_corpus, alone)

    @pytest.mark.parametrize(("name", "says"), [("none", "no such folder"), ("empty", "holds no recordings")])
    def test_a_folder_without_recordings(self, home, config, small_corpus, tmp_path, name, says):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=rf"{name}: {says} \(--extra-target\)"):
            prepared(home, config, small_corpus, tmp_path / name)
        assert not home.prepared.exists()
