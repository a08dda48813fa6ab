"""Files appear complete or not at all, and broken ones are recognised."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from aasvc_cli.audio.files import decode_audio, list_audio, read_audio, write_audio
from aasvc_cli.errors import AudioError, DataError, ModelError, StorageError
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import (
    atomic_write,
    byte_size,
    check_writable,
    line_writer,
    lock,
    make_folder,
    read_json,
    remove_unfinished,
    write_all,
    write_bytes,
    write_json,
    write_text,
)
from aasvc_cli.storage.home import HOME_VARIABLE, Home, bundled, find_home
from tests.examples import examples

ROOT = Path(__file__).parents[2]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond `limit` bytes, as a full disk would."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


class TestAtomicWrite:
    def test_the_file_gets_the_bytes_and_the_usual_permissions(self, tmp_path: Path):
        path = tmp_path / "new folder" / "file.bin"
        write_bytes(path, b"abc")
        plain = tmp_path / "plain"
        plain.write_bytes(b"")
        assert path.read_bytes() == b"abc"
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
        assert list(path.parent.iterdir()) == [path]

    def test_nothing_is_seen_under_the_name_before_the_end(self, tmp_path: Path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with atomic_write(path) as stream:
            stream.write(b"new")
            stream.flush()
            assert path.read_bytes() == b"old"
        assert path.read_bytes() == b"new"

    @pytest.mark.parametrize("old", [None, b"old content"])
    def test_a_full_disk_leaves_the_folder_as_it_was(self, tmp_path: Path, old: bytes | None):
        path = tmp_path / "file"
        if old is not None:
            path.write_bytes(old)
        with file_size_limit(4096), pytest.raises(StorageError, match="file-size limit"):
            write_bytes(path, bytes(100_000))
        assert [p.name for p in tmp_path.iterdir()] == (["file"] if old is not None else [])
        assert old is None or path.read_bytes() == old

    @pytest.mark.parametrize("failure", [ValueError("stop"), KeyboardInterrupt(), SystemExit(1)])
    def test_any_failure_of_the_writer_leaves_the_folder_as_it_was(self, tmp_path: Path, failure: BaseException):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(type(failure)), atomic_write(path) as stream:
            stream.write(b"half")
            raise failure
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_threads_that_write_at_once_leave_the_permissions_of_new_files_as_they_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        mask = 0o027

        def slow_umask(new: int) -> int:
            nonlocal mask
            old = mask
            time.sleep(0.02)  # the other thread asks meanwhile
            mask = new
            return old

        monkeypatch.setattr(os, "umask", slow_umask)
        paths = [tmp_path / name for name in ("one", "two", "three")]
        threads = [threading.Thread(target=write_bytes, args=(path, b"")) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert mask == 0o027
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o640}

    def test_a_stream_that_takes_a_few_bytes_at_a_time_gets_them_all(self):
        class Slow(io.BytesIO):
            def write(self, data) -> int:
                return super().write(data[:3])

        stream = Slow()
        write_all(stream, b"more than three bytes")
        assert stream.getvalue() == b"more than three bytes"

    def test_a_file_in_the_place_of_a_folder_is_named(self, tmp_path: Path):
        (tmp_path / "a").write_bytes(b"")
        for path in (tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
            with pytest.raises(StorageError, match="file"):
                write_bytes(path, b"x")
        with pytest.raises(StorageError, match="a file stands there"):
            make_folder(tmp_path / "a")

    def test_a_folder_in_the_place_of_the_file_is_named_and_kept(self, tmp_path: Path):
        (tmp_path / "a").mkdir()
        with pytest.raises(StorageError, match="a folder stands there"):
            write_bytes(tmp_path / "a", b"x")
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    @pytest.mark.unprivileged
    def test_a_folder_without_write_permission_is_named(self, tmp_path: Path):
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(StorageError, match="no permission"):
                write_bytes(tmp_path / "file", b"x")
        finally:
            tmp_path.chmod(0o700)

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
    def test_a_file_system_that_takes_no_files_is_one_storage_error(self):
        with pytest.raises(StorageError, match="cannot write /proc/file"):
            write_bytes(Path("/proc/file"), b"x")

    @pytest.mark.process
    def test_a_process_killed_in_the_middle_leaves_the_old_file(self, tmp_path: Path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        code = (
            "import sys, time; from pathlib import Path; from aasvc_cli.storage.files import atomic_write\n"
            "with atomic_write(Path(sys.argv[1])) as stream:\n"
            "    stream.write(b'half'); stream.flush(); print('writing', flush=True); time.sleep(60)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            process.kill()
        assert path.read_bytes() == b"old"
        assert all(p == path or p.name.startswith(".") for p in tmp_path.iterdir()), "what is left is hidden"


class TestDestinations:
    """Only regular files are replaced; everything else is what the user means to write to."""

    def test_a_link_stays_and_what_it_leads_to_is_replaced(self, tmp_path: Path):
        (tmp_path / "real").mkdir()
        real, link, outer = tmp_path / "real" / "x", tmp_path / "link", tmp_path / "outer"
        real.write_bytes(b"old")
        link.symlink_to(Path("real") / "x")
        outer.symlink_to(link)
        write_bytes(outer, b"new")
        assert link.is_symlink()
        assert outer.is_symlink()
        assert real.read_bytes() == b"new"
        assert [path.name for path in real.parent.iterdir()] == ["x"]

    def test_a_link_to_nothing_yet_makes_the_file_it_leads_to(self, tmp_path: Path):
        (tmp_path / "link").symlink_to(tmp_path / "later")
        write_bytes(tmp_path / "link", b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "later").read_bytes() == b"new"

    def test_a_circle_of_links_is_named(self, tmp_path: Path):
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(StorageError, match=r"cannot write .*a: its symbolic links lead in a circle"):
            write_bytes(tmp_path / "a", b"x")

    def test_a_failure_leaves_what_a_link_leads_to_as_it_was(self, tmp_path: Path):
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        with pytest.raises(ValueError, match="stop"), atomic_write(tmp_path / "link") as stream:
            stream.write(b"half")
            raise ValueError("stop")
        assert (tmp_path / "real").read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_gets_the_bytes_and_stays(self, tmp_path: Path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        content = bytes(range(256)) * 1000  # more than a pipe holds
        with (tmp_path / "copy").open("wb") as copy, subprocess.Popen(["cat", str(pipe)], stdout=copy):
            write_bytes(pipe, content)
        assert (tmp_path / "copy").read_bytes() == content
        assert pipe.is_fifo()

    @pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="needs /dev/null")
    def test_a_device_stays_a_device(self, tmp_path: Path):
        (tmp_path / "null").symlink_to("/dev/null")
        device = Path("/dev/null").stat().st_rdev
        for path in (tmp_path / "null", *self.own_device(tmp_path)):
            write_bytes(path, b"x")
            assert path.is_char_device()
            assert path.stat().st_rdev == device
        assert (tmp_path / "null").is_symlink()

    @staticmethod
    def own_device(folder: Path) -> list[Path]:
        """A null device that may be damaged, where one can be made (only by root)."""
        try:
            os.mknod(folder / "own", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except OSError:
            return []
        return [folder / "own"]

    @pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
    def test_a_descriptor_is_written_to_where_it_stands(self, tmp_path: Path):
        with (tmp_path / "file").open("w+b", buffering=0) as stream:
            stream.write(b"before ")
            write_bytes(Path(f"/dev/fd/{stream.fileno()}"), b"x")
            (tmp_path / "link").symlink_to(f"/proc/self/fd/{stream.fileno()}")
            write_bytes(tmp_path / "link", b"y")
            stream.write(b" after")
        assert (tmp_path / "file").read_bytes() == b"before xy after"
        with pytest.raises(StorageError, match="Bad file descriptor"):
            write_bytes(Path("/dev/fd/987"), b"x")

    def test_permissions_and_owner_of_the_file_before_are_kept(self, tmp_path: Path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(path, 1234, 2345)
        before = path.stat()
        write_bytes(path, b"new")
        after = path.stat()
        assert path.read_bytes() == b"new"
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)

    @pytest.mark.unprivileged
    def test_a_protected_file_is_not_replaced_and_a_writable_one_in_a_protected_folder_is_written(self, tmp_path: Path):
        protected, writable = tmp_path / "a" / "file", tmp_path / "b" / "file"
        for path in (protected, writable):
            path.parent.mkdir()
            path.write_bytes(b"old")
        protected.chmod(0o400)
        writable.parent.chmod(0o500)
        try:
            with pytest.raises(StorageError, match="no permission"):
                write_bytes(protected, b"new")
            write_bytes(writable, b"new")
        finally:
            writable.parent.chmod(0o700)
        assert (protected.read_bytes(), writable.read_bytes()) == (b"old", b"new")

    @pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 241])
    def test_a_name_as_long_as_there_may_be_is_written_and_swept(self, tmp_path: Path, name: str):
        with atomic_write(tmp_path / name) as stream:
            (temporary,) = tmp_path.iterdir()
            temporary.with_name(f"{temporary.name[:-1]}~").write_bytes(b"left by one that was killed")
            stream.write(b"new")
        remove_unfinished(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_bytes() == b"new"

    def test_what_was_left_beside_the_end_of_a_link_is_swept(self, tmp_path: Path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real" / "x")
        (tmp_path / "real" / ".x.left").write_bytes(b"")
        remove_unfinished(tmp_path / "link")
        assert not list((tmp_path / "real").iterdir())


class TestNamesThatAreNoText:
    NAME = os.fsdecode(b"\x8e\x84.wav")  # Shift-JIS

    def test_json_gives_them_back(self, tmp_path: Path):
        write_json(tmp_path / "a.json", {self.NAME: [self.NAME, "日本"]})
        assert read_json(tmp_path / "a.json", "names") == {self.NAME: [self.NAME, "日本"]}
        json.loads((tmp_path / "a.json").read_bytes().decode("utf-8", "strict"))

    def test_other_text_has_the_bytes_of_the_name(self, tmp_path: Path):
        write_text(tmp_path / "a.csv", f"日本,{self.NAME}")
        assert (tmp_path / "a.csv").read_bytes() == "日本,".encode() + b"\x8e\x84.wav"

    def test_lines_are_there_at_once(self, tmp_path: Path):
        with line_writer(tmp_path / "new" / "lines") as write:
            write(self.NAME)
            assert (tmp_path / "new" / "lines").read_bytes() == b"\x8e\x84.wav\n"


class TestJson:
    def test_numbers_that_json_does_not_have_become_null(self, tmp_path: Path):
        write_json(tmp_path / "a.json", {"a": [1.5, math.nan, -math.inf], "b": ("x", None), 3: True})
        assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None, None], "b": ["x", None], "3": True}

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1,]"])
    def test_a_broken_file_is_named_with_what_it_should_be(self, tmp_path: Path, content: bytes):
        path = tmp_path / "a.json"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json: expected a list of pairs in JSON"):
            read_json(path, "a list of pairs")

    def test_a_missing_file_is_named(self, tmp_path: Path):
        with pytest.raises(DataError, match=r"b\.json: statistics not found"):
            read_json(tmp_path / "b.json", "statistics")

    def test_text_is_utf_8_whatever_the_locale(self, tmp_path: Path):
        write_text(tmp_path / "文.txt", "こんにちは")
        assert (tmp_path / "文.txt").read_bytes() == "こんにちは".encode()


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.a": torch.randn(17, 5, generator=generator),
        "model.half": torch.randn(3, generator=generator).half(),
        "model.whole": torch.arange(7),
        "model.transposed": torch.randn(4, 6, generator=generator).t(),
        "model.scalar": torch.tensor(2.5),
        "model.empty": torch.zeros(0, 3),
    }


class TestCheckpoint:
    def test_tensors_and_header_come_back_as_they_were(self, tmp_path: Path):
        path = tmp_path / "last.safetensors"
        header = {"step": 12, "note": "日本語", "dev": {"loss": 0.25}, "list": [1, None, True]}
        save_checkpoint(path, tensors(), header)
        loaded, found = load_checkpoint(path)
        assert found == header
        assert set(loaded) == set(tensors())
        for name, tensor in tensors().items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)

    def test_a_file_cut_anywhere_is_a_model_error(self, tmp_path: Path):
        path = tmp_path / "last.safetensors"
        save_checkpoint(path, tensors(), {"step": 1})
        whole = path.read_bytes()
        header_end = 8 + int.from_bytes(whole[:8], "little")
        for length in (0, 1, 7, 8, 9, header_end - 1, header_end, header_end + 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(ModelError, match=r"last\.safetensors: expected a complete safetensors file") as caught:
                load_checkpoint(path)
            assert "\n" not in str(caught.value)

    def test_a_changed_bit_anywhere_is_noticed_or_changes_nothing(self, tmp_path: Path):
        path = tmp_path / "best.safetensors"
        save_checkpoint(path, tensors(), {"step": 12})
        whole, noticed = path.read_bytes(), 0
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            path.write_bytes(changed)
            try:
                loaded, header = load_checkpoint(path)
            except ModelError:
                noticed += 1
            else:
                assert header == {"step": 12}
                assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors().items())
        assert len(whole) - noticed < 16, "only padding, and the name of the checksum itself"

    def test_a_file_without_a_checksum_is_read(self, tmp_path: Path):
        save_file({"model.a": torch.ones(3)}, tmp_path / "old.safetensors", metadata={"aasvc": '{"step": 7}'})
        loaded, header = load_checkpoint(tmp_path / "old.safetensors")
        assert header == {"step": 7}
        assert torch.equal(loaded["model.a"], torch.ones(3))

    @pytest.mark.parametrize("name", ["voice/best.safetensors", "vocoder/generator.safetensors"])
    def test_what_the_package_ships_has_a_checksum(self, name: str):
        # the content encoder needs none: its bytes are part of the key of its features, which models are checked by
        with safe_open(bundled(name), framework="pt") as stream:
            assert "crc32" in stream.metadata()

    @pytest.mark.parametrize("content", [b"not a checkpoint at all", bytes(64), b"\xff" * 64])
    def test_another_kind_of_file_is_a_model_error(self, tmp_path: Path, content: bytes):
        path = tmp_path / "best.safetensors"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="best"):
            load_checkpoint(path)

    def test_a_missing_file_or_a_folder_is_a_model_error(self, tmp_path: Path):
        for path in (tmp_path / "none.safetensors", tmp_path):
            with pytest.raises(ModelError, match="no such checkpoint"):
                load_checkpoint(path)

    def test_a_full_disk_keeps_the_checkpoint_before(self, tmp_path: Path):
        path = tmp_path / "last.safetensors"
        save_checkpoint(path, tensors(), {"step": 1})
        with file_size_limit(4096), pytest.raises(StorageError):
            save_checkpoint(path, {"model.big": torch.zeros(100, 100)}, {"step": 2})
        assert load_checkpoint(path)[1] == {"step": 1}
        assert list(tmp_path.iterdir()) == [path]


class TestAudio:
    @examples(25)
    @given(
        n=st.integers(1, 3000),
        rate=st.sampled_from([8000, 22050, 24000, 48000]),
        channels=st.integers(1, 3),
        form=st.sampled_from([("WAV", "FLOAT"), ("WAV", "PCM_24"), ("WAV", "PCM_16"), ("FLAC", "PCM_16")]),
        seed=st.integers(0, 99),
    )
    def test_any_rate_channel_count_and_depth_is_read_as_the_mean_of_its_channels(self, n, rate, channels, form, seed):
        samples = np.random.default_rng(seed).uniform(-0.9, 0.9, (n, channels)).astype(np.float32)
        stream = io.BytesIO()
        soundfile.write(stream, samples, rate, format=form[0], subtype=form[1])
        stream.seek(0)
        wave, found_rate = decode_audio(stream, "drawn")
        assert found_rate == rate
        assert wave.dtype == np.float32
        tolerance = {"FLOAT": 1e-6, "PCM_24": 2**-22, "PCM_16": 2**-14}[form[1]]
        np.testing.assert_allclose(wave, samples.mean(axis=1), atol=tolerance)

    @pytest.mark.parametrize("suffix", [".wav", ".flac"])
    def test_what_is_written_is_read_to_sixteen_bits(self, tmp_path: Path, suffix: str):
        samples = np.sin(np.arange(5000) / 20).astype(np.float32) * 0.5
        write_audio(tmp_path / f"a{suffix}", samples, 24000)
        wave, rate = read_audio(tmp_path / f"a{suffix}")
        assert rate == 24000
        np.testing.assert_allclose(wave, samples, atol=2**-15)

    def test_too_loud_samples_are_clipped_and_do_not_wrap_around(self, tmp_path: Path):
        write_audio(tmp_path / "a.wav", np.array([2.0, -2.0], dtype=np.float32), 8000)
        assert read_audio(tmp_path / "a.wav")[0] == pytest.approx([1.0, -1.0], abs=1e-3)

    @pytest.mark.parametrize("name", ["a.mp4", "a", "a.txt"])
    def test_unknown_output_formats_are_refused_before_anything_is_written(self, tmp_path: Path, name: str):
        with pytest.raises(AudioError, match=r"\.wav, \.flac or \.ogg"):
            write_audio(tmp_path / name, np.zeros(10, dtype=np.float32), 8000)
        assert not list(tmp_path.iterdir())

    def test_a_streamed_header_that_promises_too_much_is_read_to_its_end(self, tmp_path: Path):
        stream = io.BytesIO()
        soundfile.write(stream, np.full(1000, 0.5, dtype=np.float32), 8000, format="WAV")
        data = bytearray(stream.getvalue())
        position = data.index(b"data") + 4
        data[4:8] = data[position : position + 4] = b"\xff\xff\xff\xff"
        (tmp_path / "piped.wav").write_bytes(data)
        assert len(read_audio(tmp_path / "piped.wav")[0]) == 1000

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_samples_that_are_not_numbers_are_refused(self, tmp_path: Path, bad: float):
        samples = np.zeros(100, dtype=np.float32)
        samples[50] = bad
        soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"a\.wav: holds samples that are not numbers"):
            read_audio(tmp_path / "a.wav")

    def test_empty_missing_and_foreign_files_are_named(self, tmp_path: Path):
        soundfile.write(tmp_path / "empty.wav", np.zeros(0, dtype=np.float32), 8000)
        (tmp_path / "zero.wav").write_bytes(b"")
        (tmp_path / "text.wav").write_text("this is no sound")
        cases = {
            "empty.wav": "no samples",
            "zero.wav": "not readable as audio, it is empty",
            "text.wav": "not readable as audio",
            "none.wav": "no such file",
            ".": "is a folder",
        }
        for name, message in cases.items():
            with pytest.raises(AudioError, match=message) as caught:
                read_audio(tmp_path / name)
            assert str(tmp_path) in str(caught.value)

    def test_audio_files_are_listed_in_order_without_hidden_ones(self, tmp_path: Path):
        for name in ("b/2.FLAC", "b/1.wav", "a.ogg", ".hidden.wav", ".git/x.wav", "note.txt", "c.mp3"):
            write_bytes(tmp_path / name, b"")
        found = [path.relative_to(tmp_path).as_posix() for path in list_audio(tmp_path)]
        assert found == sorted(found)
        assert set(found) == {"b/2.FLAC", "b/1.wav", "a.ogg", "c.mp3"}


class TestHome:
    def test_the_explicit_folder_comes_before_the_variable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "variable"))
        assert find_home().root == tmp_path / "variable"
        assert find_home(tmp_path / "explicit").root == tmp_path / "explicit"

    def test_without_either_it_is_the_users_data_folder(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv(HOME_VARIABLE)
        assert find_home().root.name == "aasvc"
        assert find_home().root.is_absolute()

    def test_relative_and_tilde_paths_become_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert find_home(Path("here")).root == tmp_path / "here"
        assert find_home(Path("~/there")).root == tmp_path / "there"

    @pytest.mark.parametrize("linked", [False, True])
    def test_a_data_folder_can_be_moved(self, tmp_path: Path, linked: bool):
        (tmp_path / "disk").mkdir()
        before = Home(tmp_path / "disk")
        if linked:
            (tmp_path / "link").symlink_to(tmp_path / "disk")
            before = Home(tmp_path / "link")
        after = Home(tmp_path / "elsewhere")
        for root in {before.root, before.root.resolve()}:
            assert after.found(before.kept(root / "corpora" / "a.wav")) == after.root / "corpora" / "a.wav"
        for outside in (tmp_path / "a.wav", before.root / ".." / "a.wav", tmp_path / "disk2" / "a.wav"):
            assert after.found(before.kept(outside)) == outside

    def test_results_of_the_bundled_voice_lie_in_the_data_folder(self, home: Home):
        assert home.results_of(bundled("voice"), "mine", trained_on=None) == home.results / "bundled_mine"
        assert home.results_of(home.exp / "a_b_tag", "mine", trained_on="mine") == home.exp / "a_b_tag"

    def test_looking_for_the_data_folder_creates_nothing(self, home: Home):
        assert home.exp.parent == home.root
        assert not home.root.exists()

    def test_what_the_package_ships_is_found(self):
        assert bundled("").is_dir()
        assert not bundled("no such thing").exists()


def test_a_lock_that_another_holds_is_refused_or_waited_for(tmp_path: Path):
    def refuse() -> None:
        raise DataError("in use")

    path, waited = tmp_path / "new" / ".lock", threading.Event()
    with lock(path):
        with pytest.raises(DataError, match="in use"), lock(path, refuse):
            pass

        def wait() -> None:
            with lock(path, waited.set):
                (tmp_path / "done").touch()

        other = threading.Thread(target=wait)
        other.start()
        assert waited.wait(10)
        assert not (tmp_path / "done").exists()
    other.join(10)
    assert (tmp_path / "done").exists()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a file stands there"), lock(tmp_path / "file" / ".lock"):
        pass


def test_sizes_are_for_people():
    sizes = [byte_size(n) for n in (0, 999, 1000, 1_550_000, 25_300_000_000, None)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "1.6 MB", "25.3 GB", "unknown size"]


def test_where_nothing_can_be_written_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    closed, file = tmp_path / "closed", tmp_path / "file"
    closed.mkdir()
    file.write_text("kept")
    # root may do anything, so permissions are made up: all but ``closed`` may be written to
    monkeypatch.setattr(os, "access", lambda path, mode: closed not in (Path(path), *Path(path).parents))
    for place in (tmp_path / "a.wav", file, tmp_path / "new" / "folder" / "a.wav"):
        check_writable(place)
    for place in (closed / "a.wav", closed / "new" / "folder" / "a.wav"):
        with pytest.raises(StorageError, match=rf"^cannot write {place}: no permission; choose a folder"):
            check_writable(place)
    assert {*tmp_path.rglob("*")} == {closed, file}
