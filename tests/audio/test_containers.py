"""Joined and cut files of every format that libsndfile writes; how many samples they hold is known by construction."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.containers import find_parts
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.streams import AudioFile
from aasvc_cli.errors import AudioError

RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "rf64.wav": ("RF64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_24"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def voice(seconds: float, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return 0.1 * sum(np.sin(2 * np.pi * k * 120 * t) / k for k in range(1, 9))


def encoded(seconds: float, suffix: str, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    format_name, subtype = FORMATS[suffix]
    soundfile.write(buffer, voice(seconds, rate), rate, format=format_name, subtype=subtype)
    return buffer.getvalue()


def read(path: Path) -> tuple[float, dict[str, str]]:
    remarks: dict[str, str] = {}
    wave, rate = read_audio(path, lambda remark: remarks.update({remark.code: remark.message}))
    return len(wave) / rate, remarks


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_whole_file_is_one_part_and_needs_no_remark(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encoded(1.5, suffix))
    (part,) = find_parts(path)
    assert (part.start, part.stop, part.share) == (0, path.stat().st_size, 1.0)
    assert read(path) == (pytest.approx(1.5, abs=0.1), {})


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_of_a_joined_file_is_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    alone = []
    for seconds in (1.0, 2.0, 0.5):
        path.write_bytes(encoded(seconds, suffix))
        alone.append(read_audio(path)[0])
    path.write_bytes(b"".join(encoded(seconds, suffix) for seconds in (1.0, 2.0, 0.5)))
    remarks: list[str] = []
    wave, _ = read_audio(path, lambda remark: remarks.append(remark.message))
    np.testing.assert_array_equal(wave, np.concatenate(alone))
    assert remarks == ["3 recordings joined in one file, read one after the other"]
    file = AudioFile(path)
    np.testing.assert_array_equal(np.concatenate(list(file.blocks())), wave)
    assert file.remarks == tuple(remarks)


def test_parts_of_other_rates_are_refused_by_name(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(1.0, "wav") + encoded(1.0, "wav", 24000))
    with pytest.raises(AudioError, match=r"a\.wav: recordings of 16000 Hz and 24000 Hz joined in one file"):
        read_audio(path)


@pytest.mark.parametrize("suffix", ["wav", "float.wav", "rf64.wav", "aiff", "au", "w64"])
def test_a_cut_file_tells_how_much_is_missing(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    whole = encoded(1.6, suffix)
    path.write_bytes(whole[: int(len(whole) * 0.65)])
    seconds, remarks = read(path)
    assert seconds == pytest.approx(1.6 * 0.65, abs=0.02)
    assert remarks == {"truncated": f"ends after {seconds:.2f} of 1.60 s, the rest of the file is missing"}


@pytest.mark.parametrize("suffix", ["opus", "mp3"])
def test_a_cut_compressed_file_is_noticed(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    whole = encoded(3.0, suffix)
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    seconds, remarks = read(path)
    assert 0.5 < seconds < 2.5
    assert "the rest of the file is missing" in remarks["truncated"]


def test_a_cut_flac_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    whole = encoded(3.0, "flac")
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    with pytest.raises(AudioError, match=r"a\.flac: not readable as audio \(.+\)"):
        read_audio(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_stream_that_does_not_know_its_length_is_whole(tmp_path, size):
    content = bytearray(encoded(1.0, "wav"))
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(content)
    assert read(tmp_path / "a.wav") == (1.0, {})


def test_what_follows_a_recording_but_is_no_sound_does_no_harm(tmp_path):
    for suffix in ("wav", "mp3"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(encoded(1.0, suffix) + b"TAG" + bytes(125))
        assert read(path) == (pytest.approx(1.0, abs=0.1), {})
