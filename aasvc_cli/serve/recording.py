"""A session in which somebody records sentences: what is to be read, what is done, and what is wrong with a reading."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aasvc_cli.audio.files import encode_audio, read_audio
from aasvc_cli.audio.pauses import LevelMeter, silent_frames
from aasvc_cli.audio.quality import Wave, measure
from aasvc_cli.data.analysis import MIN_SECONDS, SILENT_PEAK
from aasvc_cli.data.checks import CLIPPED_NOTE, RATIO_TOO_FAR
from aasvc_cli.data.corpus import clean_name, scan_speaker
from aasvc_cli.data.manifest import UNASSIGNED
from aasvc_cli.data.texts import decoded, read_sentences, read_texts, sentences_of
from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import make_folder, open_binary, write_bytes, write_text

FAINT_LUFS = -38.0
"""Quieter speech drowns in the noise of most microphones."""
SIGNAL_TO_NOISE_DB = 20.0
EDGE_SECONDS = 0.02
"""Speech nearer to an end of the recording than this was probably cut off."""
LATE_SECONDS = 2.0
DEV, EVAL, EVERY = 1, 6, 10
"""Of ten sentences, the second is for dev and the seventh for evaluation, so that a session may end anywhere."""


@dataclass(frozen=True)
class Sentence:
    """Something to read.

    Attributes:
        name: of the recording
        set: folder that it goes to
        text: empty if only the target's reading says what it is
        target: the target's reading
    """

    name: str
    set: str
    text: str
    target: Path | None = None


@dataclass(frozen=True)
class Session:
    """Sentences to record into a folder, as ``source/wav/<set>/<name>.wav``; with those of the target beside it.

    What is done is what is there, so a session can be left and gone on with.
    """

    folder: Path
    sentences: Sequence[Sentence]

    @classmethod
    def plan(cls, folder: Path, sentences: Path | None, target: Path | None) -> Session:
        """Lay out a session; the texts are in the folder from the beginning.

        Args:
            sentences: a text file, one sentence a line, with or without an id before it
            target: the target's recordings; in the layout of a corpus, or any folder

        Raises:
            DataError: neither is given, or nothing is in them.
            StorageError: the folder cannot be written to.
        """
        if target is not None:
            planned = _of_target(target, read_sentences(sentences).by_id if sentences else None)
        elif sentences is not None:
            lines = read_lines(sentences).items()
            planned = [Sentence(name, _set(place), text) for place, (name, text) in enumerate(lines)]
        else:
            raise DataError(
                "what is to be read? give sentences (--sentences FILE) or the target's recordings (--target DIR)"
            )
        session = cls(folder, planned)
        for side in ("source", "target") if target is not None else ("source",):
            session._write_texts(make_folder(folder / side))
        return session

    def _write_texts(self, speaker: Path) -> None:
        for name in dict.fromkeys(each.set for each in self.sentences):
            lines = [f"{each.name} {each.text}\n" for each in self.sentences if each.set == name and each.text]
            if lines:
                write_text(speaker / "text" / f"{name}.txt", "".join(lines))

    @property
    def command(self) -> str:
        """What comes after it."""
        if any(each.target for each in self.sentences):
            return f"aasvc prepare {shlex.quote(str(self.folder))}"
        return f"aasvc prepare --source {shlex.quote(str(self.folder / 'source'))} --target DIR"

    def path(self, sentence: Sentence) -> Path:
        """Where the reading of a sentence goes."""
        return self.folder / "source" / "wav" / sentence.set / f"{sentence.name}.wav"

    def keep(self, sentence: Sentence, wave: Wave, sample_rate: int) -> None:
        """Write a reading, and beside it the target's; raises StorageError."""
        if sentence.target is not None:
            beside = self.folder / "target" / "wav" / sentence.set / f"{sentence.name}{sentence.target.suffix}"
            with open_binary(sentence.target) as stream:
                write_bytes(beside, stream.read())
        write_bytes(self.path(sentence), encode_audio(wave, sample_rate, "WAV", "PCM_16"))


def read_lines(path: Path) -> Mapping[str, str]:
    """Sentences of a text file by id; numbered where its lines begin with none.

    Raises:
        StorageError, DataError: as of :func:`~aasvc_cli.data.texts.read_sentences`.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", decoded(path)) if line.strip()]
    if not lines:
        raise DataError(f"{path}: no sentences; expected one a line")
    if all(re.match(r"\S*\d\S*[\s|,:]", line) for line in lines):
        return {clean_name(name): text for name, text in read_sentences(path).by_id.items()}
    return {f"{number:04d}": line for number, line in enumerate(lines, start=1)}


def _of_target(folder: Path, texts: Mapping[str, str] | None) -> list[Sentence]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (--target)")
    recordings = scan_speaker(folder)
    names = {
        path: os.path.splitext(recordings.relative(path))[0] for paths in recordings.sets.values() for path in paths
    }
    sentence_of = sentences_of(names.values(), read_texts(folder) if texts is None else texts)
    planned = [
        Sentence(
            clean_name(names[path]), name if name != UNASSIGNED else _set(place), sentence_of.get(names[path], ""), path
        )
        for name, paths in recordings.sets.items()
        for place, path in enumerate(paths)
    ]
    if not planned:
        raise DataError(f"{folder}: holds no recordings of the target (--target)")
    return planned


def _set(place: int) -> str:
    return {DEV: "dev", EVAL: "eval"}.get(place % EVERY, "train")


def faults(wave: Wave, sample_rate: int, target: Path | None = None) -> list[str]:
    """What is wrong with a reading, a sentence each; none if it can be used.

    Args:
        wave: (n,), n > 0
        target: the same sentence by the target, to compare the length with
    """
    quality = measure(wave, sample_rate)
    if quality.peak < SILENT_PEAK or quality.loudness is None:
        return ["Nothing can be heard. Is the right microphone chosen and switched on?"]
    faults = []
    if quality.clipped_share >= CLIPPED_NOTE:
        faults.append("Too loud: the peaks are cut off. Turn the microphone down, or go farther away.")
    if quality.loudness < FAINT_LUFS:
        faults.append(f"Too quiet ({quality.loudness:.0f} LUFS). Turn the microphone up, or come nearer.")
    distance = _signal_to_noise(wave, sample_rate)
    if distance < SIGNAL_TO_NOISE_DB:
        faults.append(f"Noisy: the speech is only {distance:.0f} dB above the noise of the room.")
    if quality.start < EDGE_SECONDS:
        faults.append("The first word may be cut off. Wait a moment before you speak.")
    if quality.stop > quality.seconds - EDGE_SECONDS:
        faults.append("The last word may be cut off. Wait a moment before you stop.")
    if quality.start > LATE_SECONDS:
        faults.append(f"It begins with {quality.start:.1f} s of silence.")
    return [*faults, *_wrong_length(quality.stop - quality.start, target)]


def _signal_to_noise(wave: Wave, sample_rate: int) -> float:
    """How far the speech is above what lies between it, in dB; infinite without anything between."""
    meter = LevelMeter(sample_rate)
    meter.add(wave)
    levels = meter.levels()
    silent = silent_frames(levels)
    if silent.all() or not silent.any():
        return math.inf
    return float(np.median(levels[~silent]) - np.median(levels[silent]))


def _wrong_length(seconds: float, target: Path | None) -> list[str]:
    if seconds < MIN_SECONDS + 0.1:
        return [f"Only {seconds:.1f} s of speech."]
    if target is None:
        return []
    wave, sample_rate = read_audio(target)
    spoken = measure(wave, sample_rate)
    usual = spoken.stop - spoken.start
    if abs(math.log(seconds / usual)) > RATIO_TOO_FAR[1]:
        return [f"It lasts {seconds:.1f} s, the target's reading {usual:.1f} s. Is it the same sentence?"]
    return []
