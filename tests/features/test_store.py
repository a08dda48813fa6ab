import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from aasvc_cli.config.settings import FeatureConfig, MelConfig
from aasvc_cli.errors import DataError, StorageError
from aasvc_cli.features import store as feature_store
from aasvc_cli.features.kinds import feature_key
from aasvc_cli.features.shelf import read_entry, write_entry
from aasvc_cli.features.store import FeatureStore, recording_stamp
from aasvc_cli.storage.files import file_sha256

FEATURE = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features", FeatureConfig(), feature_key)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "anna" / "wav" / "train_parallel" / "first.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"some samples")
    return path


def files(store: FeatureStore) -> list[Path]:
    return [path for path in store.folder.rglob("*") if path.is_file()]


def test_what_is_saved_comes_back_with_its_facts(store, recording):
    assert store.facts("mel", recording) is None
    store.save("mel", recording, FEATURE, facts={"peak": 0.5})
    assert store.facts("mel", recording) is not None
    assert store.facts("mel", recording) == {"peak": 0.5}
    loaded = store.load("mel", recording)
    np.testing.assert_array_equal(loaded, FEATURE)
    assert loaded.dtype == np.float32
    loaded += 1  # belongs to the caller


def test_the_file_is_one_that_the_safetensors_library_reads(store, recording):
    store.save("mel", recording, FEATURE)
    with safe_open(store.path("mel", recording), framework="np") as stream:
        assert list(stream.keys()) == ["feature"]
        np.testing.assert_array_equal(stream.get_tensor("feature"), FEATURE)


def test_an_array_in_another_memory_order_and_type_is_saved_by_value(store, recording):
    store.save("mel", recording, np.asfortranarray(FEATURE.astype(np.float64)))
    np.testing.assert_array_equal(store.load("mel", recording), FEATURE)


def test_the_path_names_kind_speaker_and_recording(store, recording):
    path = store.path("mel", recording)
    assert path.parent.parent.name == f"mel-{feature_key('mel', FeatureConfig())}"
    assert path.parent.name == "anna"
    assert path.name.startswith("first-")
    assert path == store.path("mel", Path(os.path.relpath(recording)))


def test_recordings_of_the_same_name_in_other_folders_have_files_of_their_own(store, recording):
    twins = [recording, recording.with_suffix(".flac"), recording.parent.parent / "dev" / "first.wav"]
    assert len({store.path("mel", twin) for twin in twins}) == 3


def test_features_of_recordings_in_the_data_folder_move_with_it(store, recording, tmp_path):
    store.save("mel", recording, FEATURE)
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    there = FeatureStore(moved / "features", FeatureConfig(), feature_key)
    np.testing.assert_array_equal(there.load("mel", moved / recording.relative_to(tmp_path)), FEATURE)


@pytest.mark.parametrize("name", ["語" * 80 + ".wav", "a b:c?*.wav", "..wav", "é.wav"])
def test_any_file_name_leads_to_a_possible_one(store, tmp_path, name):
    recording = tmp_path / name
    recording.write_bytes(b"x")
    store.save("mel", recording, FEATURE)
    np.testing.assert_array_equal(store.load("mel", recording), FEATURE)


def later(recording: Path, content: bytes | None = None) -> None:
    """Give a recording another time, and other bytes."""
    when = recording.stat().st_mtime_ns + 1_000_000_000
    if content is not None:
        recording.write_bytes(content)
    os.utime(recording, ns=(when, when))


@pytest.mark.parametrize("change", ["size", "content"])
def test_a_changed_recording_is_never_served_stale(store, recording, change):
    store.save("mel", recording, FEATURE)
    before = recording.stat()
    if change == "size":
        recording.write_bytes(b"some more samples")
        os.utime(recording, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        later(recording, b"same samples")
        assert recording.stat().st_size == before.st_size
    assert store.facts("mel", recording) is None
    with pytest.raises(DataError, match=r"first\.wav: changed after .* run: aasvc prepare"):
        store.load("mel", recording)


def test_of_many_recordings_those_are_known_that_are_there_and_unchanged(store, recording, tmp_path):
    changed, gone = (recording.with_name(f"{name}.wav") for name in ("changed", "gone"))
    for path in (recording, changed, gone):
        path.write_bytes(b"samples of " + path.name.encode())
        store.save("mel", path, FEATURE, facts={"name": path.name})
    later(changed, b"SAMPLES OF changed.wav")
    gone.unlink()
    present = store.present([recording, changed, gone])
    assert list(present) == [recording, changed]
    known = dict(store.all_known("mel", present.values()))
    assert list(known) == [recording] and known[recording].facts == {"name": "first.wav"}


@pytest.mark.parametrize("first", ["facts", "load"])
def test_a_recording_that_was_copied_anew_is_the_same_recording(store, recording, first, monkeypatch):
    store.save("mel", recording, FEATURE, facts={"peak": 0.5})
    later(recording)
    looked: list[Path] = []

    def look(path: Path) -> str:
        looked.append(path)
        return file_sha256(path)

    monkeypatch.setattr(feature_store, "file_sha256", look)
    getattr(store, first)("mel", recording)
    np.testing.assert_array_equal(store.load("mel", recording), FEATURE)
    assert store.facts("mel", recording) == {"peak": 0.5}
    assert looked == [recording], "its content is looked at once"
    assert len(files(store)) == 1


def test_where_nothing_can_be_written_the_content_still_counts(store, recording, monkeypatch):
    store.save("mel", recording, FEATURE)
    later(recording)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
    np.testing.assert_array_equal(store.load("mel", recording), FEATURE)
    assert len(files(store)) == 1


def test_files_from_before_the_content_was_noted_go_on_to_work(store, recording):
    store.save("mel", recording, FEATURE, facts={"peak": 0.5})
    path = store.path("mel", recording)
    entry = read_entry(path)
    header = entry.header
    assert len(header.pop("content")) == 64
    write_entry(path, json.dumps(header), entry.dtype, entry.shape, entry.data)
    assert store.facts("mel", recording) == {"peak": 0.5}
    np.testing.assert_array_equal(store.load("mel", recording), FEATURE)
    later(recording)  # nobody knows any more
    assert store.facts("mel", recording) is None
    with pytest.raises(DataError, match="run: aasvc prepare"):
        store.load("mel", recording)


def test_a_recording_that_changes_while_it_is_analysed_is_not_fresh(store, recording):
    stamp = recording_stamp(recording)
    recording.write_bytes(b"meanwhile something else")
    store.save("mel", recording, FEATURE, stamp=stamp)
    assert store.facts("mel", recording) is None
    size = stamp[0]
    recording.write_bytes(b"meanwhile"[:size].ljust(size))  # as long as what was analysed, but not that
    store.save("mel", recording, FEATURE, stamp=stamp)
    later(recording)
    assert store.facts("mel", recording) is None


def test_changed_settings_never_reuse_features(store, recording):
    store.save("mel", recording, FEATURE)
    other = FeatureStore(store.folder, FeatureConfig(mel=MelConfig(hop_length=300)), feature_key)
    assert other.facts("mel", recording) is None
    with pytest.raises(DataError, match="no mel features with these settings; run: aasvc prepare"):
        other.load("mel", recording)
    same = FeatureStore(store.folder, FeatureConfig(mel=MelConfig(fmax=12000.0)), feature_key)
    assert same.facts("mel", recording) is not None


def test_features_outlive_their_recording(store, recording):
    store.save("mel", recording, FEATURE)
    recording.unlink()
    np.testing.assert_array_equal(store.load("mel", recording), FEATURE)
    assert store.facts("mel", recording) is None


def test_damage_anywhere_in_the_file_is_noticed(store, recording):
    store.save("mel", recording, FEATURE, facts={"peak": 0.5})
    path = store.path("mel", recording)
    whole = path.read_bytes()
    header = whole.index(b'"aasvc"')
    damaged = [whole[:size] for size in (0, 5, 20, header, len(whole) - 1)] + [b"\0" * len(whole), whole + b"\0"]
    damaged.append(whole[:-1] + bytes([whole[-1] ^ 1]))
    for content in damaged:
        path.write_bytes(content)
        assert store.facts("mel", recording) is None
        with pytest.raises(DataError, match="expected a whole feature file, but .*run: aasvc prepare"):
            store.load("mel", recording)
    path.write_bytes(whole)
    assert store.facts("mel", recording) is not None


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(store, recording, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="the disk is full"):
        store.save("mel", recording, FEATURE)
    assert files(store) == []


def test_an_interrupted_write_leaves_the_old_file(store, recording, monkeypatch):
    store.save("mel", recording, FEATURE)
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.save("mel", recording, FEATURE + 1)
    assert len(files(store)) == 1
    np.testing.assert_array_equal(store.load("mel", recording), FEATURE)


def test_a_recording_that_vanished_cannot_be_saved(store, recording):
    recording.unlink()
    with pytest.raises(DataError, match="vanished"):
        store.save("mel", recording, FEATURE)


def test_only_old_leftovers_of_killed_writes_are_removed(store, recording):
    store.save("mel", recording, FEATURE)
    folder = store.path("mel", recording).parent
    old, young = folder / ".first-0.safetensors.abc", folder / ".first-0.safetensors.def"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.remove_leftovers()
    assert sorted(files(store)) == sorted([young, store.path("mel", recording)])
