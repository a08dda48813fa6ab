import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from aasvc_cli.config.reading import dump_yaml, override
from aasvc_cli.config.settings import Config, FeatureConfig
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.data.manifest import Manifest, ParallelPair, write_manifest
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.features.kinds import feature_key, feature_keys
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.published.voices import config_from_published, read_h5_stats
from aasvc_cli.storage.checkpoint import save_checkpoint
from aasvc_cli.storage.files import write_json, write_text
from aasvc_cli.storage.home import Home

CONFIG = Config(features=FeatureConfig(source="mel", target="mel", duration="mcep"))


@pytest.fixture
def prepared(home: Home, tmp_path: Path) -> dict[tuple[str, str, str], list[np.ndarray]]:
    """A prepared set with made-up features; those of dev and eval would be noticed in any mean."""
    store, rng = FeatureStore(home.features, CONFIG.features, feature_key), np.random.default_rng(0)
    made: dict[tuple[str, str, str], list[np.ndarray]] = {}
    sets = {}
    for offset, (name, count) in enumerate((("train", 5), ("dev", 2), ("eval", 2))):
        pairs = []
        for index in range(count):
            paths = {side: tmp_path / side / f"{name}{index}.wav" for side in ("source", "target")}
            for side, path in paths.items():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"")
                for kind, width in (("mel", 80), ("mcep", 40)):
                    if (side, kind) == ("target", "mcep"):
                        continue  # not needed, so it must not be asked for
                    array = rng.normal(-4 + 1000 * offset, 2, size=(rng.integers(20, 90), width)).astype(np.float32)
                    made.setdefault((name, side, kind), []).append(array)
                    store.save(kind, path, array)
            pairs.append(ParallelPair(f"{name}{index}", paths["source"], paths["target"]))
        sets[name] = tuple(pairs)
    write_manifest(home, Manifest("set", "a", "b", CONFIG, sets))
    return made


def test_statistics_are_those_of_the_training_set_alone(home, prepared):
    told: list[tuple[int, int]] = []
    result = compute_stats(home, on_progress=lambda done, total: told.append((done, total)))
    stats = NormStats.from_tree(json.loads(result.path.read_text()), "file")
    for ours, side, kind in (
        (stats.source, "source", "mel"),
        (stats.target, "target", "mel"),
        (stats.duration, "source", "mcep"),
    ):
        frames = np.concatenate(prepared["train", side, kind]).astype(np.float64)
        np.testing.assert_allclose(ours.mean, frames.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(ours.scale, frames.std(axis=0), rtol=1e-6)
        assert ours.n_frames == len(frames)
    assert result.path == home.stats / "set" / "self.json"
    assert stats.kinds == {"source": "mel", "target": "mel", "duration": "mcep"} == result.kinds
    assert stats.keys == feature_keys(CONFIG.features)
    assert told == [(done, 15) for done in range(1, 16)]


def test_normalised_training_data_has_mean_zero_and_variance_one(home, prepared):
    result = compute_stats(home, data="set")
    stats = NormStats.from_tree(json.loads(result.path.read_text()), "file")
    normalised = np.concatenate([stats.target.normalise(array) for array in prepared["train", "target", "mel"]])
    np.testing.assert_allclose(normalised.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(axis=0), 1.0, atol=1e-5)


def test_a_feature_that_is_used_twice_is_read_once(home, prepared, monkeypatch):
    config = override(CONFIG, {"features.duration": "mel"})
    read, load = [], FeatureStore.load
    monkeypatch.setattr(
        FeatureStore, "load", lambda self, kind, path: read.append((kind, path)) or load(self, kind, path)
    )
    pairs = tuple(
        ParallelPair(f"train{i}", *(home.root.parent / side / f"train{i}.wav" for side in ("source", "target")))
        for i in range(5)
    )
    write_manifest(home, Manifest("twice", "a", "b", config, {"train": pairs}))
    result = compute_stats(home, data="twice")
    assert len(read) == len(set(read)) == 10
    stats = NormStats.from_tree(json.loads(result.path.read_text()), "file")
    np.testing.assert_array_equal(stats.duration.mean, stats.source.mean)


def test_features_that_cannot_be_computed_again_name_the_recording_and_the_command(home, prepared):
    next((home.features).rglob("target/train3-*.safetensors")).unlink()
    with pytest.raises(DataError, match=r"train3\.wav: .* run: aasvc prepare again, as for set"):
        compute_stats(home)
    assert not home.stats.exists()


def make_model(home: Home, config: Config, stats: NormStats) -> Path:
    torch = pytest.importorskip("torch")
    folder = home.exp / "x_y_other"
    write_text(folder / "config.yaml", dump_yaml(config))
    write_json(folder / "stats.json", stats.to_tree())
    save_checkpoint(folder / "best.safetensors", {"model.weight": torch.zeros(1)}, {"step": 1})
    return folder


@pytest.fixture
def own_stats(home, prepared) -> NormStats:
    return NormStats.from_tree(json.loads(compute_stats(home).path.read_text()), "file")


def test_statistics_of_a_model_are_taken_over_as_they_are(home, own_stats):
    tree = own_stats.to_tree()
    tree["origin"] = "training set of another"
    tree["source"]["mean"] = [5.0] * 80
    make_model(home, CONFIG, NormStats.from_tree(tree, "made up"))
    result = compute_stats(home, norm_name="other")
    assert result.path == home.stats / "set" / "other.json"
    assert json.loads(result.path.read_text()) == tree
    assert result.n_utterances == 0
    assert "training set of another" in result.lines()[0]


def test_statistics_of_other_features_are_refused(home, own_stats):
    other = override(CONFIG, {"features.mcep.order": 12})
    stats = dataclasses.replace(own_stats, keys=feature_keys(other.features))
    make_model(home, other, stats)
    with pytest.raises(DataError, match=r"other: its duration statistics .*aasvc prepare --conf .*config\.yaml"):
        compute_stats(home, norm_name="other")
    assert not (home.stats / "set" / "other.json").exists()


def test_a_published_model_has_the_target_and_the_training_set_the_source(home, tmp_path, data):
    config = config_from_published(read_config_file(data / "aasvc-stochastic" / "config.yml"), "config.yml")
    store = FeatureStore(home.features, config.features, feature_key)
    generator = np.random.default_rng(0)
    pairs = []
    for index in range(3):
        pair = ParallelPair(str(index), *(tmp_path / side / f"{index}.wav" for side in ("source", "target")))
        for path in (pair.source, pair.target):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"sound")
            store.save("mel", path, generator.normal(size=(30, 80)).astype(np.float32))
        pairs.append(pair)
    write_manifest(home, Manifest("set", "a", "b", config, {"train": tuple(pairs)}))
    shutil.copytree(data / "aasvc-stochastic", home.models / "theirs")
    stats = NormStats.from_tree(json.loads(compute_stats(home, norm_name="theirs").path.read_text()), "file")
    own = NormStats.from_tree(json.loads(compute_stats(home).path.read_text()), "file")
    assert np.array_equal(stats.source.mean, own.source.mean)
    assert np.array_equal(stats.target.mean, read_h5_stats(data / "aasvc-stochastic" / "stats.h5").mean)


def test_an_unknown_model_is_an_error(home, prepared):
    with pytest.raises(AasvcError, match="nobody"):
        compute_stats(home, norm_name="nobody")


def test_a_path_is_no_name(home, prepared, tmp_path):
    with pytest.raises(DataError, match="expected self, or the name of a model"):
        compute_stats(home, norm_name=str(tmp_path / "somewhere"))
