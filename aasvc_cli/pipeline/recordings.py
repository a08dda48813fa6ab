"""All recordings of a set analysed, by worker processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from aasvc_cli.data.analysis import Analysis, Bench, Job, analyse
from aasvc_cli.errors import DataError, Interrupted
from aasvc_cli.storage.files import remove_unfinished
from aasvc_cli.workers import Workers, core_count

Progress = Callable[[int, int], None]

_CHUNK = 8
"""Recordings per task: enough to hide the cost of handing over a task, few enough for a smooth progress bar."""


def analyse_all(
    jobs: Sequence[Job], bench: Bench, processes: int | None, on_progress: Progress | None = None
) -> dict[Job, Analysis]:
    """Analyse recordings, in processes if there are enough of both.

    Raises:
        StorageError: features cannot be written.
        Interrupted: on Ctrl-C; what was computed is kept.
    """
    analyses: dict[Job, Analysis] = {}
    if on_progress:
        on_progress(0, len(jobs))
    try:
        with contextlib.closing(_run(jobs, bench, processes)) as outcomes:
            for job, analysis in outcomes:
                if analysis.fatal is not None:
                    raise analysis.fatal
                analyses[job] = analysis
                if on_progress:
                    on_progress(len(analyses), len(jobs))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after {len(analyses)} of {len(jobs)} recordings; they are kept, and the same command goes on"
        ) from None
    return analyses


def _run(jobs: Sequence[Job], bench: Bench, processes: int | None) -> Generator[tuple[Job, Analysis], None, None]:
    """Analyse recordings; yields in any order."""
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    count = min(processes or core_count(), len(chunks))
    if count <= 1:
        for job in jobs:
            yield job, analyse(job, bench)
        return
    work, sweep = partial(_analyse_chunk, bench=bench), partial(_sweep_chunk, bench=bench)
    with Workers(count) as workers:
        for analyses in workers.spread(work, chunks, killed=_killed, sweep=sweep):
            yield from analyses


def _analyse_chunk(chunk: Sequence[Job], bench: Bench) -> list[tuple[Job, Analysis]]:
    results = []
    for job in chunk:
        results.append((job, analyse(job, bench)))
        if results[-1][1].fatal is not None:
            break
    return results


def _sweep_chunk(chunk: Sequence[Job], bench: Bench) -> None:
    for job in chunk:
        for kind in job.kinds:
            remove_unfinished(bench.store.path(kind, job.recording))


def _killed(_chunk: Sequence[Job]) -> NoReturn:
    raise DataError(
        "a worker process was ended by the system, most likely for lack of memory; what was finished is kept - go "
        "on with: --jobs 1"
    )


def by_recording(analyses: Mapping[Job, Analysis]) -> dict[Path, Analysis]:
    """The same by the recording, where each has one job."""
    return {job.recording: analysis for job, analysis in analyses.items()}
