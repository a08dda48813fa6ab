"""The demo corpus: what ships, and how it is laid out in the data folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from aasvc_cli.corpus import find_speakers, read_texts, scan_speaker
from aasvc_cli.errors import DataError, StorageError
from aasvc_cli.pipeline import download
from aasvc_cli.pipeline.download import CATALOGUE, download_demo
from aasvc_cli.storage.cache import Home, bundled
from aasvc_cli.storage.files import read_audio


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".completed"
    }


def test_the_bundled_corpus_is_small_and_complete(demo_corpus: Path):
    assert sum(path.stat().st_size for path in bundled("demo").rglob("*") if path.is_file()) <= 6_000_000
    seconds = 0.0
    for speaker in ("male", "female"):
        found = scan_speaker(demo_corpus / speaker)
        texts = read_texts(demo_corpus / speaker)
        assert {name: len(paths) for name, paths in found.sets.items()} == {"train": 80, "dev": 10, "eval": 10}
        assert {path.stem for paths in found.sets.values() for path in paths} == set(texts)
        for paths in found.sets.values():
            for path in paths:
                samples, sample_rate = read_audio(path)
                assert sample_rate == 24000
                assert np.abs(samples).max() > 0.05
                seconds += len(samples) / sample_rate
    assert seconds == pytest.approx(CATALOGUE["demo"].seconds, abs=0.1)


def test_both_speakers_say_the_same_sentences(demo_corpus: Path):
    assert read_texts(demo_corpus / "male") == read_texts(demo_corpus / "female")


def test_a_compressed_recording_has_the_length_and_sound_of_its_original(demo_corpus: Path, data: Path):
    original, _ = read_audio(data / "male_train_parallel_0003.flac")
    decoded, _ = read_audio(demo_corpus / "male" / "wav" / "train_parallel" / "train_parallel_0003.ogg")
    assert len(decoded) == len(original)
    error = decoded - original
    assert 10 * np.log10(np.mean(original**2) / np.mean(error**2)) > 20  # a delay of one sample would cost all of it


def test_the_corpus_is_laid_out_where_prepare_finds_it(home: Home):
    seen: list[tuple[int, int]] = []
    result = download_demo(home, on_progress=lambda done, total: seen.append((done, total)))
    assert not result.already_there
    assert result.folder == home.corpora / "demo"
    assert contents(result.folder) == contents(bundled("demo"))
    assert (result.folder / ".completed").is_file()
    assert set(find_speakers(result.folder)) == {"male", "female"}
    assert seen[-1] == (result.n_files, result.n_files)
    assert len(seen) == result.n_files
    json.dumps(result.to_tree())


def test_a_second_time_nothing_is_written(home: Home):
    first = download_demo(home)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    second = download_demo(home)
    assert second.already_there
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


def test_a_damaged_copy_is_completed_and_strangers_are_left_alone(home: Home):
    folder = download_demo(home).folder
    recordings = sorted(folder.rglob("*.ogg"))
    recordings[0].unlink()
    recordings[1].write_bytes(recordings[1].read_bytes()[:100])
    (folder / "notes.txt").write_text("mine")
    kept = recordings[2].stat().st_mtime_ns
    result = download_demo(home)
    assert not result.already_there
    assert recordings[2].stat().st_mtime_ns == kept
    assert (folder / "notes.txt").read_text() == "mine"
    assert contents(folder).items() >= contents(bundled("demo")).items()


def test_a_copy_without_its_mark_is_checked_and_marked(home: Home):
    folder = download_demo(home).folder
    (folder / ".completed").unlink()
    assert not download_demo(home).already_there
    assert (folder / ".completed").is_file()


def test_a_copy_that_was_interrupted_has_no_mark_and_goes_on(home: Home):
    def stop(done: int, total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_demo(home, on_progress=stop)
    assert not (home.corpora / "demo" / ".completed").exists()
    assert len(contents(home.corpora / "demo")) == 50
    seen: list[int] = []
    download_demo(home, on_progress=lambda done, _: seen.append(done))
    assert seen[0] == 51


def test_overwriting_writes_all_files_again(home: Home):
    folder = download_demo(home).folder
    before = next(folder.rglob("*.ogg")).stat().st_ino
    assert not download_demo(home, overwrite=True).already_there
    assert next(folder.rglob("*.ogg")).stat().st_ino != before


def test_a_file_in_the_place_of_the_folder_is_an_error(home: Home):
    home.corpora.mkdir(parents=True)
    (home.corpora / "demo").write_text("")
    with pytest.raises(StorageError, match="a file stands there"):
        download_demo(home)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not hold for this user")
def test_no_permission_is_an_error(home: Home):
    home.root.mkdir(parents=True)
    home.root.chmod(0o500)
    with pytest.raises(StorageError, match="permission"):
        download_demo(home)


def test_an_installation_without_the_corpus_says_so(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "bundled", lambda name: tmp_path / name)
    with pytest.raises(DataError, match="install the package again"):
        download_demo(home)
    assert not home.corpora.exists()
