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


def ogg_pages(content: bytes) -> list[bytes]:
    pages = []
    while content:
        n_segments = content[26]
        length = 27 + n_segments + sum(content[27 : 27 + n_segments])
        pages.append(content[:length])
        content = content[length:]
    return pages


def ogg_page(flags: int, number: int, packet: bytes, serial: bytes = b"skel") -> bytes:
    """A page of one packet, with the checksum of RFC 3533."""
    place = struct.pack("<IB", number, 1)
    page = b"OggS\0" + bytes([flags]) + bytes(8) + serial + place[:4] + bytes(4) + place[4:] + bytes([len(packet)])
    page += packet
    checksum = 0
    for octet in page:
        checksum ^= octet << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", checksum) + page[26:]


def side_by_side(*streams: list[bytes]) -> bytes:
    """Streams page by page in turn, so that all begin before the second page of any."""
    longest = max(map(len, streams))
    return b"".join(stream[index] for index in range(longest) for stream in streams if index < len(stream))


SKELETON = [ogg_page(2, 0, b"fishead\0" + bytes(56)), ogg_page(4, 1, b"")]
"""The index that programs put before a recording."""


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
@pytest.mark.parametrize("first", [True, False])
def test_a_recording_beside_a_stream_without_sound_is_read(tmp_path, suffix, first):
    path, alone = tmp_path / f"a.{suffix}", encoded(3.0, suffix)
    path.write_bytes(alone)
    expected, _ = read_audio(path)
    streams = [SKELETON, ogg_pages(alone)] if first else [ogg_pages(alone), SKELETON]
    path.write_bytes(side_by_side(*streams))
    remarks: list[str] = []
    for wave in (
        read_audio(path, lambda remark: remarks.append(remark.message))[0],
        np.concatenate(list(AudioFile(path).blocks())),
    ):
        np.testing.assert_array_equal(wave, expected)
    assert remarks == []
    path.write_bytes(side_by_side(*streams) * 2)
    wave, _ = read_audio(path, lambda remark: remarks.append(remark.code))
    np.testing.assert_array_equal(wave, np.concatenate([expected, expected]))
    assert remarks == ["joined"]


def test_of_two_recordings_side_by_side_one_is_read_and_the_other_is_named(tmp_path):
    path, other = tmp_path / "a.ogg", encoded(5.0, "opus")
    for alone in (encoded(3.0, "ogg"), encoded(3.0, "opus")):
        path.write_bytes(alone)
        expected, _ = read_audio(path)
        path.write_bytes(side_by_side(ogg_pages(alone), ogg_pages(other)))
        remarks: dict[str, str] = {}
        wave, _ = read_audio(path, lambda remark, into=remarks: into.update({remark.code: remark.message}))
        np.testing.assert_array_equal(wave, expected)
        assert remarks == {"beside": "recordings side by side in one file; the other one is left out"}


def test_a_missing_end_is_that_of_the_recording_and_not_of_what_is_beside_it(tmp_path):
    path, pages = tmp_path / "a.ogg", ogg_pages(encoded(3.0, "opus"))
    film = [SKELETON[0], *(ogg_page(0, number, bytes(200)) for number in range(1, 2000)), ogg_page(4, 2000, b"")]
    path.write_bytes(side_by_side(pages, film[:-1]))
    assert read(path) == (pytest.approx(3.0, abs=0.1), {})
    path.write_bytes(side_by_side(pages[:-1], film))
    assert "the rest of the file is missing" in read(path)[1]["truncated"]


@pytest.mark.parametrize("size", [13, 14, 20, 26, 27, 30, 60, 100, 150])
def test_an_ogg_that_ends_in_its_first_pages_is_refused_in_plain_words(tmp_path, size):
    path = tmp_path / "a.ogg"
    path.write_bytes(side_by_side(SKELETON, ogg_pages(encoded(1.0, "ogg")))[:size])
    with pytest.raises(AudioError, match=r"a\.ogg: not readable as audio"):
        read_audio(path)


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


@pytest.mark.parametrize("suffix", ["flac", "caf"])
@pytest.mark.parametrize("share", [0.03, 0.6])
def test_a_cut_file_that_the_decoder_does_not_take_is_refused_in_plain_words(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    whole = encoded(3.0, suffix)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AudioError, match=rf"a\.{suffix}: not readable as audio \(damaged or cut short\)"):
        read_audio(path)


def bare_mp3(samples: np.ndarray, bitrate_mode: str) -> bytes:
    """An MP3 without the first frame, which describes it, as programs write that stream."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE, 1, format="MP3", bitrate_mode=bitrate_mode) as stream:
        stream.write(samples)
    content = buffer.getvalue()
    return content[content.index(content[:2], 4) :]


@pytest.mark.parametrize("suffix", [b"", b"TAG" + bytes(125)])
@pytest.mark.parametrize("lost", [1, 3, 50, 2000])
def test_a_cut_mp3_that_does_not_say_how_long_it_is_is_noticed(tmp_path, capfd, lost, suffix):
    path, whole = tmp_path / "a.mp3", bare_mp3(voice(3.0), "CONSTANT")
    path.write_bytes(whole + suffix)
    assert read(path) == (pytest.approx(3.0, abs=0.2), {})
    path.write_bytes(whole[:-lost] + suffix)
    seconds, remarks = read(path)
    assert remarks == {"truncated": f"breaks off after {seconds:.2f} s, the rest of the file is missing"}
    assert 2.0 < seconds < (2.5 if lost == 2000 else 3.2)
    assert capfd.readouterr() == ("", ""), "the decoder talks to standard error"


def test_an_mp3_of_variable_bit_rate_that_does_not_say_how_long_it_is_is_read_to_its_end(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, RATE)
    path = tmp_path / "a.mp3"
    path.write_bytes(bare_mp3(np.concatenate([noise, np.zeros(4 * RATE), voice(1.0)]), "VARIABLE"))
    wave, _ = read_audio(path)
    assert len(wave) / RATE == pytest.approx(6.0, abs=0.2)
    assert np.abs(wave[-RATE // 2 :]).max() > 0.05, "the voice at the end"


def test_a_cut_mp3_that_says_how_long_it_is_is_no_matter_for_the_decoder_to_talk_about(tmp_path, capfd):
    path, whole = tmp_path / "a.mp3", encoded(3.0, "mp3")
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    _, remarks = read(path)
    assert remarks["truncated"].endswith("of 3.00 s, the rest of the file is missing")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_stream_that_does_not_know_its_length_is_whole(tmp_path, size):
    content = bytearray(encoded(1.0, "wav"))
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(content)
    assert read(tmp_path / "a.wav") == (1.0, {})


def test_a_length_that_was_never_filled_in_is_that_of_the_file(tmp_path):
    path, content = tmp_path / "a.wav", bytearray(encoded(1.0, "wav"))
    place = content.index(b"data") + 4
    content[place : place + 4] = bytes(4)
    path.write_bytes(content)
    assert read(path) == (1.0, {})
    path.write_bytes(content[: place + 4] + b"LIST\x04\x00\x00\x00INFO")
    with pytest.raises(AudioError, match=r"a\.wav: holds no samples"):
        read_audio(path)


@pytest.mark.parametrize("rate", [0, 1 << 31, (1 << 32) - 1])
def test_a_rate_that_is_none_is_refused_in_plain_words(tmp_path, rate):
    content = bytearray(encoded(1.0, "wav"))
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.wav: not readable as audio \(damaged or cut short\)"):
        read_audio(tmp_path / "a.wav")


def test_what_follows_a_recording_but_is_no_sound_does_no_harm(tmp_path):
    for suffix in ("wav", "mp3"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(encoded(1.0, suffix) + b"TAG" + bytes(125))
        assert read(path) == (pytest.approx(1.0, abs=0.1), {})
