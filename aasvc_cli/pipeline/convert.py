"""Convert files and folders, prepared sets, pipes and lists: in this process, or spread over several."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.streams import STREAM, AudioFile, RawAudio, open_pipe, sound_writer, spooled
from aasvc_cli.conversion.converter import Converter, ConvertOptions, OnMessage, OnProgress
from aasvc_cli.conversion.origin import Origin, origin_of
from aasvc_cli.conversion.plan import Job, Refused, plan_files, plan_names, plan_set
from aasvc_cli.conversion.voice import STATS_FILE, find_voice, is_exported, read_voice
from aasvc_cli.errors import AasvcError, DataError, ModelError, StorageError
from aasvc_cli.exporting.kept import load_kept
from aasvc_cli.features.folder import find_features, read_features
from aasvc_cli.features.kinds import FOLDER
from aasvc_cli.storage.files import check_writable, remove_unfinished, write_bytes
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.parts import Shard
from aasvc_cli.training.memory import return_free_memory
from aasvc_cli.workers import Workers

logger = logging.getLogger(__name__)

_TRIM_PIECES = 8
"""After so many pieces of a recording, memory is given back."""


@dataclass(frozen=True)
class ConvertedFile:
    """A recording that was converted.

    Attributes:
        output: where the result was written
        source_seconds, seconds: length of the recording and of the result
        elapsed_seconds: what it took, reading and writing included
        pieces: how many utterances it was converted as
        gain: what it was multiplied with to avoid clipping; 1 if it wasn't
        warnings: what one should know about the result
    """

    source: Path
    output: Path
    source_seconds: float
    seconds: float
    elapsed_seconds: float
    pieces: int = 1
    gain: float = 1.0
    warnings: tuple[str, ...] = ()

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of result; None for an empty one."""
        return self.elapsed_seconds / self.seconds if self.seconds else None

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {
            "source": str(self.source),
            "output": str(self.output),
            "real_time_factor": self.real_time_factor,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class FailedFile:
    """A recording that could not be converted.

    Attributes:
        error: says why, and names the file
    """

    source: Path
    error: AasvcError

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"source": str(self.source), "error": str(self.error)}


@dataclass(frozen=True)
class SkippedFile:
    """A recording whose result was there already."""

    source: Path
    output: Path

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"source": str(self.source), "output": str(self.output)}


Outcome = ConvertedFile | FailedFile | SkippedFile
OnFile = Callable[[Outcome], None]
OnLine = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class ConvertSummary:
    """What was converted, and what could not be.

    Attributes:
        model: the folder of the voice
        folder: of the results, if they have one in common
        n_skipped: how many were left out because their results were there already
        load_seconds: what it took to load the voice
    """

    model: Path
    vocoder: str | None
    sample_rate: int | None
    folder: Path | None
    files: tuple[ConvertedFile, ...]
    failures: tuple[FailedFile, ...]
    load_seconds: float
    n_skipped: int = 0

    @property
    def seconds(self) -> float:
        """Length of all results together."""
        return sum(file.seconds for file in self.files)

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of result; None without results."""
        return sum(file.elapsed_seconds for file in self.files) / self.seconds if self.seconds else None

    @property
    def error(self) -> AasvcError | None:
        """All failures as one error to end with; None if everything was converted."""
        if not self.failures:
            return None
        if len(self.failures) == 1:
            return self.failures[0].error
        reasons = "; ".join(str(failure.error) for failure in self.failures)
        return DataError(
            f"{len(self.failures)} of {len(self.failures) + len(self.files)} recordings were not converted: {reasons}"
        )

    def lines(self) -> list[str]:
        """The result for people."""
        if len(self.files) == 1 and not self.n_skipped:
            return [str(self.files[0].output)]
        where = f" in {self.folder}" if self.folder else ""
        skipped = f"; {self.n_skipped} were there already" if self.n_skipped else ""
        recordings = "1 recording" if len(self.files) == 1 else f"{len(self.files)} recordings"
        return [f"{recordings} converted, {self.seconds:.1f} s{where}{skipped}"]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "model": str(self.model),
            "vocoder": self.vocoder,
            "sample_rate": self.sample_rate,
            "folder": None if self.folder is None else str(self.folder),
            "files": [file.to_tree() for file in self.files],
            "failures": [failure.to_tree() for failure in self.failures],
            "n_skipped": self.n_skipped,
            "seconds": self.seconds,
            "load_seconds": self.load_seconds,
            "real_time_factor": self.real_time_factor,
        }


@dataclass(frozen=True)
class LoadOptions:
    """Which voice to load and with what, as for :meth:`Converter.load`; can be sent to another process."""

    home: Home
    model: str | Path | None = None
    device: str = "auto"
    vocoder: str | None = None
    source_stats: Path | None = None
    data: str | None = None
    features: Path | None = None
    """Features of the recordings, where the voice was trained on those of another program: a folder, or ``.npy``."""
    runtime: str = "auto"
    """``torch``, or ``onnx`` for onnxruntime, with an export that is kept; ``auto`` runs each folder as what it is."""

    def load(self, on_message: OnMessage | None) -> Converter:
        """The converter; raises what :meth:`Converter.load` and :func:`load_kept` do."""
        exported = is_exported(folder := find_voice(self.home, self.model))
        if exported and self.runtime == "torch":
            raise ModelError(
                f"--runtime torch: {folder} is an exported model, which onnxruntime runs; use the one it was made of"
            )
        if not exported and self.runtime == "onnx":
            return load_kept(
                self.home, self.model, device=self.device, vocoder=self.vocoder, source_stats=self.source_stats,
                data=self.data, on_message=on_message,
            )  # fmt: skip
        return Converter.load(
            self.model, home=self.home, device=self.device, vocoder=self.vocoder, source_stats=self.source_stats,
            data=self.data, on_message=on_message,
        )  # fmt: skip

    def origin(self, options: ConvertOptions) -> Origin:
        """What the results say of where they come from; raises what :func:`origin_of` does."""
        folder = find_voice(self.home, self.model)
        data = None if (folder / STATS_FILE).is_file() else self.data  # a voice with statistics takes no others
        others = {"runtime": self.runtime, "data": data, "features": str(self.features or "")}
        return origin_of(
            self.home, folder, vocoder=self.vocoder, source_stats=self.source_stats,
            options=dataclasses.asdict(options) | others,
        )  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """How to run, and callbacks.

    Attributes:
        skip_existing: leave out recordings whose results are there, unless something else made those, as the same
            voice before more training, or other options
        workers: processes; the model is loaded in each
        cluster: workers of a cluster, in place of processes
        shard: convert only this part
        stdin, stdout: what the input and the output ``STREAM`` mean
        on_progress: told (done, all) recordings, or pieces if there is one long recording
        on_file: told each recording as it is done
        on_line: told the same as JSON-able facts, with the model and the vocoder
        on_message: told what was chosen for want of something better
    """

    skip_existing: bool = False
    workers: int = 1
    cluster: Workers | None = None
    shard: Shard | None = None
    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None
    on_progress: OnProgress | None = None
    on_file: OnFile | None = None
    on_line: OnLine | None = None
    on_message: OnMessage | None = None


_OPTIONS, _RUN = ConvertOptions(), RunOptions()


def convert_files(
    load: LoadOptions,
    inputs: Sequence[Path] = (),
    *,
    names: Iterable[Path] | None = None,
    output: Path | None = None,
    out_dir: Path | None = None,
    format_name: str | None = None,
    raw: RawAudio | None = None,
    save_mel: Path | None = None,
    options: ConvertOptions = _OPTIONS,
    run: RunOptions = _RUN,
) -> ConvertSummary:
    """Convert recordings and folders of recordings, or recordings whose names arrive one by one.

    :mod:`aasvc_cli.conversion.plan` decides where results go. A recording that cannot be converted doesn't keep the
    others from it: look at :attr:`ConvertSummary.error` afterwards. Each file appears complete or not at all.

    Args:
        names: in place of ``inputs``; read as they are needed
        format_name: of the results, one of ``audio.streams.FORMATS``
        raw: the recordings have no headers, and this is what their samples are
        save_mel: also write the log-mel before the vocoder, (T, M) float32, for one recording

    Raises:
        DataError: inputs and outputs do not go together, or two results would get the same name; nothing was converted.
        ModelError: the model cannot be used.
    """
    jobs: Sequence[Job] | Iterator[Job | Refused]
    if names is not None:
        if out_dir is None:
            raise DataError("a list of names needs --out-dir DIR")
        jobs = plan_names(names, out_dir, format_name)
    else:
        jobs = plan_files(inputs, output, out_dir, format_name, run.on_message)
    if save_mel is not None:
        _check_save_mel(save_mel, jobs)
    if load.data is not None:
        folder = find_voice(load.home, load.model)
        if read_voice(folder, load.home, weights=False).stats is not None:
            raise DataError(
                f"--data {load.data}: {folder} has its own statistics of its source speaker; leave --data out, or "
                "replace them with --source-stats"
            )
    if isinstance(jobs, Sequence):
        jobs = [replace(job, raw=raw, save_mel=save_mel) for job in jobs]
    elif raw is not None:
        jobs = (replace(job, raw=raw) if isinstance(job, Job) else job for job in jobs)
    return _Run(load, options, run).over(jobs, out_dir)


def convert_set(
    load: LoadOptions, set_name: str, *, options: ConvertOptions = _OPTIONS, run: RunOptions = _RUN
) -> ConvertSummary:
    """Convert a set of the prepared data that a run was trained on, see :func:`~aasvc_cli.conversion.plan.plan_set`.

    Args:
        load: its ``data`` is a prepared set in place of the run's own

    Raises:
        DataError: no such prepared data, or the set is empty.
        ModelError: the model cannot be used.
    """
    voice_folder, prepared, jobs = plan_set(load.home, set_name, load.model, load.data)
    load = replace(load, model=voice_folder.absolute(), data=prepared)
    folder = os.path.commonpath([job.output.parent for job in jobs])  # names may have folders of their own
    return _Run(load, options, run).over(jobs, Path(folder))


@dataclass(frozen=True)
class _Loaded:
    """What is known of a converter once it is loaded, in whatever process."""

    folder: Path
    vocoder: str
    sample_rate: int
    seconds: float
    messages: tuple[str, ...] = ()


class _Run:
    """The state of a run: outcomes so far, and callbacks."""

    def __init__(self, load: LoadOptions, options: ConvertOptions, run: RunOptions) -> None:
        self.load, self.options, self.run = load, options, run
        self.files: list[tuple[int, ConvertedFile]] = []
        self.failures: list[tuple[int, FailedFile]] = []
        self.n_skipped = self.n_finished = 0
        self.total: int | None = None
        self.loaded: _Loaded | None = None
        self.pipes = contextlib.ExitStack()

    def over(self, jobs: Iterable[Job | Refused], folder: Path | None) -> ConvertSummary:
        """Convert everything, in this process or spread over several."""
        if (shard := self.run.shard) is not None:
            if isinstance(jobs, Sequence):
                jobs = shard.of(jobs, "recordings")
            else:
                jobs = itertools.islice(jobs, shard.number - 1, None, shard.count)
        self.total = len(jobs) if isinstance(jobs, Sequence) else None
        workers = self.run.workers if self.total is None else min(self.run.workers, self.total)
        pool = self.run.cluster or (Workers(workers) if workers > 1 else None)
        with self.pipes:
            waiting = self._waiting(jobs)
            outcomes = self._one_by_one(waiting) if pool is None else self._spread(waiting, pool)
            with contextlib.closing(outcomes):
                for index, outcome in outcomes:
                    self._finish(index, outcome)
        loaded = self.loaded
        return ConvertSummary(
            model=loaded.folder if loaded else find_voice(self.load.home, self.load.model),
            vocoder=loaded.vocoder if loaded else self.load.vocoder,
            sample_rate=loaded.sample_rate if loaded else None,
            folder=folder,
            files=tuple(file for _, file in sorted(self.files, key=lambda entry: entry[0])),
            failures=tuple(file for _, file in sorted(self.failures, key=lambda entry: entry[0])),
            load_seconds=loaded.seconds if loaded else 0.0,
            n_skipped=self.n_skipped,
        )

    def _waiting(self, jobs: Iterable[Job | Refused]) -> Iterator[tuple[int, Job]]:
        """What is left after those that need no converter."""
        origin: Origin | None = None
        for index, job in enumerate(jobs):
            if isinstance(job, Refused):
                self._finish(index, FailedFile(job.source, job.error))
                continue
            origin = origin or self.load.origin(self.options)
            job = replace(job, origin=origin)
            try:
                if self.run.skip_existing and job.is_finished():
                    self._finish(index, SkippedFile(job.source, job.output))
                    continue
                if job.output != STREAM:
                    check_writable(job.output)  # else a model would be loaded, and a recording converted, for nothing
                job = self._kept(job)
            except AasvcError as error:
                self._finish(index, FailedFile(job.source, error))
                continue
            yield index, job

    def _kept(self, job: Job) -> Job:
        """A job whose recording can be read more than once, and by other processes."""
        if job.source == STREAM:
            if self.run.stdin is None:
                raise DataError("standard input is not available here")
            return replace(job, content=self.pipes.enter_context(spooled(self.run.stdin, job.name)))
        pipe = open_pipe(job.source)
        if pipe is None:
            return job
        with pipe:
            return replace(job, content=self.pipes.enter_context(spooled(pipe, job.name)))

    def _one_by_one(self, jobs: Iterator[tuple[int, Job]]) -> Generator[tuple[int, Outcome], None, None]:
        """The outcome of each job, converted in this process; the model is loaded for the first of them."""
        converter: Converter | None = None
        on_piece = self.run.on_progress if self.total == 1 else None
        for index, job in jobs:
            if converter is None:
                converter, loaded = _load(self.load)
                self._on_loaded(loaded)
            yield index, convert_one(converter, job, self.options, self.run.stdout, on_piece, self.load.features)

    def _spread(self, jobs: Iterator[tuple[int, Job]], pool: Workers) -> Generator[tuple[int, Outcome], None, None]:
        """The outcomes in the order in which they are done, from processes that load the model once each."""
        with pool:
            for index, outcome, loaded in pool.spread(
                _Conversion(self.load, self.options), jobs, killed=_killed, sweep=_sweep
            ):
                if loaded is not None:
                    self._on_loaded(loaded)
                yield index, outcome

    def _on_loaded(self, loaded: _Loaded) -> None:
        if self.loaded is not None:  # another process
            return
        self.loaded = loaded
        logger.debug("%s loaded in %.2f s", loaded.folder, loaded.seconds)
        if self.run.on_message:
            for message in loaded.messages:
                self.run.on_message(message)

    def _finish(self, index: int, outcome: Outcome) -> None:
        self.n_finished += 1
        if isinstance(outcome, ConvertedFile):
            self.files.append((index, outcome))
        elif isinstance(outcome, FailedFile):
            self.failures.append((index, outcome))
        else:
            self.n_skipped += 1
        if self.run.on_file:
            self.run.on_file(outcome)
        if self.run.on_line:
            self.run.on_line(_line(outcome, self.loaded))
        if self.run.on_progress and self.total is not None and (self.total > 1 or self.n_finished == self.total):
            self.run.on_progress(self.n_finished, self.total)


def _line(outcome: Outcome, loaded: _Loaded | None) -> dict[str, Any]:
    """One line about one recording."""
    status = {ConvertedFile: "converted", FailedFile: "failed", SkippedFile: "skipped"}[type(outcome)]
    facts = {"model": str(loaded.folder), "vocoder": loaded.vocoder} if loaded else {}
    return {"status": status, **outcome.to_tree(), **facts}


def _load(options: LoadOptions) -> tuple[Converter, _Loaded]:
    began = time.perf_counter()
    messages: list[str] = []
    converter = options.load(messages.append)
    config = converter.voice.config.features
    if options.features is not None and FOLDER not in (config.source, config.duration):
        raise DataError(
            f"--features {options.features}: this voice takes {config.source}, which is computed from the sound; drop "
            "--features"
        )
    seconds = time.perf_counter() - began
    return converter, _Loaded(
        find_voice(options.home, options.model), converter.vocoder_name, converter.sample_rate, seconds, tuple(messages)
    )


def convert_one(
    converter: Converter,
    job: Job,
    options: ConvertOptions,
    stdout: IO[bytes] | None = None,
    on_piece: OnProgress | None = None,
    features: Path | None = None,
) -> Outcome:
    """Convert one recording to its place; what keeps it from being converted is in the outcome."""
    began = time.perf_counter()
    warnings: list[str] = []
    n_samples, pieces, gain = 0, 0, 1.0
    mels: list[npt.NDArray[np.float32]] = []
    try:
        sound = AudioFile(job.content or job.source, job.name, job.raw)
        config, given = converter.voice.config.features, None
        if FOLDER in (config.source, config.duration):
            given = read_features(config, job.source, place=features)
            _spare(find_features(config, job.source, features)[0], job.save_mel)
        parts = converter.stream(sound, options, features=given, on_progress=on_piece, on_message=warnings.append)
        # a recording that cannot be converted mostly shows it before anything is written
        first = next(parts)
        origin = "" if job.origin is None else str(job.origin.of(job.content or job.source))
        with sound_writer(job.output, converter.sample_rate, job.format, stdout, origin) as write:
            for part in itertools.chain([first], parts):
                write(part.wave)
                n_samples += len(part.wave)
                pieces += part.pieces
                if part.pieces and pieces % _TRIM_PIECES == 0:
                    return_free_memory()
                gain = min(gain, part.gain)
                if job.save_mel is not None:
                    mels.append(part.log_mel)
            if job.save_mel is not None:  # before the sound is in its place, so that there are both or none
                _write_array(job.save_mel, np.concatenate(mels))
    except AasvcError as error:
        return FailedFile(job.source, error)
    return ConvertedFile(
        source=job.source,
        output=job.output,
        source_seconds=sound.seconds,
        seconds=n_samples / converter.sample_rate,
        elapsed_seconds=time.perf_counter() - began,
        pieces=pieces,
        gain=gain,
        warnings=(*(f"{sound.name}: {remark}" for remark in sound.remarks), *warnings),
    )


# --- several processes ----------------------------------------------------------------------------------------------


@dataclass
class _Conversion:
    """Converts what a worker process is given; the model is loaded for the first of it."""

    load: LoadOptions
    options: ConvertOptions
    _loaded: tuple[Converter, _Loaded] | None = None

    def __call__(self, numbered: tuple[int, Job]) -> tuple[int, Outcome, _Loaded | None]:
        """The number and the outcome of a job, with what is known of the converter."""
        self._loaded = self._loaded or _load(self.load)
        converter, loaded = self._loaded
        index, job = numbered
        return index, convert_one(converter, job, self.options, features=self.load.features), loaded


def _killed(numbered: tuple[int, Job]) -> tuple[int, Outcome, None]:
    index, job = numbered
    error = DataError(f"{job.name}: the process that converted it was killed; try fewer --jobs")
    return index, FailedFile(job.source, error), None


def _sweep(numbered: tuple[int, Job]) -> None:
    remove_unfinished(numbered[1].output)


def _check_save_mel(path: Path, jobs: Iterable[Job | Refused]) -> None:
    if not isinstance(jobs, Sequence):
        raise DataError(f"--save-mel {path} takes one recording, not a list of names")
    if len(jobs) > 1:
        raise DataError(f"--save-mel {path} takes one recording, and {len(jobs)} were given")
    if path.suffix.lower() != ".npy":
        raise DataError(f"--save-mel {path}: expected a name that ends in .npy")
    if path.is_dir():
        raise StorageError(f"cannot write {path}: a folder stands there; choose another name")


def _spare(features: Path, save_mel: Path | None) -> None:
    """Refuse to write a mel over the features that a recording has."""
    if save_mel is not None and save_mel.exists() and save_mel.samefile(features):
        raise DataError(f"--save-mel {save_mel}: has the features of the recording; choose another name")


def _write_array(path: Path, array: npt.NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())
