"""The bytes of sound files: recordings joined end to end in one file, and how much of each is there.

Decoders stop at the end of the first recording of a joined file, and take a file that was cut short for a short one.
Both show in the bytes: each recording begins with the signature of its format, and most headers say how long it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_CHUNK = 1 << 20
_LONGEST_SIGNATURE = 64
_STREAM_SIZE = 0x7FFF0000
"""Sizes from here on, and 0, are those of programs that write into a pipe and don't know the length yet."""

_SIGNATURES = {
    "wav": re.compile(rb"(?:RIFF|RIFX|RF64)....WAVE", re.DOTALL),
    "aiff": re.compile(rb"FORM....AIF[FC]", re.DOTALL),
    "au": re.compile(rb"\.snd\x00\x00\x00[\x18-\xff].{4}\x00\x00\x00[\x01-\x1c]", re.DOTALL),
    "flac": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    "ogg": re.compile(rb"OggS\x00[\x02\x03\x06\x07]\x00{8}"),
    "caf": re.compile(rb"caff\x00\x01\x00\x00"),
    "w64": re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"),
    "mp3": re.compile(rb"Xing|Info|VBRI"),
}
"""How a recording begins; in an MP3, what its first frame holds."""


@dataclass(frozen=True)
class Part:
    """One recording in a file.

    Attributes:
        start, stop: its bytes
        share: how much of it is there, 1.0 for all; None for less than all, but nobody knows how much
        counted: the header counts the samples, so that the decoder's number of frames is no guess
        shown_size: how many bytes the decoder is told there are, where it would stop too early; None for the true size
        patch: a place, counted from ``start``, and what the decoder finds there instead of what the file says
        beside: how many other recordings run side by side with it in an Ogg, which nobody reads
    """

    start: int
    stop: int
    share: float | None = 1.0
    counted: bool = False
    shown_size: int | None = None
    patch: tuple[int, bytes] | None = None
    beside: int = 0

    @property
    def as_it_is(self) -> bool:
        """Whether the decoder may read the bytes themselves."""
        return self.start == 0 and self.shown_size is None and self.patch is None


def find_parts(path: Path) -> list[Part]:
    """The recordings in a file, in order; a file of an unknown format is one.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        kind = _kind(file)
        if kind is None:
            return [Part(0, size)]
        starts = _mp3_starts(file, size) if kind == "mp3" else _starts(file, kind)
        stops = [*starts[1:], size]
        return [_part(file, kind, start, stop) for start, stop in zip(starts, stops, strict=True)]


class Window(io.RawIOBase):
    """The bytes of a part of a file, as a decoder is to see them, as a file of their own."""

    def __init__(self, file: IO[bytes], part: Part) -> None:
        self._file, self._part, self._place = file, part, 0
        self._length = part.stop - part.start
        self._shown = self._length if part.shown_size is None else part.shown_size

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the window."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._shown}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        """The place within the window."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer with what is left."""
        self._file.seek(self._part.start + self._place)
        content = bytearray(self._file.read(max(0, min(len(buffer), self._length - self._place))))
        if not content and self._shown - _TAG_BYTES <= self._place < self._shown:
            content = bytearray(min(len(buffer), self._shown - self._place))  # no tag at the end that is shown
        if self._part.patch is not None:
            place, patch = self._part.patch
            for index in range(max(place, self._place), min(place + len(patch), self._place + len(content))):
                content[index - self._place] = patch[index - place]
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _read(file: IO[bytes], start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _kind(file: IO[bytes]) -> str | None:
    head = _read(file, _after_id3(file, 0), _LONGEST_SIGNATURE)
    for kind, signature in _SIGNATURES.items():
        if kind != "mp3" and signature.match(head):
            return kind
    return "mp3" if _is_layer3(head) else None


def _after_id3(file: IO[bytes], start: int) -> int:
    """Where the sound begins behind an ID3v2 tag, if there is one."""
    head = _read(file, start, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    length = 0
    for octet in head[6:10]:
        length = length << 7 | octet & 0x7F
    return start + 10 + length


def _hits(file: IO[bytes], signature: re.Pattern[bytes], start: int = 0) -> Iterator[int]:
    """Where a signature stands, looked for chunk by chunk."""
    file.seek(start)
    window, base, last = b"", start, -1
    while chunk := file.read(_CHUNK):
        window += chunk
        place = file.tell()
        for match in signature.finditer(window):
            if base + match.start() > last:
                last = base + match.start()
                yield last
        file.seek(place)
        kept = window[-_LONGEST_SIGNATURE:]
        base += len(window) - len(kept)
        window = kept


def _starts(file: IO[bytes], kind: str) -> list[int]:
    hits = list(_hits(file, _SIGNATURES[kind]))
    if kind == "ogg":  # streams that run side by side begin on neighbouring pages
        hits = [hit for index, hit in enumerate(hits) if not index or hit > _page_end(file, hits[index - 1])]
    return [0, *hits[1:]]


# --- what is there of a recording -----------------------------------------------------------------------------------


def _part(file: IO[bytes], kind: str, start: int, stop: int) -> Part:
    if kind == "ogg":
        return _ogg_part(file, start, stop)
    if kind == "flac":
        return Part(start, stop, counted=True)
    if kind == "mp3":
        return _mp3_part(file, start, stop)
    stated = _stated(file, kind, start, stop)
    if stated is None:
        return Part(start, stop)
    offset, length = stated
    if length == 0:
        return Part(start, stop, patch=_forgotten_length(file, kind, start, offset, stop))
    return Part(start, stop, min(1.0, max(0, stop - offset) / length))


def _stated(file: IO[bytes], kind: str, start: int, stop: int) -> tuple[int, int] | None:
    """Where the samples begin and how many bytes of them the header promises; None if nobody knew it yet."""
    if kind == "au":
        head = _read(file, start, 12)
        offset, length = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
        return None if length == 0 or length >= _STREAM_SIZE else (start + offset, length)
    head = _read(file, start, 12)
    order = "big" if head[:4] in (b"FORM", b"RIFX") or kind == "caf" else "little"
    # name, size field and what the size counts besides the content
    name, field, inside, wanted = {
        "wav": (4, 4, 0, b"data"), "aiff": (4, 4, 0, b"SSND"), "caf": (4, 8, 0, b"data"), "w64": (16, 8, 24, b"data"),
    }[kind]  # fmt: skip
    place = start + {"wav": 12, "aiff": 12, "caf": 8, "w64": 40}[kind]
    long_length = None
    while place + name + field <= stop:
        chunk = _read(file, place, name + field + 16)
        length = int.from_bytes(chunk[name : name + field], order) - inside  # type: ignore[arg-type]
        content = place + name + field
        if chunk[:4] == b"ds64":
            long_length = int.from_bytes(chunk[16:24], "little")
        if chunk[:4] == wanted:
            if length == 0xFFFFFFFF and long_length is not None:
                length = long_length
            elif (field == 4 and length >= _STREAM_SIZE) or length >= 1 << 62:
                return None
            return content, length
        step = 8 if kind == "w64" else 1 if kind == "caf" else 2
        place = content + length + -length % step
    return None


def _forgotten_length(file: IO[bytes], kind: str, start: int, content: int, stop: int) -> tuple[int, bytes] | None:
    """The length that a WAV has where it says 0, as programs write that meant to fill it in later; None for others.

    Any other wrong length is one that the decoder reads to the end of the file.
    """
    head, there = _read(file, content, 8), stop - content
    another_chunk = abs(int.from_bytes(head[4:8], "little") + 8 - there) <= 1
    if kind != "wav" or not there or another_chunk or _read(file, start, 4) != b"RIFF":
        return None
    return content - 4 - start, min(there, 0xFFFFFFFF).to_bytes(4, "little")


# --- Ogg ------------------------------------------------------------------------------------------------------------

_OGG_READ = (b"\x01vorbis", b"OpusHead")
_OGG_SOUNDS = (*_OGG_READ, b"\x7fFLAC", b"Speex   ")
"""How the first packets begin of streams that the decoder reads, and of all that hold sound."""


def _page_end(file: IO[bytes], page: int) -> int:
    head = _read(file, page, 27 + 255)
    segments = head[26] if len(head) > 26 else 0
    return page + 27 + segments + sum(head[27 : 27 + segments])


def _ogg_part(file: IO[bytes], start: int, stop: int) -> Part:
    """A recording, alone or side by side with other streams: a film, an index (Skeleton), more recordings.

    The decoder goes by the first page and passes over those of other streams, so the part begins with the first page of
    the first stream that it reads.
    """
    streams, page = [], _after_id3(file, start)
    while page < stop and _SIGNATURES["ogg"].match(_read(file, page, _LONGEST_SIGNATURE)):
        head = _read(file, page, 27 + 255 + 8)
        if len(head) < 27:
            break
        streams.append((page, head[14:18], head[27 + head[26] :]))
        page = _page_end(file, page)
    read = next((stream for stream in streams if stream[2].startswith(_OGG_READ)), None)
    if read is None:
        return Part(start, stop)
    page, serial, _ = read
    sounds = sum(packet.startswith(_OGG_SOUNDS) for _, _, packet in streams)
    share = 1.0 if _ogg_ends(file, start, stop, serial) else None
    return Part(start if read is streams[0] else page, stop, share, beside=sounds - 1)


def _ogg_ends(file: IO[bytes], start: int, stop: int, serial: bytes) -> bool:
    """Whether the page is there that says that it is the last one of a stream."""
    last = re.compile(rb"OggS\x00[\x04-\x07].{8}" + re.escape(serial), re.DOTALL)
    return any(_page_end(file, page) <= stop for page in _hits(file, last, start))


# --- MP3 ------------------------------------------------------------------------------------------------------------

_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Bit rates of MPEG 1, and of MPEG 2 and 2.5, by their numbers in headers, from 1."""
_LONGEST_FRAME = 1441
_TAIL_FRAMES = 8
_ANY_SIZE = 1 << 33
"""More than an MP3 has; decoders count on from it."""
_TAG_BYTES = 128
"""Of an ID3v1 tag at the end of a file."""


def _is_layer3(header: bytes) -> bool:
    return len(header) >= 4 and header[0] == 0xFF and header[1] & 0xE6 == 0xE2 and header[1] & 0x18 != 0x08


def _mp3_starts(file: IO[bytes], size: int) -> list[int]:
    """Where the recordings begin: at a frame that describes a recording, or behind all that such a frame counts."""
    first = _after_id3(file, 0)
    described = []
    for hit in _hits(file, _SIGNATURES["mp3"]):
        frame = _described_frame(file, hit)
        if frame is not None:
            described.append(frame)
    starts = {0, *(frame for frame in described if frame > first)}
    for frame in described:
        description = _described(file, frame, size)
        end = frame + (description.n_bytes if description else 0)
        if frame < end < size - 4 and not any(frame < other <= end + _CHUNK for other in described):
            while _read(file, end, 3) == b"TAG":
                end += 128
            if _is_layer3(_read(file, end, 4)) or _is_layer3(_read(file, _after_id3(file, end), 4)):
                starts.add(end)
    return sorted(starts)


def _described_frame(file: IO[bytes], hit: int) -> int | None:
    """The start of the frame whose description stands at ``hit``; None if this is no such thing."""
    for distance in (13, 15, 21, 23, 36, 38):
        if hit >= distance:
            header = _read(file, hit - distance, 4)
            if _is_layer3(header) and _description_offset(header, _read(file, hit, 4)) == distance:
                return hit - distance
    return None


def _description_offset(header: bytes, name: bytes) -> int:
    if name == b"VBRI":
        return 36
    mono, first_version = header[3] >> 6 == 3, header[1] & 0x18 == 0x18
    side = (17 if mono else 32) if first_version else (9 if mono else 17)
    return 4 + side + (0 if header[1] & 1 else 2)


@dataclass(frozen=True)
class _Description:
    """What the first frame of an MP3 says of it.

    Attributes:
        counted: it counts the frames
        n_bytes: of all frames; 0 if it doesn't say
        place: where that number stands
    """

    counted: bool
    n_bytes: int = 0
    place: int = 0


def _described(file: IO[bytes], start: int, stop: int) -> _Description | None:
    """What the first frame says of a recording, None if it is one of sound."""
    frame = _after_id3(file, start)
    head = _read(file, frame, min(64, stop - frame))
    if not _is_layer3(head):
        return None
    for name in (b"Xing", b"Info"):
        place = _description_offset(head, name)
        if head[place : place + 4] == name:
            flags = int.from_bytes(head[place + 4 : place + 8], "big")
            counted = place + 8 + (4 if flags & 1 else 0)
            n_bytes = int.from_bytes(head[counted : counted + 4], "big") if flags & 2 else 0
            return _Description(bool(flags & 1), n_bytes, frame + counted)
    return _Description(True) if head[36:40] == b"VBRI" else None


def _mp3_part(file: IO[bytes], start: int, stop: int) -> Part:
    described = _described(file, start, stop)
    if described is None or not described.counted:
        # the decoder takes the first frame's bit rate for that of all, and stops where they would end by it
        broken = _broken_frame(file, start, stop)
        return Part(start, broken or stop, None if broken else 1.0, shown_size=_ANY_SIZE)
    n_bytes = stop - _after_id3(file, start)
    if described.n_bytes <= n_bytes:
        return Part(start, stop, counted=True)
    # it is counted how much is missing; the decoder would only complain that the size is another
    return Part(start, stop, counted=True, patch=(described.place - start, n_bytes.to_bytes(4, "big")))


def _broken_frame(file: IO[bytes], start: int, stop: int) -> int | None:
    """Where the last frame begins, if it is not all there, which decoders take for an error; else None."""
    if _read(file, max(start, stop - _TAG_BYTES), 3) == b"TAG":
        stop -= _TAG_BYTES
    begin = _after_id3(file, start)
    base = max(begin, stop - _TAIL_FRAMES * _LONGEST_FRAME)
    content = _read(file, base, stop - base)
    for first in range(min(len(content), _LONGEST_FRAME)):
        kind, place, count = content[first + 1 : first + 3], first, 0
        while (length := _frame_bytes(head := content[place : place + 4])) and _alike(head[1:3], kind):
            if place + length > len(content):
                break
            place, count = place + length, count + 1
        if count >= 3 or (count and base + first == begin):
            header_cut = 0 < len(content) - place < 4 and content[place] == 0xFF
            return base + place if length or header_cut else None
    return None


def _alike(kind: bytes, other: bytes) -> bool:
    """Whether two headers have the same version and sample rate."""
    return kind[0] == other[0] and kind[1] & 0x0C == other[1] & 0x0C


def _frame_bytes(header: bytes) -> int:
    """The length of the frame that a header begins; 0 if it is none, or doesn't say."""
    if not _is_layer3(header):
        return 0
    version, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if bit_rate in (0, 15) or rate == 3:
        return 0
    first = version == 3
    samples_per_second = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kilobits = (_KILOBITS if first else _KILOBITS_LOW)[bit_rate - 1]
    return (144_000 if first else 72_000) * kilobits // samples_per_second + (header[2] >> 1 & 1)
