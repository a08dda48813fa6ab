"""Features that are gone come back as they were, from the files that a manifest names."""

import shutil
from functools import partial

import numpy as np
import pytest

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.data.excerpts import kinds_of
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.data.restoring import restore_features
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import storage_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.workers import Workers, each_in_chunks

HERE = partial(each_in_chunks, Workers(1))


@pytest.fixture
def prepared(home, small_corpus, tiny_conf, tmp_path):
    """A prepared set of trimmed recordings of its own, and the store of its features."""
    corpus = shutil.copytree(small_corpus, tmp_path / "corpus")
    for recording in corpus.glob("*/wav/*/*.wav"):
        wave, rate = read_audio(recording)
        write_audio(recording, np.pad(wave, rate // 2), rate)
    config = parse_config(read_config_file(tiny_conf), "tiny")
    report = prepare(home, config, PrepareOptions(corpus=corpus, trim=True, jobs=1))
    manifest = read_manifest(home, report.name)
    return manifest, FeatureStore(home.features, config.features, storage_key)


def features(manifest, store):
    """Every feature that training reads, by file and kind."""
    found = {}
    for pair in [*manifest.sets["train"], *manifest.sets["dev"]]:
        for path, kinds in zip((pair.source, pair.target), kinds_of(manifest.config), strict=True):
            found |= {(path, kind): store.load(kind, path) for kind in kinds}
    return found


def test_features_come_back_as_they_were(home, prepared):
    manifest, store = prepared
    before, told = features(manifest, store), []
    assert restore_features(home, manifest, manifest.config, spread=HERE, on_message=told.append) == 0
    assert not told

    shutil.rmtree(home.features)
    assert restore_features(home, manifest, manifest.config, spread=HERE, on_message=told.append) == 16  # of 8 pairs
    assert told == [f"features of 16 files of {manifest.name} are gone; computing them again"]
    again = features(manifest, FeatureStore(home.features, manifest.config.features, storage_key))
    assert again.keys() == before.keys()
    assert all(np.array_equal(again[key], before[key]) for key in before)


def test_files_that_are_gone_or_shorter_are_named(home, prepared):
    manifest, _ = prepared
    shutil.rmtree(home.features)
    changed = manifest.sets["train"][2].target
    wave, rate = read_audio(changed)
    write_audio(changed, wave[: len(wave) // 2], rate)
    with pytest.raises(DataError, match=rf"{changed.name}: lasts .* s, expected the .*run: aasvc prepare again"):
        restore_features(home, manifest, manifest.config, spread=HERE)
    changed.unlink()
    with pytest.raises(DataError, match=rf"{changed.name}: .*run: aasvc prepare again, as for {manifest.name}"):
        restore_features(home, manifest, manifest.config, spread=HERE)


@pytest.mark.process
def test_caches_that_were_freed_keep_nobody_from_training(aasvc, trained):
    shutil.rmtree(trained.features)
    shutil.rmtree(trained.stats)
    outcome = aasvc("train", "--tag", "other")
    assert outcome.code == 0
    assert "features of 16 files of male_female are gone; computing them again" in outcome.err
    assert (trained.exp / "male_female_other" / "best.safetensors").is_file()
