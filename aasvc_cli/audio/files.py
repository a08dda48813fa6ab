"""Recordings on disk: read, written, listed."""

from __future__ import annotations

import contextlib
import io
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aasvc_cli.errors import AudioError
from aasvc_cli.storage.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from aasvc_cli.audio.containers import Part
    from aasvc_cli.audio.mono import Mono, Remark

    Wave = npt.NDArray[np.float32]

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates in Hz that a recording may have; a header with another one is damaged."""
MOST_CHANNELS = 64
LONGEST_HOURS = 24
"""Of a recording that is read by blocks."""
MOST_SAMPLES_AT_ONCE = 1 << 28
"""Of a recording that is read into memory: 1 GiB, three hours at 24 kHz."""
_COUNTING_SLACK = 2 * 1152
"""Samples by which headers may count too many: encoders pad to whole frames of an MP3."""
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf"})


def audio_name(path: Path) -> str | bytes:
    """A path as libsndfile takes it, which on POSIX may be no text at all."""
    return os.fsencode(path) if os.name == "posix" else str(path)


OnRemark = Callable[["Remark"], None]


def read_audio(path: Path, on_remark: OnRemark | None = None) -> tuple[Wave, int]:
    """Read a recording as mono.

    Any format, rate, channel count and bit depth that libsndfile reads. Recordings joined in one file are read one
    after the other. Channels are averaged, but for silent ones and such as cancel; a constant offset is taken off. The
    file is read by blocks, because headers of streamed files can promise sizes that are not there.

    Args:
        on_remark: called with what the samples don't show: a missing end, joined recordings, channels left out

    Returns:
        samples: (n,) float32, full scale at 1.0
        sample_rate: in Hz

    Raises:
        AudioError: missing, unreadable, empty, or with samples that are not finite or not scaled.
    """
    if not path.exists():
        raise AudioError(f"{path}: no such file", "missing")
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, expected an audio file")
    return decode_audio(path, str(path), on_remark)


def decode_audio(source: Path | IO[bytes], name: str, on_remark: OnRemark | None = None) -> tuple[Wave, int]:
    """Decode a file or a seekable stream like :func:`read_audio`; ``name`` is used in messages."""
    import numpy as np

    sound = Sound(source, name)
    waves, n_samples = [], 0
    for part in sound.parts:
        blocks = []
        for block in sound.channels(part, 1 << 20):
            blocks.append(block)
            n_samples += len(block)
            if n_samples > MOST_SAMPLES_AT_ONCE:
                raise AudioError(
                    f"{name}: longer than {MOST_SAMPLES_AT_ONCE / sound.sample_rate / 60:.0f} minutes; split it into "
                    "sentences first",
                    "long",
                )
        waves.append(sound.mono(part)(blocks[0] if len(blocks) == 1 else np.concatenate(blocks)))
    if on_remark:
        for remark in sound.remarks:
            on_remark(remark)
    return waves[0] if len(waves) == 1 else np.concatenate(waves), sound.sample_rate


class Sound:
    """The recordings in a file, as mono and by blocks.

    Attributes:
        parts: mostly one
        sample_rate: in Hz, the same for all
        remarks: what there is to say, complete once all parts were read
    """

    def __init__(self, source: Path | IO[bytes], name: str, **raw: Any) -> None:
        """Look at the headers.

        Args:
            raw: soundfile's description of samples without a header

        Raises:
            AudioError: not readable as audio, or its headers say what no recording has.
        """
        from aasvc_cli.audio.containers import Part, find_parts
        from aasvc_cli.audio.mono import Remark

        self._source, self.name, self._raw = source, name, raw
        self.remarks: list[Remark] = []
        self._mono: dict[Part, Mono] = {}
        with readable(name, source):
            if not raw and (content := what_it_is(source, name)) is not None:
                raise AudioError(f"{name}: not readable as audio, {content}")
            self.parts = find_parts(source) if isinstance(source, Path) and not raw else [Part(0, 0)]
        rates = []
        for part in self.parts:
            with self._open(part) as stream:
                rates.append(int(stream.samplerate))
        self.sample_rate = rates[0]
        if len(set(rates)) > 1:
            listed = " and ".join(f"{rate} Hz" for rate in dict.fromkeys(rates))
            raise AudioError(
                f"{name}: recordings of {listed} joined in one file; split them, or convert the file with ffmpeg"
            )
        if len(rates) > 1:
            self.remarks.append(
                Remark("joined", f"{len(rates)} recordings joined in one file, read one after the other")
            )
        if beside := sum(part.beside for part in self.parts):
            others = "the other one is" if beside == 1 else f"{beside} others are"
            self.remarks.append(Remark("beside", f"recordings side by side in one file; {others} left out"))

    def blocks(self, length: int) -> Iterator[Wave]:
        """The samples in order, (n,) float32 each of at most ``length``; the first time, the file is read twice.

        Raises:
            AudioError: see :func:`read_audio`; or more than a day of samples.
        """
        for part in self.parts:
            if part not in self._mono:
                for _ in self.channels(part, length):
                    pass
        for part in self.parts:
            mono = self._mono[part]
            for block in self._decoded(part, length):
                yield mono(block)

    def mono(self, part: Part) -> Mono:
        """How a part that was read becomes mono."""
        return self._mono[part]

    def channels(self, part: Part, length: int) -> Iterator[Wave]:
        """The samples of a part as they are, (n, C) float32; at the end it is known how they become mono."""
        from aasvc_cli.audio.mono import Remark, Survey

        with self._open(part) as stream:
            survey, frames = Survey(stream.channels, stream.subtype), int(stream.frames)
        for block in self._decoded(part, length):
            survey.add(block)
            yield block
        if not survey.n_samples:
            cut = ", the file ends before the first one" if part.share != 1.0 else ""
            raise AudioError(f"{self.name}: holds no samples{cut}", "empty")
        self._mono[part], remarks = survey.mono(self.name)
        self.remarks += remarks
        seconds, whole = survey.n_samples / self.sample_rate, None
        if part.counted and survey.n_samples + _COUNTING_SLACK < frames < 1 << 60:
            whole = frames / self.sample_rate
        elif part.share is not None and part.share < 1.0:
            whole = seconds / part.share
        if whole is not None:
            message = f"ends after {seconds:.2f} of {whole:.2f} s, the rest of the file is missing"
            self.remarks.append(Remark("truncated", message))
        elif part.share is None:
            message = f"breaks off after {seconds:.2f} s, the rest of the file is missing"
            self.remarks.append(Remark("truncated", message))

    def _decoded(self, part: Part, length: int) -> Iterator[Wave]:
        import numpy as np

        n_samples = 0
        with self._open(part) as stream:
            while len(block := stream.read(length, dtype="float32", always_2d=True)):
                n_samples += len(block)
                if not np.isfinite(block).all():
                    raise AudioError(
                        f"{self.name}: holds samples that are not numbers (NaN or infinite); export the recording "
                        "again",
                        "nan",
                    )
                if n_samples > LONGEST_HOURS * 3600 * stream.samplerate:
                    raise AudioError(f"{self.name}: longer than {LONGEST_HOURS} hours; split it first", "long")
                yield block

    @contextlib.contextmanager
    def _open(self, part: Part) -> Iterator[Any]:
        """A part, open for reading from start to end; what goes wrong meanwhile becomes an AudioError."""
        from aasvc_cli.audio.containers import Window

        with contextlib.ExitStack() as stack:
            stack.enter_context(readable(self.name, self._source))
            source: Any = audio_name(self._source) if isinstance(self._source, Path) else self._source
            if len(self.parts) > 1 or not part.as_it_is:
                assert isinstance(self._source, Path)
                source = Window(stack.enter_context(self._source.open("rb")), part)
            elif not isinstance(self._source, Path):
                self._source.seek(0)
            stream = stack.enter_context(forward_reader()(source, **self._raw))
            check_header(self.name, int(stream.samplerate), int(stream.channels))
            yield stream


def check_header(name: str, sample_rate: int, channels: int = 1) -> None:
    """Refuse a sample rate or a number of channels that no recording has; raises AudioError."""
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise AudioError(
            f"{name}: a sample rate of {sample_rate} Hz; expected {LOWEST_RATE} to {HIGHEST_RATE} Hz, so its header is "
            "probably wrong"
        )
    if not 1 <= channels <= MOST_CHANNELS:
        raise AudioError(f"{name}: {channels} channels; expected 1 to {MOST_CHANNELS}, so its header is probably wrong")


@contextlib.contextmanager
def readable(name: str, source: Path | IO[bytes]) -> Iterator[None]:
    """What goes wrong inside while a sound is read becomes an AudioError that names it."""
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        if isinstance(source, Path) and not os.access(source, os.R_OK):  # "System error" to libsndfile
            raise AudioError(f"{name}: no permission to read") from None
        reason = error.error_string.strip().rstrip(".").removeprefix("Error : ")
        if not reason or any(words in reason for words in _ABOUT_DAMAGE):
            reason = "damaged or cut short"
        if _start_of(source).startswith(b"OggS"):
            reason = "Ogg with a codec other than Vorbis and Opus, or damaged"
        raise AudioError(
            f"{name}: not readable as audio ({reason}); expected wav, flac, ogg or mp3; other formats can be "
            f"converted: {_ffmpeg_line(source, name)}"
        ) from None
    except PermissionError:
        raise AudioError(f"{name}: no permission to read") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from None


_ABOUT_DAMAGE = ("malformed", "lost sync", "unknown error", "nternal error", "does not exist")
"""Words of libsndfile where it can't make sense of what follows a right beginning."""
_OTHER_SOUNDS = (
    (4, b"ftyp", "MPEG-4 (m4a, mp4)"),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"ADIF", "AAC"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio (ape)"),
    (0, b"FLV", "Flash video"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (8, b"AVI ", "AVI"),
)
"""Where the first bytes of sounds that libsndfile doesn't read tell what they are."""
_NO_SOUNDS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the recording; fetch it with git lfs pull"),
    (b"<", "a web page or XML, no recording; download it again"),
    (b"PK\x03\x04", "a zip archive, no recording; unpack it first"),
    (b"\x1f\x8b", "a gzip archive, no recording; unpack it first"),
    (b"%PDF", "a PDF document, no recording"),
)


def what_it_is(source: Path | IO[bytes], name: str) -> str | None:
    """What a file holds that is no sound which can be read, and what to do; None if its first bytes don't tell.

    It is asked before libsndfile, which takes some of these for MP3, and talks to standard error.
    """
    start = _start_of(source)
    if not start:
        return "it is empty (0 bytes)"
    for beginning, what in _NO_SOUNDS:
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(beginning):
            return f"it is {what}"
    for offset, magic, what in _OTHER_SOUNDS:
        if start[offset : offset + len(magic)] == magic:
            return f"it is {what}; convert it first: {_ffmpeg_line(source, name)}"
    return None


def _start_of(source: Path | IO[bytes]) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return stream.read(64)
    source.seek(0)
    start = source.read(64)
    source.seek(0)
    return start


def _ffmpeg_line(source: Path | IO[bytes], name: str) -> str:
    import shlex

    if not isinstance(source, Path) or str(source) != name:  # what came through a pipe
        return "ffmpeg -i INPUT OUTPUT.wav"
    result = source.with_suffix(".flac" if source.suffix.lower() == ".wav" else ".wav")
    return f"ffmpeg -i {shlex.quote(str(source))} {shlex.quote(str(result))}"


@cache
def forward_reader() -> Any:
    """``soundfile.SoundFile`` that reads from start to end only.

    The original seeks to where it already is after each block. At the end of a FLAC that was streamed (and doesn't know
    its length) that fails, and in an MP3 it throws away what the next frame borrows from the one before.
    """
    import soundfile

    class ForwardReader(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return ForwardReader


def encode_audio(samples: Wave, sample_rate: int, format_name: str = "WAV", subtype: str | None = None) -> bytes:
    """Encode mono samples; clipping and rounding to 16 bit are libsndfile's.

    MP3 has a constant bit rate (80 kbit/s up to 24 kHz, 112 above), so that a jump to a position in it is exact.
    """
    import soundfile

    buffer = io.BytesIO()
    default = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(format_name)
    quality: dict[str, Any] = {}
    if format_name == "MP3":
        quality = {"compression_level": 0.5 if sample_rate < 32000 else 0.7, "bitrate_mode": "CONSTANT"}
    with soundfile.SoundFile(
        buffer, "w", sample_rate, 1, format=format_name, subtype=subtype or default, **quality
    ) as stream:
        # libsndfile's Vorbis encoder crashes when it is given some minutes at once
        for start in range(0, len(samples), 1 << 16):
            stream.write(samples[start : start + (1 << 16)])
    return buffer.getvalue()


def audio_format(path: Path) -> str:
    """The format that the suffix of a file to write stands for; raises AudioError if there is none."""
    formats = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise AudioError(f"{path}: cannot write {suffix or 'a file without suffix'}; use .wav, .flac or .ogg")
    return formats[suffix]


def read_comment(path: Path) -> str:
    """The comment in the header of a recording; empty where there is none, or no recording."""
    import soundfile

    try:
        with soundfile.SoundFile(audio_name(path)) as stream:
            return str(stream.comment)
    except (OSError, soundfile.SoundFileError):
        return ""


def write_audio(path: Path, samples: Wave, sample_rate: int) -> None:
    """Write mono samples atomically; the suffix picks WAV (16 bit), FLAC or OGG."""
    write_bytes(path, encode_audio(samples, sample_rate, audio_format(path)))


OTHER_SUFFIXES = frozenset(
    ".3gp .aac .ac3 .amr .ape .dsf .dts .m4a .m4b .m4p .mka .mkv .mov .mp4 .mpc .ra .shn .spx .sph .tta .webm .wma "
    ".wv".split()
)
"""Sound, or films with sound, that has to be converted first."""
_NO_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
"""Folders in which systems keep their own notes under the names of the recordings."""


@dataclass(frozen=True)
class Listing:
    """The sounds below a folder, sorted.

    Attributes:
        recordings: those that can be read
        others: those of :data:`OTHER_SUFFIXES`, and what is named like a recording but no file (a pipe)
    """

    recordings: tuple[Path, ...]
    others: tuple[Path, ...]

    @property
    def advice(self) -> str:
        """What is left out and what to do; empty if nothing is."""
        import shlex

        kinds = Counter(suffix[1:] for path in self.others if (suffix := path.suffix.lower()) in OTHER_SUFFIXES)
        parts = [f"{path} is no regular file" for path in self.others if path.suffix.lower() in AUDIO_SUFFIXES]
        if kinds:
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            first = next(path for path in self.others if path.suffix.lower() in OTHER_SUFFIXES)
            line = f"ffmpeg -i {shlex.quote(str(first))} {shlex.quote(str(first.with_suffix('.wav')))}"
            parts.insert(0, f"{counts} not readable here; convert each to wav first: {line}")
        return "; ".join(parts)


def list_sounds(folder: Path) -> Listing:
    """All sounds below a folder, without hidden ones; links are followed, but no folder is visited twice.

    Raises:
        AudioError: a folder cannot be listed.
    """
    recordings, others = [], []
    seen: set[tuple[int, int]] = set()
    waiting, linked = deque([folder]), deque[Path]()
    while waiting or linked:  # links come last, so that a recording has the name of the folder in which it lies
        base = waiting.popleft() if waiting else linked.popleft()
        try:
            status = base.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for entry in os.scandir(base):
                name = entry.name
                if name.startswith(".") or name in _NO_FOLDERS:
                    continue
                path, suffix = base / name, os.path.splitext(name)[1].lower()
                if entry.is_dir():
                    (linked if entry.is_symlink() else waiting).append(path)
                elif suffix in AUDIO_SUFFIXES and (entry.is_file() or not path.exists()):  # a broken link is missed
                    recordings.append(path)
                elif suffix in OTHER_SUFFIXES or suffix in AUDIO_SUFFIXES:
                    others.append(path)
        except OSError as error:
            raise AudioError(f"{base}: cannot be listed ({error.strerror or error})") from None
    return Listing(tuple(sorted(recordings, key=_in_order)), tuple(sorted(others, key=_in_order)))


def _in_order(path: Path) -> str:
    """Sorts as paths do, folder by folder, in a tenth of the time."""
    return os.fspath(path).replace(os.sep, "\0")


def list_audio(folder: Path) -> list[Path]:
    """The recordings of :func:`list_sounds`."""
    return list(list_sounds(folder).recordings)
