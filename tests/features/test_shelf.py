"""Entries in small files and in packs: the same from outside, whatever happens to either."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.errors import DataError
from aasvc_cli.features import shelf as shelf_module
from aasvc_cli.features.kinds import at_frames, storage_key
from aasvc_cli.features.shelf import Shelf
from aasvc_cli.features.store import FeatureStore
from tests.examples import examples

COUNT = 12


def feature(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(5 + number, 3)).astype(np.float32)


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "anna" / "wav" / f"{number}.wav" for number in range(COUNT)]
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.write_bytes(path.name.encode() * 3)
    return paths


def open_store(tmp_path: Path) -> FeatureStore:
    """One that knows nothing yet of what is there."""
    return FeatureStore(tmp_path / "features", FeatureConfig(), storage_key)


@pytest.fixture
def store(tmp_path: Path, recordings: list[Path], monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Twelve features in a pack."""
    monkeypatch.setattr(shelf_module, "PACK_FROM", COUNT)
    store = open_store(tmp_path)
    for number, path in enumerate(recordings):
        store.save("mel", path, feature(number), facts={"number": number})
    shelf_of(store).pack(COUNT)
    return store


def shelf_of(store: FeatureStore) -> Shelf:
    return store._shelf("mel")


def packs(store: FeatureStore) -> list[Path]:
    return sorted((store.folder).rglob(".packs/*.safetensors"))


def small(store: FeatureStore) -> list[Path]:
    return [path for path in store.folder.rglob("*.safetensors") if path.parent.name != ".packs"]


def check(store: FeatureStore, recordings: list[Path]) -> None:
    for number, path in enumerate(recordings):
        np.testing.assert_array_equal(store.load("mel", path), feature(number))
        assert store.facts("mel", path) == {"number": number}
        assert store.has("mel", path)


def test_what_is_packed_is_what_was_saved(store, recordings, tmp_path):
    assert len(packs(store)) == 1 and not small(store)
    check(store, recordings)
    check(open_store(tmp_path), recordings)
    loaded = store.load("mel", recordings[0])
    loaded += 1  # belongs to the caller
    check(store, recordings)


def test_few_files_stay_as_they_are(tmp_path, recordings):
    store = open_store(tmp_path)
    for path in recordings:
        store.save("mel", path, feature(0))
    store.pack()
    assert len(small(store)) == COUNT and not packs(store)


def test_a_pack_is_a_file_that_the_safetensors_library_reads(store, recordings):
    with safe_open(packs(store)[0], framework="np") as stream:
        assert len(stream.keys()) == COUNT
        for number, path in enumerate(recordings):
            np.testing.assert_array_equal(stream.get_tensor(shelf_of(store).name(path)), feature(number))


def test_a_store_that_was_open_before_sees_what_is_packed_now(tmp_path, recordings):
    reader, writer = open_store(tmp_path), open_store(tmp_path)
    assert reader.facts("mel", recordings[0]) is None
    for number, path in enumerate(recordings):
        writer.save("mel", path, feature(number), facts={"number": number})
    shelf_of(writer).pack(1)
    check(reader, recordings)


def test_what_is_written_anew_goes_before_what_is_packed(store, recordings, tmp_path):
    recordings[3].write_bytes(b"something else")
    for opened in (store, open_store(tmp_path)):
        assert opened.facts("mel", recordings[3]) is None
        with pytest.raises(DataError, match="changed after its features were computed"):
            opened.load("mel", recordings[3])
    for number, count in ((20, 2), (21, 3)):
        store.save("mel", recordings[3], feature(number))
        np.testing.assert_array_equal(store.load("mel", recordings[3]), feature(number))
        shelf_of(store).pack(1)
        assert len(packs(store)) == count and not small(store)
        for opened in (store, open_store(tmp_path)):
            np.testing.assert_array_equal(opened.load("mel", recordings[3]), feature(number))


def test_a_recording_copied_anew_is_noted_beside_the_pack(store, recordings):
    os.utime(recordings[2], ns=(1, 1))
    np.testing.assert_array_equal(store.load("mel", recordings[2]), feature(2))
    assert len(small(store)) == 1
    check(store, recordings)


@pytest.mark.parametrize("size", [0, 5, 40, -1])
def test_a_pack_that_is_cut_short_counts_as_not_there(store, recordings, tmp_path, size):
    whole = packs(store)[0].read_bytes()
    packs(store)[0].write_bytes(whole[:size])
    opened = open_store(tmp_path)
    assert all(opened.facts("mel", path) is None for path in recordings)
    with pytest.raises(DataError, match="no mel features with these settings; run: aasvc prepare"):
        opened.load("mel", recordings[0])


def test_a_changed_byte_in_a_pack_costs_its_own_entry(store, recordings, tmp_path):
    content = bytearray(packs(store)[0].read_bytes())
    content[-1] ^= 1
    packs(store)[0].write_bytes(bytes(content))
    opened = open_store(tmp_path)
    broken = [path for path in recordings if opened.facts("mel", path) is None]
    assert len(broken) == 1
    known = dict(opened.all_known("mel", opened.present(recordings).values()))
    assert known == {path: opened.known("mel", path) for path in recordings if path not in broken}
    with pytest.raises(DataError, match="expected a whole feature file, but the checksum of anna/.* is another"):
        opened.load("mel", broken[0])
    opened.save("mel", broken[0], feature(recordings.index(broken[0])), facts={"number": recordings.index(broken[0])})
    check(opened, recordings)


def test_a_pack_that_cannot_be_written_leaves_the_small_files(tmp_path, recordings, monkeypatch):
    store = open_store(tmp_path)
    for number, path in enumerate(recordings):
        store.save("mel", path, feature(number), facts={"number": number})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        shelf_of(store).pack(1)
    assert len(small(store)) == COUNT and not packs(store)
    check(store, recordings)


def test_a_damaged_small_file_is_not_packed(tmp_path, recordings):
    store = open_store(tmp_path)
    for number, path in enumerate(recordings):
        store.save("mel", path, feature(number), facts={"number": number})
    store.path("mel", recordings[5]).write_bytes(b"damaged")
    shelf_of(store).pack(1)
    assert [path.name for path in small(store)] == [store.path("mel", recordings[5]).name]
    check(store, recordings[:5])
    assert set(dict(store.all_known("mel", store.present(recordings).values()))) == set(recordings) - {recordings[5]}


def test_what_is_packed_while_all_is_read_is_not_missed(tmp_path, recordings):
    store = open_store(tmp_path)
    for number, path in enumerate(recordings):
        store.save("mel", path, feature(number), facts={"number": number})
    reading = store.all_known("mel", store.present(recordings).values())
    found = [next(reading)]
    shelf_of(store).pack(1)
    found += reading
    assert {path: known.facts["number"] for path, known in found} == {path: n for n, path in enumerate(recordings)}
    assert len(found) == COUNT


@pytest.mark.parametrize("packed", [False, True])
def test_of_many_recordings_the_changed_the_vanished_and_the_new_are_not_known(tmp_path, recordings, packed):
    store = open_store(tmp_path)
    for path in recordings[:-1]:
        store.save("mel", path, feature(0))
    if packed:
        shelf_of(store).pack(1)
    recordings[2].write_bytes(b"something else")
    recordings[4].unlink()
    os.utime(recordings[6], ns=(1, 1))  # copied anew
    known = dict(store.all_known("mel", store.present(recordings).values()))
    assert set(known) == set(recordings[:-1]) - {recordings[2], recordings[4]}
    for path, each in known.items():
        assert each.content == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_store_that_is_sent_to_another_process_takes_no_index_along(store, recordings):
    sent = pickle.dumps(store)
    assert len(sent) < 1500
    check(pickle.loads(sent), recordings)


@examples(30)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["save", "pack", "open"])), max_size=12))
def test_any_order_of_saving_and_packing_serves_the_last(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("shelf")
    store, last = open_store(root), dict[Path, int]()
    for number, (which, action) in enumerate(steps):
        path = root / f"{which}.wav"
        path.write_bytes(b"x")
        os.utime(path, ns=(1, 1))
        if action == "save":
            store.save("mel", path, feature(number))
            last[path] = number
        elif action == "pack":
            shelf_of(store).pack(1)
        else:
            store = open_store(root)
        for each, expected in last.items():
            np.testing.assert_array_equal(store.load("mel", each), feature(expected))
        names = {shelf_of(store).name(each): expected for each, expected in last.items()}
        entries = list(shelf_of(store).each([*names, "nobody/nothing"]))
        assert sorted(name for name, _ in entries) == sorted(names), "each once"
        for name, entry in entries:
            np.testing.assert_array_equal(entry.array(), feature(names[name]))


def _pack_all(folder: Path, count: int) -> None:
    store = open_store(folder)
    for _ in range(count):
        shelf_of(store).pack(1)


@pytest.mark.process
def test_two_processes_that_pack_lose_nothing(tmp_path, recordings):
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_pack_all, args=(tmp_path, 200)) for _ in range(2)]
    for process in others:
        process.start()
    store = open_store(tmp_path)
    for number, path in enumerate(recordings):
        store.save("mel", path, feature(number), facts={"number": number})
        check(store, recordings[: number + 1])
    for process in others:
        process.join()
        assert process.exitcode == 0
    check(open_store(tmp_path), recordings)


def test_features_of_an_encoder_are_kept_at_their_rate_with_half_the_digits(tmp_path, recordings):
    store = open_store(tmp_path)
    exact = np.random.default_rng(0).normal(size=(50, 96)).astype(np.float32)
    store.save("content", recordings[0], exact.astype(np.float16), frame_rate=50.0, facts={"n_frames": 94})
    loaded = store.load("content", recordings[0])
    expected = at_frames(exact, 50.0, 94, 24000 / 256)
    assert loaded.dtype == np.float32 and loaded.shape == (94, 96)
    assert np.abs(loaded - expected).max() <= 2.0**-11 * np.abs(exact).max()
    assert store.path("content", recordings[0]).stat().st_size < 0.3 * expected.nbytes
    tree = json.loads(store.path("content", recordings[0]).read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert tree["feature"]["dtype"] == "F16"


def test_features_from_before_they_were_kept_at_their_rate_go_on_to_work(tmp_path, recordings):
    store = open_store(tmp_path)
    at_mel = np.random.default_rng(0).normal(size=(94, 96)).astype(np.float32)
    store.save("content", recordings[0], at_mel, facts={"n_frames": 94})
    np.testing.assert_array_equal(store.load("content", recordings[0]), at_mel)
