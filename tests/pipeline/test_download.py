"""Downloads by name: the demo corpus that ships, and everything else from a server on loopback."""

from __future__ import annotations

import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from aasvc_cli.audio.files import read_audio
from aasvc_cli.data.corpus import find_speakers, locate, scan_speaker
from aasvc_cli.data.texts import read_texts
from aasvc_cli.errors import AasvcError, DataError, DownloadError, Interrupted, StorageError
from aasvc_cli.pipeline import download
from aasvc_cli.pipeline.download import DownloadReport, Source, download_demo, survey
from aasvc_cli.published.catalogue import CATALOGUE, PUBLISHED, choose, corpus_place
from aasvc_cli.storage.archive import BadArchive, DamagedArchive
from aasvc_cli.storage.home import Home, bundled
from aasvc_cli.storage.http import HttpPolicy
from tests import servers
from tests.servers import Server, as_it_is, drop, serving, status

Aasvc = Callable[..., Any]
HUB = "/unilight/hificaptain-vc/resolve/main"
QUICK = HttpPolicy(retries=2, sleep=lambda _: None, connect_seconds=2.0, read_seconds=2.0)


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


@pytest.mark.unprivileged
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


# --- from the network -----------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def captain(demo_corpus: Path) -> dict[str, bytes]:
    """Two zips with the inner layout and the clutter of the published ones; four training pairs, one dev, one eval."""
    return {speaker: servers.captain_zip(demo_corpus, speaker, 4) for speaker in ("male", "female")}


@pytest.fixture
def published(server: Server, data: Path) -> dict[str, bytes]:
    """The published model and vocoder on the server, in the form of small files with their names; by path."""
    return servers.put_published(server, data)


@pytest.fixture
def corpora(server: Server, captain: dict[str, bytes]) -> Server:
    servers.put_captain(server, captain)
    return server


def fetch(home: Home, server: Server, *names: str, accept: bool = True, **options: Any) -> DownloadReport:
    source = options.pop("source", Source(mirror=server.url))
    return download.download(
        home, choose(names), source, accept_licence=lambda _: accept, **{"policy": QUICK, **options}
    )


def hidden(folder: Path) -> list[str]:
    """What an unfinished download leaves, other than locks."""
    return sorted(path.name for path in folder.glob(".*") if path.suffix != ".lock")


class TestPublishedFiles:
    def test_without_a_name_the_model_and_its_vocoder_arrive_as_they_were_published(
        self, server: Server, published: dict[str, bytes], home: Home
    ):
        report = fetch(home, server)
        assert [item.name for item in report.items] == list(PUBLISHED)
        for path, content in published.items():
            name, file = path.removeprefix(HUB + "/").split("/")
            parent = home.models if name == PUBLISHED[0] else home.vocoders
            assert (parent / name / file).read_bytes() == content
        for item in report.items:
            assert (item.n_files, item.already_there) == (3, False)
            assert item.n_received == item.n_bytes
            assert json.loads((item.folder / ".completed").read_text())["licence"].startswith("CC-BY-NC-SA")
            assert "not for commercial use" in (item.folder / "LICENCE.txt").read_text().lower()
            assert hidden(item.folder.parent) == []
        json.dumps(report.to_tree())

    def test_the_names_on_the_server_are_the_published_ones(self, server: Server, home: Home):
        with pytest.raises(DownloadError, match="404"):
            fetch(home, server, PUBLISHED[0])
        assert server.gets()[0].path == f"{HUB}/male_female_aas_vc_mel_pretrained/checkpoint-50000steps.pkl"
        files = {file.url for name in PUBLISHED for file in CATALOGUE[name].files}
        assert "https://huggingface.co" + HUB + "/pwg_jp_female/checkpoint-400000steps.pkl" in files
        assert len(files) == 6

    def test_a_second_time_no_one_is_asked(self, server: Server, published: dict[str, bytes], home: Home):
        fetch(home, server)
        server.requests.clear()
        report = fetch(home, server, source=Source(offline=True))
        assert all(item.already_there for item in report.items)
        assert server.requests == []

    def test_a_file_that_was_lost_is_fetched_alone(self, server: Server, published: dict[str, bytes], home: Home):
        folder = fetch(home, server, "pwg_jp_female").items[0].folder
        (folder / "stats.h5").unlink()
        (folder / "config.yml").write_bytes(b"cut")
        (folder / "mine.txt").write_text("mine")
        server.requests.clear()
        assert not fetch(home, server, "pwg_jp_female").items[0].already_there
        assert [request.path.rpartition("/")[2] for request in server.gets()] == ["config.yml", "stats.h5"]
        for path, content in published.items():
            if "pwg" in path:
                assert (folder / path.rpartition("/")[2]).read_bytes() == content
        assert (folder / "mine.txt").read_text() == "mine"
        assert hidden(home.vocoders) == []

    def test_files_that_an_interrupted_call_had_finished_are_not_fetched_again(
        self, server: Server, published: dict[str, bytes], home: Home
    ):
        server.faults = [as_it_is, *[status(500)] * 9]
        with pytest.raises(DownloadError):
            fetch(home, server, "pwg_jp_female")
        assert not (home.vocoders / "pwg_jp_female").exists()
        server.faults.clear()
        server.requests.clear()
        assert fetch(home, server, "pwg_jp_female").items[0].n_files == 3
        assert [request.path.rpartition("/")[2] for request in server.gets()] == ["config.yml", "stats.h5"]

    def test_overwriting_fetches_all_of_it_and_a_failure_leaves_the_old_one_usable(
        self, server: Server, published: dict[str, bytes], home: Home
    ):
        folder = fetch(home, server, "pwg_jp_female").items[0].folder
        server.faults = [status(500)] * 9
        with pytest.raises(DownloadError):
            fetch(home, server, "pwg_jp_female", overwrite=True)
        assert fetch(home, server, "pwg_jp_female", source=Source(offline=True)).items[0].already_there
        server.faults.clear()
        server.put(f"{HUB}/pwg_jp_female/config.yml", b"new: 1\n")
        messages: list[str] = []
        report = fetch(home, server, "pwg_jp_female", overwrite=True, on_message=messages.append)
        assert (folder / "config.yml").read_bytes() == b"new: 1\n"
        assert report.items[0].differs == ("config.yml",)
        assert any("is not the file that was first fetched on 20" in message for message in messages)

    def test_the_first_checksum_of_each_file_is_remembered(
        self, server: Server, published: dict[str, bytes], home: Home
    ):
        import hashlib

        fetch(home, server)
        noted = json.loads((home.root / "downloads.lock.json").read_text())
        assert {url: entry["sha256"] for url, entry in noted.items()} == {
            "https://huggingface.co" + path: hashlib.sha256(content).hexdigest() for path, content in published.items()
        }

    def test_a_damaged_list_of_checksums_is_an_error_that_names_it(
        self, server: Server, published: dict[str, bytes], home: Home
    ):
        home.root.mkdir(parents=True)
        (home.root / "downloads.lock.json").write_text("[]")
        with pytest.raises(DataError, match=r"downloads\.lock\.json.*remove it"):
            fetch(home, server)

    def test_a_file_in_the_place_of_the_folder_is_an_error(
        self, server: Server, published: dict[str, bytes], home: Home
    ):
        home.root.mkdir(parents=True)
        home.models.write_text("")
        with pytest.raises(StorageError, match="a file stands there"):
            fetch(home, server)


class TestCorpora:
    def test_the_zips_become_a_corpus_that_prepare_finds_by_name(
        self, corpora: Server, captain: dict[str, bytes], home: Home
    ):
        report = fetch(home, corpora, "hificaptain-ja")
        folder = home.corpora / "hificaptain-ja"
        assert set(find_speakers(folder)) == {"male", "female"}
        source, target = locate(home, "hificaptain-ja", None, None)
        for recordings in (source, target):
            assert {name: len(paths) for name, paths in recordings.sets.items()} == {"train": 4, "dev": 1, "eval": 1}
            assert len(read_texts(recordings.root)) == 100
        assert report.items[0].n_files == 2 * (6 + 1 + 3)  # one recording of no parallel set, three texts
        assert sorted(path.name for path in folder.iterdir()) == [".completed", "LICENCE.txt", "female", "male"]
        assert "no commercial use" in (folder / "LICENCE.txt").read_text()
        with zipfile.ZipFile(io.BytesIO(captain["male"])) as original:
            name = "hi-fi-captain/ja-JP/male/wav/dev/dev_0660.wav"
            assert (folder / "male/wav/dev/dev_0660.wav").read_bytes() == original.read(name)
        assert fetch(home, corpora, "hificaptain-ja", source=Source(offline=True)).items[0].already_there

    @pytest.mark.parametrize(
        ("path", "place"),
        [
            ("hi-fi-captain/ja-JP/female/wav/train_parallel/x.wav", "female/wav/train_parallel/x.wav"),
            ("hi-fi-captain/en-US/male/text/dev.txt", "male/text/dev.txt"),
            ("hfc_ja-JP_F/wav/eval/x.wav", "male/wav/eval/x.wav"),
            ("wav/eval/x.WAV", "male/wav/eval/x.WAV"),
            ("female/wav/dev/x.flac", "female/wav/dev/x.flac"),
            ("__MACOSX/female/wav/dev/._x.wav", None),
            ("female/wav/dev/.DS_Store", None),
            ("female/wav/dev/notes.txt", None),
            ("female/wav", None),
            ("LICENSE.txt", None),
        ],
    )
    def test_recordings_and_texts_are_found_in_whatever_folders_the_zip_has(self, path: str, place: str | None):
        expected = None if place is None else PurePosixPath(place)
        assert corpus_place(PurePosixPath(path), "male") == expected

    def test_the_zips_can_be_kept(self, corpora: Server, captain: dict[str, bytes], home: Home):
        folder = fetch(home, corpora, "hificaptain-ja", keep_archives=True).items[0].folder
        assert (folder / ".archives" / "hfc_ja-JP_M.zip").read_bytes() == captain["male"]
        assert set(find_speakers(folder)) == {"male", "female"}

    def test_a_half_downloaded_corpus_is_not_found_by_name(self, corpora: Server, home: Home):
        corpora.faults = [as_it_is, drop(50_000), *[status(500)] * 9]
        with pytest.raises(DownloadError, match="50000 bytes are kept"):
            fetch(home, corpora, "hificaptain-ja")
        with pytest.raises(DataError, match="no corpus of that name.*aasvc download --list"):
            locate(home, "hificaptain-ja", None, None)
        corpora.faults.clear()
        corpora.requests.clear()
        fetch(home, corpora, "hificaptain-ja")
        (request,) = corpora.gets()  # the first zip was unpacked and is not fetched again
        assert request.path.endswith("hfc_ja-JP_F.zip")
        assert request.headers["Range"] == "bytes=50000-"
        assert set(find_speakers(home.corpora / "hificaptain-ja")) == {"male", "female"}

    def test_an_interrupt_while_unpacking_loses_neither_the_zip_nor_what_is_unpacked(self, corpora: Server, home: Home):
        def stop(what: str, done: int, total: int | None) -> None:
            if what.startswith("unpacking") and done > 500_000:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match=r"stopped; \d+ bytes of hificaptain-ja are kept, the same command"):
            fetch(home, corpora, "hificaptain-ja", on_bytes=stop)
        partial = home.corpora / ".hificaptain-ja.partial"
        before = {path: path.stat().st_ino for path in partial.rglob("*.wav")}
        assert before
        corpora.requests.clear()
        fetch(home, corpora, "hificaptain-ja")
        assert [request.path.rpartition("/")[2] for request in corpora.gets()] == ["hfc_ja-JP_F.zip"]
        folder = home.corpora / "hificaptain-ja"
        assert all((folder / path.relative_to(partial)).stat().st_ino == inode for path, inode in before.items())

    def test_a_corpus_that_lost_a_recording_gets_it_back_and_keeps_what_is_not_its_own(
        self, corpora: Server, home: Home
    ):
        folder = fetch(home, corpora, "hificaptain-ja").items[0].folder
        lost = folder / "female/wav/dev/dev_0660.wav"
        content = lost.read_bytes()
        lost.unlink()
        (folder / "notes.txt").write_text("mine")
        kept = (folder / "female/wav/eval").stat().st_ino
        corpora.requests.clear()
        fetch(home, corpora, "hificaptain-ja")
        assert lost.read_bytes() == content
        assert (folder / "notes.txt").read_text() == "mine"
        assert (folder / "female/wav/eval").stat().st_ino == kept
        assert [request.path.rpartition("/")[2] for request in corpora.gets()] == ["hfc_ja-JP_F.zip"]
        assert hidden(home.corpora) == []

    def test_a_damaged_zip_is_an_error_and_the_same_command_fetches_it_again(
        self, corpora: Server, captain: dict[str, bytes], home: Home
    ):
        path = "/release/hi-fi-captain/hfc_ja-JP_F.zip"
        damaged = bytearray(captain["female"])
        damaged[len(damaged) // 2] ^= 1
        corpora.put(path, bytes(damaged))
        with pytest.raises(
            DamagedArchive, match=r"hfc_ja-JP_F\.zip: .* is damaged .*the same command fetches it again"
        ):
            fetch(home, corpora, "hificaptain-ja")
        assert not (home.corpora / "hificaptain-ja").exists()
        assert "hfc_ja-JP_F" not in (home.root / "downloads.lock.json").read_text()
        corpora.put(path, captain["female"])
        fetch(home, corpora, "hificaptain-ja")
        assert set(find_speakers(home.corpora / "hificaptain-ja")) == {"male", "female"}

    @pytest.mark.parametrize(
        ("name", "mode"), [("../../evil.wav", 0), ("/evil.wav", 0), ("female/wav/dev/x.wav", 0o120777)]
    )
    def test_a_dangerous_zip_is_refused_and_nothing_is_written(
        self, corpora: Server, home: Home, tmp_path: Path, name: str, mode: int
    ):
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("female/wav/dev/a.wav", b"x")
            archive.writestr(info, b"/etc/passwd")
        corpora.put("/release/hi-fi-captain/hfc_ja-JP_M.zip", buffer.getvalue())
        with pytest.raises(BadArchive, match="refused"):
            fetch(home, corpora, "hificaptain-ja")
        assert not list(tmp_path.rglob("*.wav"))
        assert not (home.corpora / "hificaptain-ja").exists()

    def test_a_bomb_is_refused(self, corpora: Server, home: Home):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("male/wav/dev/a.wav", bytes(30_000_000))
        corpora.put("/release/hi-fi-captain/hfc_ja-JP_M.zip", buffer.getvalue())
        with pytest.raises(BadArchive, match="bomb"):
            fetch(home, corpora, "hificaptain-ja")

    def test_a_zip_without_recordings_is_an_error(self, corpora: Server, home: Home):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("readme.md", "x")
        corpora.put("/release/hi-fi-captain/hfc_ja-JP_M.zip", buffer.getvalue())
        with pytest.raises(BadArchive, match="holds no recordings"):
            fetch(home, corpora, "hificaptain-ja")

    def test_nothing_flows_before_the_licence_is_accepted(self, corpora: Server, home: Home):
        with pytest.raises(AasvcError, match="hificaptain-ja: nothing was fetched.*--yes"):
            fetch(home, corpora, "hificaptain-ja", accept=False)
        assert corpora.requests == []
        assert not home.root.exists()

    def test_one_is_not_asked_again_when_the_same_command_goes_on(self, corpora: Server, home: Home):
        corpora.faults = [drop(1000), *[status(500)] * 9]
        with pytest.raises(DownloadError):
            fetch(home, corpora, "hificaptain-ja")
        corpora.faults.clear()
        assert not fetch(home, corpora, "hificaptain-ja", accept=False).items[0].already_there

    def test_a_disk_that_is_too_small_is_an_error_before_anything_flows(
        self, corpora: Server, captain: dict[str, bytes], home: Home, monkeypatch: pytest.MonkeyPatch
    ):
        usage = namedtuple("usage", "total used free")
        sizes = [len(captain["male"]), len(captain["female"])]
        # the second zip lies beside what came out of both
        needed = sizes[1] + sum(round(size * download.UNPACKED_FACTOR) for size in sizes)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, needed - 1))
        with pytest.raises(StorageError, match=r"hificaptain-ja: needs about .* are free.*AASVC_HOME"):
            fetch(home, corpora, "hificaptain-ja")
        assert corpora.gets() == []
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, needed))
        fetch(home, corpora, "hificaptain-ja")

    def test_a_disk_that_shrank_meanwhile_is_an_error_before_unpacking(
        self, corpora: Server, home: Home, monkeypatch: pytest.MonkeyPatch
    ):
        usage = namedtuple("usage", "total used free")
        frees = iter([10**12])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, next(frees, 1000)))
        with pytest.raises(StorageError, match="unpacks to .* are free"):
            fetch(home, corpora, "hificaptain-ja")
        assert not list(home.corpora.rglob("*.wav"))
        assert len(list(home.corpora.rglob("hfc_ja-JP_M.zip"))) == 1


class TestNames:
    def test_each_name_is_meant_once(self):
        assert [item.name for item in choose(["demo", "demo"])] == ["demo"]

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("hificaptain", "hificaptain-"),
            ("hificaptain-jp", "hificaptain-ja"),
            ("Demo", "demo"),
            ("male_female_aas_vc", "male_female_aas_vc_mel_pretrained"),
            ("pwg", "pwg_jp_female"),
        ],
    )
    def test_a_near_miss_is_recognised(self, name: str, meant: str):
        with pytest.raises(DataError, match=f"nothing named {name} can be downloaded; did you mean {meant}"):
            choose([name])

    def test_without_a_near_miss_everything_is_listed(self):
        with pytest.raises(DataError, match=", ".join(CATALOGUE)):
            choose(["zzz"])


class TestSources:
    MODEL = CATALOGUE[PUBLISHED[0]].files[1]
    ZIP = CATALOGUE["hificaptain-en"].files[0]

    def test_addresses_are_the_published_ones(self):
        source = Source.from_environment()
        assert source.address(self.MODEL) == self.MODEL.url
        assert source.address(self.ZIP) == "https://ast-astrec.nict.go.jp/release/hi-fi-captain/hfc_en-US_M.zip"

    def test_the_hub_of_the_environment_stands_for_hugging_face_alone(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
        source = Source.from_environment()
        assert source.address(self.MODEL) == f"https://hub.example{HUB}/{PUBLISHED[0]}/config.yml"
        assert source.address(self.ZIP) == self.ZIP.url

    def test_a_mirror_stands_for_every_host(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
        source = Source.from_environment(mirror="http://mirror.example/captain/")
        assert source.address(self.MODEL) == f"http://mirror.example/captain{HUB}/{PUBLISHED[0]}/config.yml"
        assert source.address(self.ZIP).startswith("http://mirror.example/captain/release/")

    @pytest.mark.parametrize("address", ["mirror.example", "file:///srv", "http://", "ftp://mirror.example"])
    def test_what_is_no_web_address_is_refused(self, address: str, monkeypatch: pytest.MonkeyPatch):
        with pytest.raises(DataError, match="--mirror .*: not a web address"):
            Source.from_environment(mirror=address)
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(DataError, match="HF_ENDPOINT .*: not a web address"):
            Source.from_environment()

    def test_the_token_goes_to_the_hub_and_not_to_a_mirror(
        self, server: Server, published: dict[str, bytes], home: Home, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        fetch(home, server, PUBLISHED[0], source=Source.from_environment(mirror=server.url))
        assert not any("Authorization" in request.headers for request in server.requests)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.requests.clear()
        fetch(home, server, PUBLISHED[1], source=Source.from_environment())
        assert {request.headers.get("Authorization") for request in server.requests} == {"Bearer hf_secret"}
        assert "hf_secret" not in repr(Source.from_environment())
        assert not any(b"hf_secret" in path.read_bytes() for path in home.root.rglob("*") if path.is_file())

    @pytest.mark.parametrize(("word", "off"), [("1", True), ("TRUE", True), ("yes", True), ("0", False), ("", False)])
    def test_the_network_can_be_switched_off(self, word: str, off: bool, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", word)
        assert Source.from_environment().offline == off
        assert Source.from_environment(offline=True).offline

    def test_offline_what_is_missing_is_an_error_and_what_ships_works(
        self, server: Server, published: dict[str, bytes], home: Home
    ):
        with pytest.raises(
            DownloadError, match="pwg_jp_female: is not on this machine and the network is switched off"
        ):
            fetch(home, server, "pwg_jp_female", source=Source(mirror=server.url, offline=True))
        assert server.requests == []
        assert fetch(home, server, "demo", source=Source(offline=True)).items[0].n_files > 200


class TestSurvey:
    def test_sizes_come_from_the_server_and_states_from_the_disk(
        self, corpora: Server, published: dict[str, bytes], captain: dict[str, bytes], home: Home
    ):
        fetch(home, corpora, "pwg_jp_female", "demo")
        corpora.faults = [drop(5000), *[status(500)] * 9]
        with pytest.raises(DownloadError):
            fetch(home, corpora, "hificaptain-ja")
        found = {
            state.item.name: state for state in survey(home, choose(list(CATALOGUE)), Source(mirror=corpora.url)).items
        }
        assert {name: state.state for name, state in found.items()} == {
            "male_female_aas_vc_mel_pretrained": "absent",
            "pwg_jp_female": "present",
            "hificaptain-ja": "partial",
            "hificaptain-en": "absent",
            "demo": "present",
        }
        model = sum(len(content) for path, content in published.items() if PUBLISHED[0] in path)
        assert (found[PUBLISHED[0]].bytes_to_fetch, found[PUBLISHED[0]].estimated) == (model, False)
        assert found["hificaptain-ja"].bytes_to_fetch == len(captain["male"]) + len(captain["female"])
        assert found["hificaptain-ja"].bytes_here == 5000
        assert found["hificaptain-en"].estimated  # not on this server

    def test_offline_no_one_is_asked_and_unknown_sizes_are_unknown(self, server: Server, home: Home):
        found = survey(home, choose(list(CATALOGUE)), Source(mirror=server.url, offline=True)).items
        assert server.requests == []
        assert {state.item.name: state.bytes_to_fetch for state in found if state.estimated} == {
            "male_female_aas_vc_mel_pretrained": None,
            "pwg_jp_female": None,
            "hificaptain-ja": 20_000_000_000,
            "hificaptain-en": 20_000_000_000,
        }
        assert not home.root.exists()

    def test_a_host_that_does_not_answer_is_asked_once(self, home: Home, monkeypatch: pytest.MonkeyPatch):
        asked: list[str] = []
        monkeypatch.setattr(download.Http, "probe", lambda _, url: asked.append(url))
        survey(home, choose(list(CATALOGUE)), Source())
        assert len(asked) == 2


class TestCommand:
    """`aasvc download` as a user meets it."""

    @pytest.fixture(autouse=True)
    def _mirror(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AASVC_MIRROR", server.url)

    def test_the_published_model_is_one_command(
        self, aasvc: Aasvc, server: Server, published: dict[str, bytes], home: Home
    ):
        outcome = aasvc("download")
        assert outcome.code == 0, outcome.err
        assert str(home.models / PUBLISHED[0]) in outcome.out
        assert str(home.vocoders / PUBLISHED[1]) in outcome.out
        assert f"next: aasvc convert in.wav -o out.wav --model {PUBLISHED[0]}" in outcome.err
        assert "already there" in aasvc("download").out

    def test_a_corpus_is_downloaded_prepared_and_trainable(
        self, aasvc: Aasvc, corpora: Server, home: Home, tiny_conf: Path
    ):
        outcome = aasvc("download", "hificaptain-ja")
        assert (outcome.code, outcome.out) == (1, "")
        assert "no commercial use" in outcome.err
        assert "accept it with --yes" in outcome.err.splitlines()[-1]
        outcome = aasvc("download", "--yes", "hificaptain-ja")
        assert outcome.code == 0, outcome.err
        assert "next: aasvc prepare hificaptain-ja" in outcome.err
        outcome = aasvc("prepare", "hificaptain-ja", "--conf", tiny_conf, "--jobs", 1)
        assert outcome.code == 0, outcome.err
        assert "male_female: 4 train, 1 dev, 1 eval pairs" in outcome.out
        assert aasvc("stats").code == 0

    def test_the_list_shows_size_licence_and_state(
        self, aasvc: Aasvc, corpora: Server, published: dict[str, bytes], home: Home
    ):
        assert aasvc("download", "demo").code == 0
        text = aasvc("download", "--list").out
        for item in CATALOGUE.values():
            assert re.search(rf"^{item.name}  {item.kind}, ", text, re.MULTILINE)
            assert f"licence {item.licence.name}" in text
        assert re.search(r"^demo .* present, [\d.]+ MB in ", text, re.MULTILINE)
        assert re.search(r"^hificaptain-ja  corpus, [\d.]+ MB, absent$", text, re.MULTILINE)
        assert re.search(r"^hificaptain-en  corpus, about 20\.0 GB, absent$", text, re.MULTILINE)
        tree = json.loads(aasvc("download", "--list", "--json", "-").out)
        assert [item["name"] for item in tree["items"]] == list(CATALOGUE)
        assert tree["free_bytes"] > 0
        assert "unknown size" in aasvc("download", "--list", "--offline").out

    def test_a_dry_run_says_what_would_happen_and_does_nothing(self, aasvc: Aasvc, corpora: Server, home: Home):
        outcome = aasvc("download", "--dry-run", "hificaptain-ja")
        assert outcome.code == 0, outcome.err
        assert f"{corpora.url}/release/hi-fi-captain/hfc_ja-JP_F.zip" in outcome.out
        assert re.search(r"disk: [\d.]+ MB needed, [\d.]+ .B free", outcome.out)
        assert "no commercial use" in outcome.out
        assert corpora.gets() == []
        assert not home.root.exists()
        tree = json.loads(aasvc("download", "-n", "hificaptain-ja", "--json", "-").out)
        assert tree["items"][0]["disk_bytes"] > tree["items"][0]["bytes"]

    def test_the_result_is_there_for_programs(
        self, aasvc: Aasvc, server: Server, published: dict[str, bytes], home: Home
    ):
        (item,) = json.loads(aasvc("download", "pwg_jp_female", "--json", "-").out)["items"]
        assert item["folder"] == str(home.vocoders / "pwg_jp_female")
        assert (item["n_files"], item["already_there"]) == (3, False)

    def test_a_misspelt_name_is_wrong_usage(self, aasvc: Aasvc, server: Server):
        outcome = aasvc("download", "hificaptain-jp")
        assert outcome.code == 2
        assert "did you mean hificaptain-ja?" in outcome.err

    def test_offline_is_an_option(self, aasvc: Aasvc, server: Server):
        outcome = aasvc("download", "--offline")
        assert (outcome.code, server.requests) == (1, [])
        assert "network is switched off" in outcome.err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "aasvc_cli", *arguments]


def start(server: Server, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "AASVC_MIRROR": server.url}
    return subprocess.Popen(
        command("download", *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestOtherProcesses:
    """Signals and second processes, with a model of 400 kB that comes in small pieces."""

    @pytest.fixture
    def slow(self, server: Server, published: dict[str, bytes]) -> dict[str, bytes]:
        path = f"{HUB}/pwg_jp_female/checkpoint-400000steps.pkl"
        published[path] = np.random.default_rng(0).bytes(400_000)
        server.put(path, published[path])
        server.faults = [servers.drip(0.02, 1 << 13)]
        return {key.rpartition("/")[2]: value for key, value in published.items() if "pwg" in key}

    def check(self, home: Home, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            assert (home.vocoders / "pwg_jp_female" / name).read_bytes() == content
        assert hidden(home.vocoders) == []

    @pytest.mark.process
    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
    def test_a_killed_download_goes_on_where_it_was_killed(self, server: Server, slow: dict[str, bytes], home: Home):
        for sent in (60_000, 200_000):
            process = start(server, "pwg_jp_female")
            wait_for(lambda sent=sent: server.sent > sent)
            process.kill()
            process.communicate()
            assert not (home.vocoders / "pwg_jp_female").exists()
            server.faults = [servers.drip(0.02, 1 << 13)]
        kept = (home.vocoders / ".pwg_jp_female.partial" / "checkpoint-400000steps.pkl.part").stat().st_size
        assert kept > 100_000
        server.faults.clear()
        server.requests.clear()
        process = start(server, "pwg_jp_female")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert server.gets()[0].headers["Range"] == f"bytes={kept}-"
        self.check(home, slow)

    @pytest.mark.process
    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
    def test_an_interrupted_download_says_that_the_same_command_goes_on(
        self, server: Server, slow: dict[str, bytes], home: Home
    ):
        process = start(server, "pwg_jp_female")
        wait_for(lambda: server.sent > 60_000)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert time.monotonic() - began < 5
        assert re.fullmatch(
            r"aasvc: stopped; \d+ bytes of pwg_jp_female are kept, the same command goes on from there",
            errors.splitlines()[-1],
        )
        server.faults.clear()
        fetch(home, server, "pwg_jp_female")
        assert "Range" in [request for request in server.gets() if "400000" in request.path][-1].headers
        self.check(home, slow)

    @pytest.mark.process
    def test_a_disk_that_takes_no_more_is_an_error_and_what_it_took_is_kept(
        self, server: Server, slow: dict[str, bytes], home: Home
    ):
        resource = pytest.importorskip("resource")
        server.faults.clear()

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        process = start(server, "pwg_jp_female", preexec_fn=limit)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert re.fullmatch(r"aasvc: error: cannot write .*\.pkl\.part: .*limit.*", errors.splitlines()[-1])
        server.requests.clear()
        fetch(home, server, "pwg_jp_female")
        assert server.gets()[0].headers["Range"] == "bytes=100000-"
        self.check(home, slow)

    @pytest.mark.process
    def test_two_processes_at_once_fetch_it_once(self, server: Server, slow: dict[str, bytes], home: Home):
        go_on = threading.Event()
        server.faults = [servers.pause(30_000, go_on)]
        first = start(server, "pwg_jp_female")
        wait_for(lambda: server.sent >= 30_000)
        second = start(server, "pwg_jp_female")
        assert second.stderr is not None
        assert second.stderr.readline() == "pwg_jp_female: another process is fetching it; waiting\n"
        go_on.set()
        outcomes = [process.communicate(timeout=60) for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), outcomes
        assert "already there" in outcomes[1][0]
        assert len(server.gets()) == 3
        self.check(home, slow)

    @pytest.mark.process
    @pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1)])
    def test_on_a_terminal_the_licence_is_a_question(self, corpora: Server, home: Home, answer: bytes, code: int):
        ours, theirs = pytest.importorskip("pty").openpty()
        process = subprocess.Popen(
            command("download", "hificaptain-ja"), stdin=theirs, stdout=theirs, stderr=theirs,
            env={**os.environ, "AASVC_MIRROR": corpora.url, "TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)
        shown, answered = b"", False
        try:
            while select.select([ours], [], [], 60)[0]:
                try:
                    block = os.read(ours, 1 << 16)
                except OSError:  # what Linux says when the other end is closed
                    break
                if not block:
                    break
                shown += block
                if not answered and b"[y/N]" in shown:
                    assert corpora.requests == []
                    os.write(ours, answer)
                    answered = True
        finally:
            os.close(ours)
            assert process.wait(60) == code, shown.decode()
        assert answered
        assert b"no commercial use" in shown
        assert (home.corpora / "hificaptain-ja").exists() == (code == 0)
