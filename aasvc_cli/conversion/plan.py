"""Which recording goes where: decided, and refused if it cannot be, before anything is converted."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aasvc_cli.audio.files import AUDIO_SUFFIXES, OTHER_SUFFIXES, list_audio, list_sounds
from aasvc_cli.audio.streams import CONTAINERS, STREAM, RawAudio, format_of, suffix_of
from aasvc_cli.conversion.origin import Origin, is_finished
from aasvc_cli.conversion.voice import find_voice, prepared_name
from aasvc_cli.data.manifest import SETS, read_manifest
from aasvc_cli.errors import AasvcError, AudioError, DataError, StorageError
from aasvc_cli.storage.home import Home

STREAM_NAME = "standard input"


@dataclass(frozen=True)
class Job:
    """One recording and the place of its result; either may be ``STREAM``.

    Attributes:
        format: of the result, one of ``audio.streams.FORMATS``
        raw: what the samples of a recording without a header are
        content: a file with all of a recording that came through a pipe
        origin: what makes the result
        save_mel: where its log-mel goes, too
    """

    source: Path
    output: Path
    format: str
    raw: RawAudio | None = None
    content: Path | None = None
    save_mel: Path | None = None
    origin: Origin | None = None

    def is_finished(self) -> bool:
        """Whether its result is there; see :func:`aasvc_cli.conversion.origin.is_finished`, whose errors it raises."""
        if self.output == STREAM or self.origin is None:
            return False
        return is_finished(self.output, self.format, self.origin, self.source)

    @property
    def name(self) -> str:
        """How messages call the recording."""
        return STREAM_NAME if self.source == STREAM else str(self.source)


@dataclass(frozen=True)
class Refused:
    """A recording of a list that cannot be converted to its place."""

    source: Path
    error: AasvcError


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        jobs: what would be converted
        there: what would be left out because its result is there
        refused: what cannot be converted to its place
    """

    jobs: tuple[Job, ...]
    existing: tuple[Job, ...]
    refused: tuple[Refused, ...]

    @classmethod
    def of(cls, planned: Iterable[Job | Refused], origin: Origin | None = None) -> Plan:
        """Sort what was planned; a recording that doesn't exist is refused, too.

        Args:
            origin: what makes the results, if those that are there are left out
        """
        jobs, existing, refused = [], [], []
        for job in planned:
            if isinstance(job, Refused):
                refused.append(job)
                continue
            try:
                finished = replace(job, origin=origin).is_finished()
            except AasvcError as error:
                refused.append(Refused(job.source, error))
                continue
            if finished:
                existing.append(job)
            elif job.source != STREAM and not job.source.exists():
                refused.append(Refused(job.source, AudioError(f"{job.source}: no such file", "missing")))
            else:
                jobs.append(job)
        return cls(tuple(jobs), tuple(existing), tuple(refused))

    def lines(self) -> list[str]:
        """The result for people."""
        return [f"{job.source} -> {job.output}" for job in self.jobs]

    def summary(self) -> str:
        """The result in one line."""
        parts = [f"{len(self.jobs)} recordings would be converted"]
        if self.existing:
            parts.append(f"{len(self.existing)} are there already")
        if self.refused:
            parts.append(f"{len(self.refused)} cannot be")
        return ", ".join(parts)

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "jobs": [{"source": str(job.source), "output": str(job.output)} for job in self.jobs],
            "there": [{"source": str(job.source), "output": str(job.output)} for job in self.existing],
            "refused": [{"source": str(entry.source), "error": str(entry.error)} for entry in self.refused],
        }


def plan_files(
    inputs: Sequence[Path],
    output: Path | None,
    out_dir: Path | None,
    format_name: str | None = None,
    on_message: Callable[[str], None] | None = None,
) -> list[Job]:
    """Recordings, folders of recordings and patterns, each recording once.

    One recording goes to ``output``. Any number go to ``out_dir``: files under their own names, those of a folder under
    their path in it.

    Args:
        inputs: a name with ``*``, ``?`` or ``[`` that is no file is a pattern, for shells that don't expand them
        format_name: one of ``audio.streams.FORMATS``; None for that of the suffix of ``output``, and else WAV
        on_message: told what is left out of a folder, as it cannot be read

    Raises:
        DataError: inputs and outputs do not go together, two results would get the same name, or ``output`` has the
            suffix of another format.
        StorageError, AudioError: the output cannot be written.
    """
    if not inputs:
        raise DataError("no recordings were given")
    if (output is None) == (out_dir is None):
        raise DataError("say where the result goes: -o FILE for one recording, or --out-dir DIR for any number")
    # (recording, its name below the output folder); a recording that is given twice is converted once
    names: dict[Path, Path] = {}
    for given in (path for pattern in inputs for path in _expanded(pattern)):
        if given == STREAM:
            names.setdefault(given, Path("stdin"))
            continue
        if not given.is_dir():
            names.setdefault(given, Path(given.name))
            continue
        listing = list_sounds(given)
        recordings = _without_results(listing.recordings, given, out_dir)
        if not recordings:
            expected = listing.advice or "expected wav, flac, ogg or mp3 files"
            raise DataError(f"{given}: no recordings in this folder; {expected}")
        if listing.advice and on_message:
            on_message(f"left out of {given}: {listing.advice}")
        for path in recordings:
            names.setdefault(path, path.relative_to(given))
    if output is not None:
        if len(names) > 1:
            raise DataError(f"-o {output} takes one recording, and {len(names)} were given; use --out-dir DIR")
        chosen = format_of(output, format_name)
        _check_suffix(output, chosen)
        if output != STREAM and output.is_dir():
            raise StorageError(f"cannot write {output}: a folder stands there; choose another name, or use --out-dir")
        jobs = [Job(source, output, chosen) for source in names]
    else:
        assert out_dir is not None
        chosen = format_of(out_dir, format_name or "wav")
        jobs = [Job(source, out_dir / _result_name(name, chosen), chosen) for source, name in names.items()]
    _refuse_collisions(jobs)
    return jobs


def plan_names(names: Iterable[Path], out_dir: Path, format_name: str | None = None) -> Iterator[Job | Refused]:
    """Recordings whose names arrive one by one, each planned as it comes.

    A result goes below ``out_dir`` under the path of its recording as it was named, without a root and without ``..``.
    Folders are left out, as lists of files often hold them, too, and so are results of this and of earlier runs.
    """
    chosen = format_of(out_dir, format_name or "wav")
    owners: dict[Path, Path] = {}
    seen: set[Path] = set()
    recordings: dict[tuple[int, int], Path] = {}
    results = out_dir.resolve()
    apart = not Path.cwd().is_relative_to(results)
    if not apart:  # any name that is still to come may be that of a recording where a result would go
        names = list(names)
        recordings = {identity: source for source in names if (identity := _identity(source)) is not None}
    for source in names:
        place = source.resolve()
        if source.is_dir() or place in seen or place in owners or (apart and place.is_relative_to(results)):
            continue
        seen.add(place)
        parts = [part for part in source.parts if part != ".." and part != source.anchor]
        output = out_dir / _result_name(Path(*parts), chosen)
        target = output.resolve()
        identity = _identity(output)
        if identity is not None and (identity in recordings or identity == _identity(source)):
            yield Refused(source, _overwrites(source, recordings.get(identity, source)))
        elif target in owners:
            yield Refused(source, _same_place(owners[target], source, output))
        else:
            owners[target] = source
            if (own := _identity(source)) is not None:
                recordings[own] = source
            yield Job(source, output, chosen)


def plan_set(
    home: Home, set_name: str, model: str | Path | None, data: str | None = None
) -> tuple[Path, str, list[Job]]:
    """A set of the prepared data that a run was trained on, to ``converted/<set>/<utterance_id>.wav`` in its folder.

    Results of a model that is no run of this data folder go to :meth:`aasvc_cli.storage.home.Home.results_of`.

    Args:
        data: a prepared set in place of the run's own

    Returns:
        the folder of the model, the name of the prepared set, and the jobs

    Raises:
        DataError: no such prepared data, or the set is empty.
        ModelError: no such model.
    """
    voice_folder = find_voice(home, model)
    own = prepared_name(voice_folder)
    name = data or own
    if name is None:
        raise DataError(f"{voice_folder}: was not trained on data prepared here; convert files instead")
    manifest = read_manifest(home, name)
    pairs = manifest.sets.get(set_name, ())
    if not pairs:
        known = ", ".join(f"{name} ({len(manifest.sets.get(name, ()))})" for name in SETS)
        raise DataError(f"prepared data {manifest.name}: no pairs in the set {set_name}; it has {known}")
    folder = home.results_of(voice_folder, manifest.name, trained_on=own) / "converted" / set_name
    return voice_folder, name, [Job(pair.source, folder / f"{pair.utterance_id}.wav", "wav") for pair in pairs]


def _check_suffix(output: Path, chosen: str) -> None:
    """Refuse a name that says another format; raw samples, which have no suffix of their own, go into any."""
    suffix = output.suffix.lower()
    if chosen not in CONTAINERS or suffix not in AUDIO_SUFFIXES | OTHER_SUFFIXES:
        return
    if suffix != suffix_of(chosen) and (suffix, chosen) != (".oga", "ogg"):
        other = ", or leave --format out" if suffix[1:] in CONTAINERS else ""
        raise DataError(
            f"-o {output} --format {chosen}: the name says {suffix[1:]}, the format {chosen}; name it "
            f"{output.with_suffix(suffix_of(chosen))}{other}"
        )


def _result_name(name: Path, format_name: str) -> Path:
    return name.with_suffix(suffix_of(format_name))


def _expanded(given: Path) -> list[Path]:
    """The paths that match a pattern; a plain path as it is."""
    text = str(given)
    if given == STREAM or not glob.has_magic(text) or given.exists():
        return [given]
    matches = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    if not matches:
        raise DataError(f"{given}: no file fits this pattern{_similar(given)}")
    return matches


def _similar(given: Path) -> str:
    """The names beside a pattern that fits none of them."""
    names = [path.name for path in list_audio(given.parent)[:1000]] if given.parent.is_dir() else []
    near = difflib.get_close_matches(given.name, names, n=1)
    return f"; the folder has {near[0]}" if near else ""


def _without_results(recordings: Sequence[Path], folder: Path, out_dir: Path | None) -> list[Path]:
    """Recordings below a folder, without the results of an earlier run if these go below it, too."""
    if out_dir is None:
        return list(recordings)
    results = out_dir.resolve()
    if results == folder.resolve() or not results.is_relative_to(folder.resolve()):
        return list(recordings)
    return [path for path in recordings if not path.resolve().is_relative_to(results)]


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    recordings = {_identity(job.source): job.source for job in jobs if job.source != STREAM}
    recordings.pop(None, None)
    owners: dict[Path, Path] = {}
    for job in jobs:
        if job.output == STREAM:
            continue
        overwritten = recordings.get(_identity(job.output))
        if overwritten is not None:
            raise _overwrites(job.source, overwritten)
        place = job.output.resolve()
        if place in owners:
            raise _same_place(owners[place], job.source, job.output)
        owners[place] = job.source


def _overwrites(source: Path, overwritten: Path) -> DataError:
    return DataError(f"{source}: its result would overwrite the recording {overwritten}; choose another place")


def _same_place(one: Path, other: Path, output: Path) -> DataError:
    return DataError(
        f"{one} and {other} would both become {output}; convert them in two runs with different --out-dir, or rename "
        "one"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of one file (links, letter case that doesn't count); None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
