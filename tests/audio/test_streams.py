"""Sound by blocks: odd headers, raw samples, pipes, names."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from aasvc_cli.audio import files
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.streams import (
    RAW_ENCODINGS,
    STREAM,
    AudioFile,
    RawAudio,
    encode_raw,
    format_of,
    read_names,
    sound_writer,
    spooled,
    temporary_file,
)
from aasvc_cli.errors import AudioError, DataError, StorageError
from tests.examples import examples

RATE = 16000
NAMES = st.binary(min_size=1, max_size=20).map(lambda name: name.replace(b"\0", b"0").replace(b"\n", b"n"))


def noise(n: int = 100_000, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)


def read(path: Path, raw: RawAudio | None = None) -> np.ndarray:
    return np.concatenate(list(AudioFile(path, raw=raw).blocks()))


def wav_bytes(samples: np.ndarray) -> bytearray:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
    return bytearray(buffer.getvalue())


def with_sizes(wav: bytearray, riff: int, data: int) -> bytes:
    place = wav.index(b"data")
    wav[4:8] = riff.to_bytes(4, "little")
    wav[place + 4 : place + 8] = data.to_bytes(4, "little")
    return bytes(wav)


class TestReading:
    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
    def test_blocks_are_what_is_read_at_once(self, tmp_path: Path, name: str):
        soundfile.write(tmp_path / name, noise(200_000, 2), RATE)
        at_once, rate = read_audio(tmp_path / name)
        file = AudioFile(tmp_path / name)
        for _ in range(2):
            assert np.array_equal(np.concatenate(list(file.blocks())), at_once)
        assert file.sample_rate == rate == RATE
        assert file.seconds == len(at_once) / RATE

    def test_an_mp3_is_the_same_in_blocks_of_any_size(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        # with a seek after each block, the decoder complains on standard error and loses what a frame borrows
        soundfile.write(tmp_path / "a.mp3", noise(1 << 21), RATE)
        samples, _ = read_audio(tmp_path / "a.mp3")
        assert np.array_equal(read(tmp_path / "a.mp3"), samples)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        ("riff", "data"),
        [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0, 0), (0x7FFFFFFF, 0), (36, 0)],
        ids=lambda size: f"{size:x}",
    )
    def test_sizes_of_streamed_wavs_are_not_believed(self, riff: int, data: int):
        wav = with_sizes(wav_bytes(noise()), riff, data)
        with spooled(io.BytesIO(wav)) as path:
            assert np.abs(read(path) - noise()[:, 0]).max() < 1e-4

    def test_a_flac_that_does_not_know_its_length_is_read_to_its_end(self, tmp_path: Path):
        buffer = io.BytesIO()
        soundfile.write(buffer, noise(), RATE, format="FLAC")
        flac = bytearray(buffer.getvalue())
        # STREAMINFO: 36 bits of the number of samples, as an encoder leaves them that cannot go back
        flac[18:26] = (int.from_bytes(flac[18:26], "big") & ~((1 << 36) - 1)).to_bytes(8, "big")
        (tmp_path / "a.flac").write_bytes(flac)
        assert np.abs(read(tmp_path / "a.flac") - noise()[:, 0]).max() < 1e-4
        assert len(read_audio(tmp_path / "a.flac")[0]) == len(noise())

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_samples_that_are_not_numbers_are_refused(self, tmp_path: Path, value: float):
        samples = noise()
        samples[-3] = value
        soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"a\.wav: holds samples that are not numbers"):
            read(tmp_path / "a.wav")

    def test_what_is_no_recording_is_named(self, tmp_path: Path):
        (tmp_path / "text.wav").write_text("hello")
        soundfile.write(tmp_path / "empty.wav", noise(0), RATE)
        for name, message in (
            ("text.wav", "not readable"), ("empty.wav", "no samples"), ("none.wav", "no such file"), (".", "a folder")
        ):  # fmt: skip
            with pytest.raises(AudioError, match=message):
                read(tmp_path / name)


class TestRaw:
    @pytest.mark.parametrize("encoding", RAW_ENCODINGS)
    def test_samples_are_those_of_libsndfile(self, tmp_path: Path, encoding: str):
        samples = np.concatenate([noise()[:, 0] * 2.2, np.array([0, 1, -1, 0.5, 1.5 / 32768], np.float32)])
        subtype, endian = RAW_ENCODINGS[encoding]
        soundfile.write(tmp_path / "a.raw", samples, RATE, format="RAW", subtype=subtype, endian=endian)
        assert encode_raw(samples, encoding) == (tmp_path / "a.raw").read_bytes()

    @pytest.mark.parametrize("encoding", RAW_ENCODINGS)
    def test_what_is_written_can_be_read(self, tmp_path: Path, encoding: str):
        (tmp_path / "a.raw").write_bytes(encode_raw(noise()[:, 0], encoding))
        bits = int("".join(filter(str.isdigit, encoding)))
        found = read(tmp_path / "a.raw", RawAudio(encoding, RATE))
        assert np.abs(found - noise()[:, 0]).max() <= 2.0 ** (1 - min(bits, 24))

    def test_channels_are_interleaved_and_averaged(self, tmp_path: Path):
        samples = noise(1000, 2)
        (tmp_path / "a.raw").write_bytes(encode_raw(samples.reshape(-1), "f32le"))
        assert np.allclose(read(tmp_path / "a.raw", RawAudio("f32le", RATE, 2)), samples.mean(axis=1))

    @pytest.mark.parametrize(
        ("encoding", "channels", "frame"), [("s8", 2, 2), ("s16le", 1, 2), ("s24be", 2, 6), ("f32le", 3, 12)]
    )
    def test_bytes_that_are_no_whole_sample_are_named_and_the_rest_is_read(
        self, tmp_path: Path, encoding: str, channels: int, frame: int
    ):
        whole = encode_raw(noise(500, channels).reshape(-1), encoding)
        assert len(whole) == 500 * frame
        path, raw = tmp_path / "a.raw", RawAudio(encoding, RATE, channels)
        path.write_bytes(whole)
        expected = read(path, raw)
        for left in range(frame):
            path.write_bytes(whole + bytes([17] * left))
            file = AudioFile(path, raw=raw)
            for _ in range(2):
                assert np.array_equal(np.concatenate(list(file.blocks())), expected)
            if not left:
                assert file.remarks == ()
                continue
            (remark,) = file.remarks
            beginning = f"ends with {left} of the {frame} bytes of a sample ({encoding}, channels: {channels})"
            assert remark.startswith(beginning)

    def test_less_than_a_sample_is_none(self, tmp_path: Path):
        (tmp_path / "a.raw").write_bytes(b"\1")
        with pytest.raises(AudioError, match=r"a\.raw: holds no samples"):
            read(tmp_path / "a.raw", RawAudio("s16le", RATE))

    def test_impossible_descriptions_are_refused(self):
        with pytest.raises(DataError, match="expected one of s8"):
            RawAudio("s17", RATE)
        with pytest.raises(DataError, match="sample rate of 0 Hz"):
            RawAudio("s16le", 0)


class TestHeaders:
    """What a header says is checked before a sample is read."""

    @staticmethod
    def refused(path: Path) -> str:
        """Why both readers refuse a file; they agree."""
        reasons = []
        for reader in (read_audio, AudioFile):
            with pytest.raises(AudioError) as caught:
                reader(path)
            reasons.append(str(caught.value))
        assert reasons[0] == reasons[1]
        return reasons[0]

    @pytest.mark.parametrize("rate", [1, 800, 999, 768_001, 2_000_000_000])
    def test_a_sample_rate_that_no_recording_has_is_refused_by_name(self, tmp_path: Path, rate: int):
        soundfile.write(tmp_path / "a.wav", noise()[:1000], rate, subtype="PCM_16")
        assert f"a.wav: a sample rate of {rate} Hz; expected 1000 to 768000 Hz" in self.refused(tmp_path / "a.wav")

    @pytest.mark.parametrize("rate", [1000, 4000, 192_000, 768_000])
    def test_unusual_sample_rates_are_read(self, tmp_path: Path, rate: int):
        soundfile.write(tmp_path / "a.wav", noise()[:1000], rate, subtype="PCM_16")
        assert read_audio(tmp_path / "a.wav")[1] == AudioFile(tmp_path / "a.wav").sample_rate == rate

    def test_a_number_of_channels_that_no_recording_has_is_refused_by_name(self, tmp_path: Path):
        soundfile.write(tmp_path / "a.wav", np.zeros((10, 65), np.float32), RATE, subtype="PCM_16")
        assert "a.wav: 65 channels; expected 1 to 64" in self.refused(tmp_path / "a.wav")

    def test_lengths_are_bounded_where_a_recording_is_read_into_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        soundfile.write(tmp_path / "a.wav", noise()[:1000], 1000, subtype="PCM_16")
        monkeypatch.setattr(files, "MOST_SAMPLES_AT_ONCE", 999)
        with pytest.raises(AudioError, match="longer than 0 minutes"):
            read_audio(tmp_path / "a.wav")
        assert sum(map(len, AudioFile(tmp_path / "a.wav").blocks())) == 1000

    def test_lengths_are_bounded_where_a_recording_is_read_by_blocks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        soundfile.write(tmp_path / "a.wav", np.zeros(7201, np.float32), 1000, subtype="PCM_16")
        monkeypatch.setattr(files, "LONGEST_HOURS", 0.002)
        with pytest.raises(AudioError, match="longer than 0.002 hours"):
            list(AudioFile(tmp_path / "a.wav").blocks())

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"\0\0\0\x1cftypM4A \0\0\0\0", r"MPEG-4 \(m4a, mp4\); convert it first: ffmpeg -i .*/a\.wav .*/a\.flac"),
            (b"\x1a\x45\xdf\xa3" + bytes(60), "WebM or Matroska"),
            (b"#!AMR-WB\n" + bytes(60), "AMR"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\xef\xbb\xbf\n<!DOCTYPE html>", "a web page"),
            (b"PK\x03\x04" + bytes(60), "a zip archive"),
            (b"", "it is empty"),
        ],
    )
    def test_what_a_file_holds_in_place_of_audio_is_said(self, tmp_path: Path, content: bytes, what: str):
        (tmp_path / "a.wav").write_bytes(content)
        reason = self.refused(tmp_path / "a.wav")
        assert "a.wav: not readable as audio, it is" in reason
        assert re.search(what, reason)


class TestWriting:
    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "s24le", "f32le"])
    def test_blocks_become_one_file_that_was_not_there_before(self, tmp_path: Path, name: str):
        path = tmp_path / "new" / name
        format_name = format_of(path, None if "." in name else name)
        with sound_writer(path, RATE, format_name) as write:
            for start in range(0, 100_000, 33_333):
                write(noise()[start : start + 33_333, 0])
                assert not path.exists()
        found = read(path, None if "." in name else RawAudio(name, RATE))
        assert len(found) == 100_000
        assert np.abs(found - noise()[:, 0]).max() < (1e-4 if name != "a.ogg" else 1.0)  # Vorbis hears no noise
        assert [entry.name for entry in path.parent.iterdir()] == [name]

    def test_a_failure_leaves_nothing_and_an_older_file_as_it_was(self, tmp_path: Path):
        (tmp_path / "a.wav").write_text("older")
        with pytest.raises(ZeroDivisionError), sound_writer(tmp_path / "a.wav", RATE, "wav") as write:
            write(noise()[:, 0])
            raise ZeroDivisionError
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]
        assert (tmp_path / "a.wav").read_text() == "older"

    def test_a_full_disk_is_a_storage_error(self):
        if not os.path.exists("/dev/full"):
            pytest.skip("needs /dev/full")
        with (
            pytest.raises((StorageError, OSError)),
            open("/dev/full", "wb") as full,
            sound_writer(STREAM, RATE, "wav", full) as write,
        ):
            write(noise()[:, 0])

    def test_a_header_on_standard_output_has_the_right_sizes(self):
        stream = io.BytesIO()
        with sound_writer(STREAM, RATE, "wav", stream) as write:
            write(noise()[:50_000, 0])
            write(noise()[50_000:, 0])
        assert stream.getvalue() == bytes(wav_bytes(noise()))

    def test_raw_samples_go_out_as_they_come(self):
        stream = io.BytesIO()
        with sound_writer(STREAM, RATE, "s16le", stream) as write:
            write(noise()[:10, 0])
            assert len(stream.getvalue()) == 20

    def test_formats_follow_the_suffix_unless_they_are_named(self):
        assert format_of(Path("a.FLAC")) == "flac"
        assert format_of(Path("a.xyz"), "ogg") == "ogg"
        assert format_of(STREAM) == "wav"
        with pytest.raises(AudioError, match=r"cannot write \.mp4"):
            format_of(Path("a.mp4"))
        with pytest.raises(AudioError, match="format mp4: cannot be written; use one of wav"):
            format_of(Path("a.wav"), "mp4")


class TestPipes:
    def test_an_empty_pipe_is_an_error_and_no_file_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(AudioError, match="nothing came in"), spooled(io.BytesIO(b"")):
            pass
        with temporary_file() as path:
            assert path.parent == tmp_path
        assert not list(tmp_path.iterdir())

    @examples(50, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(NAMES, max_size=8), st.booleans())
    def test_any_name_survives_a_round_trip(self, names: list[bytes], ended: bool):
        data = b"\0".join(names) + (b"\0" if ended and names else b"")
        assert list(read_names(io.BytesIO(data))) == [Path(os.fsdecode(name)) for name in names]

    def test_a_name_is_there_before_the_next_one_comes(self):
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as stream:
            found = read_names(stream)
            os.write(write_end, b"one\0tw")
            assert next(found) == Path("one")
            os.write(write_end, b"o\0")
            assert next(found) == Path("two")
            os.close(write_end)
            assert list(found) == []

    def test_lines_instead_of_names_are_called_that(self):
        with pytest.raises(DataError, match="use find -print0"):
            list(read_names(io.BytesIO(b"one.wav\ntwo.wav\n")))
