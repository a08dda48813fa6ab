"""Convert files and folders, prepared sets, pipes and lists: in this process, or spread over several."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.streams import STREAM, AudioFile, RawAudio, sound_writer
from aasvc_cli.conversion.converter import DEFAULT_SEED, Converted, Converter, OnMessage, OnProgress, check_options
from aasvc_cli.conversion.plan import Job, Refused, plan_files, plan_names, plan_set
from aasvc_cli.conversion.voice import find_voice, read_voice
from aasvc_cli.errors import AasvcError, DataError, StorageError
from aasvc_cli.storage.files import remove_unfinished, write_bytes
from aasvc_cli.storage.home import Home
from aasvc_cli.training.memory import return_free_memory
from aasvc_cli.workers import Workers

__all__ = [
    "ConvertSummary",
    "Converted",
    "ConvertedFile",
    "Converter",
    "FailedFile",
    "Options",
    "SkippedFile",
    "convert_files",
    "convert_set",
]  # fmt: skip

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
        told = "; ".join(str(failure.error) for failure in self.failures)
        return DataError(
            f"{len(self.failures)} of {len(self.failures) + len(self.files)} recordings were not converted: {told}"
        )

    def lines(self) -> list[str]:
        """The result for people."""
        if len(self.files) == 1 and not self.n_skipped:
            return [str(self.files[0].output)]
        where = f" in {self.folder}" if self.folder else ""
        there = f"; {self.n_skipped} were there already" if self.n_skipped else ""
        return [f"{len(self.files)} recordings converted, {self.seconds:.1f} s{where}{there}"]

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
class _Loading:
    """How to load the converter; can be sent to another process."""

    home: Home
    model: str | Path | None
    device: str
    vocoder: str | None
    source_stats: Path | None
    data: str | None

    def load(self, on_message: OnMessage | None) -> Converter:
        return Converter.load(
            self.model, home=self.home, device=self.device, vocoder=self.vocoder, source_stats=self.source_stats,
            data=self.data, on_message=on_message,
        )  # fmt: skip


@dataclass(frozen=True)
class _Settings:
    """What is the same for all recordings of a run.

    Attributes:
        raw: what the samples of recordings without a header are
        spooled: where what came by standard input is
    """

    seed: int
    noise_scale: float | None
    speed: float
    raw: RawAudio | None = None
    spooled: Path | None = None
    save_mel: Path | None = None


@dataclass(frozen=True)
class _Loaded:
    """What is known of a converter once it is loaded, in whatever process."""

    folder: Path
    vocoder: str
    sample_rate: int
    seconds: float
    messages: tuple[str, ...] = ()


@dataclass
class _Tally:
    """What has come of a run so far."""

    files: list[tuple[int, ConvertedFile]] = field(default_factory=list)
    failures: list[tuple[int, FailedFile]] = field(default_factory=list)
    n_skipped: int = 0


class Options(TypedDict, total=False):
    """What all ways of converting have in common.

    Keys:
        device, vocoder, source_stats, on_message: as for :meth:`Converter.load`
        seed, noise_scale, speed: as for :meth:`Converter.convert`
        skip_existing: leave out recordings whose results are there
        workers: processes; the model is loaded in each
        on_progress: told (done, all) recordings, or pieces if there is one long recording
        on_file: told each recording as it is done
        on_line: told the same as JSON-able facts, with the model and the vocoder
    """

    device: str
    seed: int
    noise_scale: float | None
    speed: float
    vocoder: str | None
    source_stats: Path | None
    skip_existing: bool
    workers: int
    on_progress: OnProgress | None
    on_file: OnFile | None
    on_line: OnLine | None
    on_message: OnMessage | None


def convert_files(
    home: Home,
    inputs: Sequence[Path] = (),
    *,
    names: Iterable[Path] | None = None,
    output: Path | None = None,
    out_dir: Path | None = None,
    format_name: str | None = None,
    model: str | Path | None = None,
    data: str | None = None,
    raw: RawAudio | None = None,
    spooled: Path | None = None,
    stdout: IO[bytes] | None = None,
    save_mel: Path | None = None,
    **options: Unpack[Options],
) -> ConvertSummary:
    """Convert recordings and folders of recordings, or recordings whose names arrive one by one.

    :mod:`aasvc_cli.conversion.plan` decides where results go. A recording that cannot be converted doesn't keep the
    others from it: look at :attr:`ConvertSummary.error` afterwards. Each file appears complete or not at all.

    Args:
        names: in place of ``inputs``; read as they are needed
        format_name: of the results, one of ``storage.sound.FORMATS``
        model, data: as for :meth:`Converter.load`
        raw: the recordings have no headers, and this is what their samples are
        spooled: where the content of standard input is, for the input ``STREAM``
        stdout: for the output ``STREAM``
        save_mel: also write the log-mel before the vocoder, (T, M) float32, for one recording
        options: :class:`Options`

    Raises:
        DataError: inputs and outputs do not go together, or two results would get the same name; nothing was converted.
        ModelError: the model cannot be used.
    """
    settings = _settings(options, raw=raw, spooled=spooled, save_mel=save_mel)
    jobs: Sequence[Job] | Iterator[Job | Refused]
    if names is not None:
        if out_dir is None:
            raise DataError("a list of names needs --out-dir DIR")
        jobs = plan_names(names, out_dir, format_name)
    else:
        jobs = plan_files(inputs, output, out_dir, format_name)
    if save_mel is not None:
        _check_save_mel(save_mel, jobs)
    if data is not None:
        folder = find_voice(home, model)
        if read_voice(folder, home, weights=False).stats is not None:
            raise DataError(
                f"--data {data}: {folder} has its own statistics of its source speaker; leave --data out, or replace "
                "them with --source-stats"
            )
    return _run(jobs, _loading(home, model, data, options), settings, options, folder=out_dir, stdout=stdout)


def convert_set(
    home: Home, set_name: str, *, model: str | Path | None, data: str | None = None, **options: Unpack[Options]
) -> ConvertSummary:
    """Convert a set of the prepared data that a run was trained on, see :func:`~aasvc_cli.conversion.plan.plan_set`.

    Args:
        data: a prepared set in place of the run's own
        options: :class:`Options`

    Raises:
        DataError: no such prepared data, or the set is empty.
        ModelError: the model cannot be used.
    """
    settings = _settings(options)
    voice_folder, prepared, jobs = plan_set(home, set_name, model, data)
    loading = _loading(home, voice_folder.absolute(), prepared, options)
    return _run(jobs, loading, settings, options, folder=jobs[0].output.parent, stdout=None)


def _settings(options: Options, **more: Any) -> _Settings:
    """Raises DataError if an option is out of its range."""
    noise_scale, speed = options.get("noise_scale"), options.get("speed", 1.0)
    check_options(noise_scale, speed)
    return _Settings(options.get("seed", DEFAULT_SEED), noise_scale, speed, **more)


def _loading(home: Home, model: str | Path | None, data: str | None, options: Options) -> _Loading:
    return _Loading(
        home, model, options.get("device", "auto"), options.get("vocoder"), options.get("source_stats"), data
    )


def _run(
    jobs: Iterable[Job | Refused],
    loading: _Loading,
    settings: _Settings,
    options: Options,
    *,
    folder: Path | None,
    stdout: IO[bytes] | None,
) -> ConvertSummary:
    skip_existing, workers = options.get("skip_existing", False), options.get("workers", 1)
    on_progress, on_file, on_line = options.get("on_progress"), options.get("on_file"), options.get("on_line")
    on_message = options.get("on_message")
    total = len(jobs) if isinstance(jobs, Sequence) else None
    tally = _Tally()
    loaded: list[_Loaded] = []
    finished = 0

    def on_loaded(what: _Loaded) -> None:
        if not loaded:
            logger.debug("%s loaded in %.2f s", what.folder, what.seconds)
            if on_message:
                for message in what.messages:
                    on_message(message)
        loaded.append(what)

    def finish(index: int, outcome: Outcome) -> None:
        nonlocal finished
        finished += 1
        if isinstance(outcome, ConvertedFile):
            tally.files.append((index, outcome))
        elif isinstance(outcome, FailedFile):
            tally.failures.append((index, outcome))
        else:
            tally.n_skipped += 1
        if on_file:
            on_file(outcome)
        if on_line:
            on_line(_line(outcome, loaded[0] if loaded else None))
        if on_progress and total is not None and (total > 1 or finished == total):
            on_progress(finished, total)

    def to_do() -> Iterator[tuple[int, Job]]:
        """What is left after those that need no converter."""
        for index, job in enumerate(jobs):
            if isinstance(job, Refused):
                finish(index, FailedFile(job.source, job.error))
            elif skip_existing and job.output != STREAM and job.output.is_file():
                finish(index, SkippedFile(job.source, job.output))
            else:
                yield index, job

    on_piece = on_progress if total == 1 else None
    if workers > 1 and (total is None or total > 1):
        outcomes = _spread(to_do(), loading, settings, workers if total is None else min(workers, total), on_loaded)
    else:
        outcomes = _one_by_one(to_do(), loading, settings, stdout, on_loaded, on_piece)
    with contextlib.closing(outcomes):
        for index, outcome in outcomes:
            finish(index, outcome)
    first = loaded[0] if loaded else None
    return ConvertSummary(
        model=first.folder if first else find_voice(loading.home, loading.model),
        vocoder=first.vocoder if first else loading.vocoder,
        sample_rate=first.sample_rate if first else None,
        folder=folder,
        files=tuple(file for _, file in sorted(tally.files, key=lambda entry: entry[0])),
        failures=tuple(file for _, file in sorted(tally.failures, key=lambda entry: entry[0])),
        load_seconds=first.seconds if first else 0.0,
        n_skipped=tally.n_skipped,
    )


def _line(outcome: Outcome, loaded: _Loaded | None) -> dict[str, Any]:
    """One line about one recording."""
    status = {ConvertedFile: "converted", FailedFile: "failed", SkippedFile: "skipped"}[type(outcome)]
    facts = {"model": str(loaded.folder), "vocoder": loaded.vocoder} if loaded else {}
    return {"status": status, **outcome.to_tree(), **facts}


def _load(loading: _Loading, on_message: OnMessage | None = None) -> tuple[Converter, _Loaded]:
    began = time.perf_counter()
    messages: list[str] = []
    converter = loading.load(on_message or messages.append)
    seconds = time.perf_counter() - began
    return converter, _Loaded(
        converter.voice.folder, converter.vocoder_name, converter.sample_rate, seconds, tuple(messages)
    )


def _one_by_one(
    jobs: Iterator[tuple[int, Job]],
    loading: _Loading,
    settings: _Settings,
    stdout: IO[bytes] | None,
    on_loaded: Callable[[_Loaded], None],
    on_piece: OnProgress | None,
) -> Generator[tuple[int, Outcome], None, None]:
    """The outcome of each job, converted in this process; the model is loaded for the first of them."""
    converter: Converter | None = None
    for index, job in jobs:
        if converter is None:
            converter, loaded = _load(loading)
            on_loaded(loaded)
        yield index, _convert_job(converter, job, settings, stdout, on_piece)


def _convert_job(
    converter: Converter,
    job: Job,
    settings: _Settings,
    stdout: IO[bytes] | None = None,
    on_piece: OnProgress | None = None,
) -> Outcome:
    began = time.perf_counter()
    warnings: list[str] = []
    n_samples, pieces, gain = 0, 0, 1.0
    mels: list[npt.NDArray[np.float32]] = []
    try:
        if job.source == STREAM and settings.spooled is None:
            raise DataError("standard input is not available here")
        path = settings.spooled if job.source == STREAM and settings.spooled is not None else job.source
        sound = AudioFile(path, job.name, settings.raw)
        parts = converter.stream(
            sound, seed=settings.seed, noise_scale=settings.noise_scale, speed=settings.speed, on_progress=on_piece,
            on_message=warnings.append,
        )  # fmt: skip
        # a recording that cannot be converted mostly shows it before anything is written
        first = next(parts)
        with sound_writer(job.output, converter.sample_rate, job.format, stdout) as write:
            for part in itertools.chain([first], parts):
                write(part.wave)
                n_samples += len(part.wave)
                pieces += part.pieces
                if part.pieces and pieces % _TRIM_PIECES == 0:
                    return_free_memory()
                gain = min(gain, part.gain)
                if settings.save_mel is not None:
                    mels.append(part.log_mel)
        if settings.save_mel is not None:
            _write_array(settings.save_mel, np.concatenate(mels))
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
        warnings=(*sound.remarks, *warnings),
    )


# --- several processes ----------------------------------------------------------------------------------------------


@dataclass
class _Conversion:
    """Converts what a worker process is given; the model is loaded for the first of it."""

    loading: _Loading
    settings: _Settings
    _loaded: tuple[Converter, _Loaded] | None = None

    def __call__(self, numbered: tuple[int, Job]) -> tuple[int, Outcome, _Loaded | None]:
        """The number and the outcome of a job, with what is known of the converter."""
        self._loaded = self._loaded or _load(self.loading)
        converter, loaded = self._loaded
        index, job = numbered
        return index, _convert_job(converter, job, self.settings), loaded


def _killed(numbered: tuple[int, Job]) -> tuple[int, Outcome, None]:
    index, job = numbered
    error = DataError(f"{job.name}: the process that converted it was killed; try fewer --workers")
    return index, FailedFile(job.source, error), None


def _sweep(numbered: tuple[int, Job]) -> None:
    remove_unfinished(numbered[1].output)


def _spread(
    jobs: Iterator[tuple[int, Job]],
    loading: _Loading,
    settings: _Settings,
    count: int,
    on_loaded: Callable[[_Loaded], None],
) -> Generator[tuple[int, Outcome], None, None]:
    """The outcomes of all jobs in the order in which they are done, from processes that load the model once each."""
    with Workers(count) as workers:
        for index, outcome, loaded in workers.spread(
            _Conversion(loading, settings), jobs, killed=_killed, sweep=_sweep
        ):
            if loaded is not None:
                on_loaded(loaded)
            yield index, outcome


def _check_save_mel(path: Path, jobs: Iterable[Job | Refused]) -> None:
    if not isinstance(jobs, Sequence):
        raise DataError(f"--save-mel {path} takes one recording, not a list of names")
    if len(jobs) > 1:
        raise DataError(f"--save-mel {path} takes one recording, and {len(jobs)} were given")
    if path.suffix.lower() != ".npy":
        raise DataError(f"--save-mel {path}: expected a name that ends in .npy")
    if path.is_dir():
        raise StorageError(f"cannot write {path}: a folder stands there; choose another name")


def _write_array(path: Path, array: npt.NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())
