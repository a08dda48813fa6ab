"""Convert recordings to the target voice: arrays, files and folders, or a prepared set."""

from __future__ import annotations

import dataclasses
import io
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aasvc_cli.corpus import SETS, read_manifest
from aasvc_cli.errors import AasvcError, AudioError, ConfigError, DataError, ModelError, StorageError
from aasvc_cli.features import FeatureStats, RunningStats, extract, n_frames, resample
from aasvc_cli.storage.cache import Home, find_home
from aasvc_cli.storage.files import audio_format, list_audio, read_audio, write_audio, write_bytes
from aasvc_cli.vocoder.build import GRIFFIN_LIM, Vocoder, build_vocoder, find_vocoder_of
from aasvc_cli.voice import Voice, find_voice, load_voice, prepared_name, read_voice

logger = logging.getLogger(__name__)

Wave = npt.NDArray[np.float32]
OnProgress = Callable[[int, int], None]

DEFAULT_SEED = 1
"""The rhythm is drawn with it, for each recording anew, so results depend neither on the day nor on the order."""
OnMessage = Callable[[str], None]

PEAK = 0.99
"""Results that go beyond full scale are scaled down to this peak instead of being clipped; others stay as they are."""
FULL_SCALE = 32767 / 32768
"""What 16 bits can hold."""


@dataclass(frozen=True, eq=False)
class Converted:
    """One converted recording.

    Attributes:
        wave: (n,) float32, at most full scale
        sample_rate: in Hz
        log_mel: (T, M) float32, not normalised, before the vocoder
        durations: (K,) int64, how many (stacked) target frames each token of the source got
        gain: what the vocoder's output was multiplied with to avoid clipping; 1 if it wasn't
    """

    wave: Wave
    sample_rate: int
    log_mel: npt.NDArray[np.float32]
    durations: npt.NDArray[np.int64]
    gain: float = 1.0


class Converter:
    """A voice and a vocoder, loaded once and used for any number of recordings."""

    def __init__(self, voice: Voice, vocoder: Vocoder, vocoder_name: str = GRIFFIN_LIM) -> None:
        self.voice = voice
        self.vocoder = vocoder
        self.vocoder_name = vocoder_name

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        home: Home | None = None,
        device: str = "auto",
        vocoder: str | None = None,
        source_stats: Path | None = None,
        data: str | None = None,
        on_message: OnMessage | None = None,
    ) -> Converter:
        """Find a voice by name and load it.

        Args:
            model: a tag or a full name of a run, or a folder, ours or published; None for the bundled voice
            home: the data folder; None for the user's own
            vocoder: a name or a folder, or ``griffin-lim``; None for the one that goes with the voice if it is there
            source_stats: statistics of the source speaker, in place of those of the model folder
            data: a prepared set of the source speaker, where the model folder has no statistics of that speaker
            on_message: told what was chosen for want of something better

        Raises:
            ModelError, ConfigError, DataError: nothing of that name, or it cannot be used.
        """
        home, say = home or find_home(), on_message or _ignore
        folder = find_voice(home, model)
        voice = load_voice(folder, device, home=home, source_stats=source_stats, data=data, on_message=say)
        mel = voice.config.features.mel
        if vocoder is not None:
            return cls(voice, build_vocoder(vocoder, mel, home=home, device=voice.device), vocoder)
        own = voice.card.get("vocoder")
        if not isinstance(own, str) or own in ("", GRIFFIN_LIM):
            return cls(voice, build_vocoder(GRIFFIN_LIM, mel), GRIFFIN_LIM)
        try:
            return cls(
                voice, build_vocoder(find_vocoder_of(home, folder, own), mel, home=home, device=voice.device), own
            )
        except (ModelError, ConfigError) as error:
            say(f"warning: the vocoder of this model is not used, but {GRIFFIN_LIM}, which sounds rougher: {error}")
            return cls(voice, build_vocoder(GRIFFIN_LIM, mel), GRIFFIN_LIM)

    @property
    def sample_rate(self) -> int:
        """Of the results, in Hz."""
        return self.vocoder.sample_rate

    def convert(
        self,
        wave: npt.NDArray[Any],
        sample_rate: int,
        *,
        seed: int = DEFAULT_SEED,
        noise_scale: float | None = None,
        speed: float = 1.0,
        name: str = "the recording",
    ) -> Converted:
        """Convert one recording.

        Args:
            wave: (n,) samples, or (n, channels), which are averaged; full scale at 1.0
            sample_rate: any, in Hz
            seed: decides the rhythm of models that draw it, and the noise of vocoders that draw it; the same seed gives
                the same result
            noise_scale: freedom of the rhythm, 0 for the most likely one; None for the model's own
            speed: 2 speaks twice as fast
            name: how messages call the recording

        Raises:
            AudioError: no samples, not finite, or too short for the model.
            DataError: an option is out of its range.
            ModelError: the model's result is not a finite spectrum.
        """
        _check_options(noise_scale, speed)
        features, model, stats = self.voice.config.features, self.voice.model, self.voice.stats
        mel = features.mel
        samples = resample(_mono(wave, sample_rate, name), sample_rate, mel.sample_rate)
        if n_frames(len(samples), mel.hop_length) < model.min_source_frames:
            needed = (model.min_source_frames - 1) * mel.hop_length / mel.sample_rate
            raise AudioError(
                f"{name}: too short, {len(samples) / mel.sample_rate:.3f} s; this model converts {needed:.3f} s or more"
            )
        # the duration predictor mostly hears the same feature
        kinds = (str(features.source), str(features.duration))
        heard = {kind: extract(kind, samples, features) for kind in set(kinds)}
        sides = (stats.source, stats.duration)
        if self.voice.source_from_input:
            sides = (_own_stats(heard[kinds[0]]), _own_stats(heard[kinds[1]]))
        source, duration_feature = (
            torch.from_numpy(side.normalise(heard[kind])).to(self.voice.device)
            for side, kind in zip(sides, kinds, strict=True)
        )
        conversion = model.convert(
            source,
            duration_feature,
            noise_scale=noise_scale,
            speed=speed,
            generator=torch.Generator().manual_seed(seed),
        )
        # an unusual input can drive single bands far beyond any speech; one such burst would set the level of it all
        log_mel = stats.target.limit(stats.target.denormalise(conversion.mel.float().cpu().numpy())).astype(np.float32)
        if not np.isfinite(log_mel).all():
            raise ModelError(
                f"{self.voice.folder}: its result for {name} is not a finite spectrum; use another checkpoint or model"
            )
        spoken = self.vocoder.synthesise(torch.from_numpy(log_mel).unsqueeze(0).to(self.voice.device), seed=seed)[0]
        peak = float(spoken.abs().max())
        gain = PEAK / peak if peak > FULL_SCALE else 1.0
        return Converted(
            wave=(spoken * gain).float().cpu().numpy(),
            sample_rate=self.sample_rate,
            log_mel=log_mel,
            durations=conversion.durations.cpu().numpy().astype(np.int64),
            gain=gain,
        )


def _ignore(_: Any) -> None:
    """Nobody listens."""


def _own_stats(feature: npt.NDArray[np.float32]) -> FeatureStats:
    running = RunningStats()
    running.update(feature)
    return running.result()


@dataclass(frozen=True)
class ConvertedFile:
    """A recording that was converted.

    Attributes:
        output: where the result was written
        source_seconds, seconds: length of the recording and of the result
        elapsed_seconds: what it took, reading and writing included
    """

    source: Path
    output: Path
    source_seconds: float
    seconds: float
    elapsed_seconds: float

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"source": str(self.source), "output": str(self.output)}


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


OnFile = Callable[[ConvertedFile | FailedFile], None]


@dataclass(frozen=True)
class ConvertSummary:
    """What was converted, and what could not be.

    Attributes:
        model: the folder of the voice
        folder: of the results, if they have one in common
        load_seconds: what it took to load the voice
    """

    model: Path
    vocoder: str
    sample_rate: int
    folder: Path | None
    files: tuple[ConvertedFile, ...]
    failures: tuple[FailedFile, ...]
    load_seconds: float

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
        if len(self.files) == 1:
            return [str(self.files[0].output)]
        where = f" in {self.folder}" if self.folder else ""
        return [f"{len(self.files)} recordings converted, {self.seconds:.1f} s{where}"]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "model": str(self.model),
            "vocoder": self.vocoder,
            "sample_rate": self.sample_rate,
            "folder": None if self.folder is None else str(self.folder),
            "files": [file.to_tree() for file in self.files],
            "failures": [failure.to_tree() for failure in self.failures],
            "seconds": self.seconds,
            "load_seconds": self.load_seconds,
            "real_time_factor": self.real_time_factor,
        }


@dataclass(frozen=True)
class _Job:
    source: Path
    output: Path


def convert_files(
    home: Home,
    inputs: Sequence[Path],
    *,
    output: Path | None = None,
    out_dir: Path | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    seed: int = DEFAULT_SEED,
    noise_scale: float | None = None,
    speed: float = 1.0,
    vocoder: str | None = None,
    source_stats: Path | None = None,
    data: str | None = None,
    save_mel: Path | None = None,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
    on_message: OnMessage | None = None,
) -> ConvertSummary:
    """Convert recordings and folders of recordings.

    One recording goes to ``output``; any number go to ``out_dir`` under their own names as wav, those of a folder under
    their path in it. A recording that cannot be converted doesn't keep the others from it: look at
    :attr:`ConvertSummary.error` afterwards. Each file appears complete or not at all.

    Args:
        model, vocoder, source_stats, data, on_message: as for :meth:`Converter.load`
        save_mel: also write the log-mel before the vocoder, (T, M) float32, for one recording
        on_progress: told (done, all) recordings
        on_file: told each recording as it is done

    Raises:
        DataError: inputs and outputs do not go together, or two results would get the same name; nothing was converted.
        ModelError: the model cannot be used.
    """
    _check_options(noise_scale, speed)
    jobs = _plan(inputs, output, out_dir)
    if save_mel is not None:
        _check_save_mel(save_mel, jobs)
    if data is not None:
        folder = find_voice(home, model)
        if read_voice(folder, home, weights=False).stats is not None:
            raise DataError(
                f"--data {data}: {folder} has its own statistics of its source speaker; leave --data out, or replace "
                "them with --source-stats"
            )
    return _run(
        jobs, home, folder=out_dir, model=model, device=device, seed=seed, noise_scale=noise_scale, speed=speed,
        vocoder=vocoder, source_stats=source_stats, data=data, save_mel=save_mel, on_progress=on_progress,
        on_file=on_file, on_message=on_message,
    )  # fmt: skip


def convert_set(
    home: Home,
    set_name: str,
    *,
    model: str | Path | None,
    data: str | None = None,
    device: str = "auto",
    seed: int = DEFAULT_SEED,
    noise_scale: float | None = None,
    speed: float = 1.0,
    vocoder: str | None = None,
    source_stats: Path | None = None,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
    on_message: OnMessage | None = None,
) -> ConvertSummary:
    """Convert a set of the prepared data that a run was trained on, to ``converted/<set>/<utterance_id>.wav`` in it.

    Args:
        data: a prepared set in place of the run's own
        vocoder, source_stats, on_message: as for :meth:`Converter.load`

    Raises:
        DataError: no such prepared data, or the set is empty.
        ModelError: the model cannot be used.
    """
    _check_options(noise_scale, speed)
    voice_folder = find_voice(home, model)
    name = data or prepared_name(voice_folder)
    if name is None:
        raise DataError(f"{voice_folder}: was not trained on data prepared here; convert files instead")
    manifest = read_manifest(home, name)
    pairs = manifest.sets.get(set_name, ())
    if not pairs:
        known = ", ".join(f"{name} ({len(manifest.sets.get(name, ()))})" for name in SETS)
        raise DataError(f"prepared data {manifest.name}: no pairs in the set {set_name}; it has {known}")
    folder = voice_folder / "converted" / set_name
    jobs = [_Job(pair.source, folder / f"{pair.utterance_id}.wav") for pair in pairs]
    return _run(
        jobs, home, folder=folder, model=voice_folder.absolute(), device=device, seed=seed, noise_scale=noise_scale,
        speed=speed, vocoder=vocoder, source_stats=source_stats, data=name, save_mel=None, on_progress=on_progress,
        on_file=on_file, on_message=on_message,
    )  # fmt: skip


def _run(
    jobs: Sequence[_Job],
    home: Home,
    *,
    folder: Path | None,
    model: str | Path | None,
    device: str,
    seed: int,
    noise_scale: float | None,
    speed: float,
    vocoder: str | None,
    source_stats: Path | None,
    data: str | None,
    save_mel: Path | None,
    on_progress: OnProgress | None,
    on_file: OnFile | None,
    on_message: OnMessage | None,
) -> ConvertSummary:
    began = time.perf_counter()
    converter = Converter.load(
        model, home=home, device=device, vocoder=vocoder, source_stats=source_stats, data=data, on_message=on_message
    )
    load_seconds = time.perf_counter() - began
    logger.debug("%s loaded in %.2f s", converter.voice.folder, load_seconds)
    files: list[ConvertedFile] = []
    failures: list[FailedFile] = []
    for done, job in enumerate(jobs, start=1):
        began = time.perf_counter()
        outcome: ConvertedFile | FailedFile
        try:
            samples, sample_rate = read_audio(job.source)
            result = converter.convert(
                samples, sample_rate, seed=seed, noise_scale=noise_scale, speed=speed, name=str(job.source)
            )
            write_audio(job.output, result.wave, result.sample_rate)
            if save_mel is not None:
                _write_array(save_mel, result.log_mel)
        except AasvcError as error:
            outcome = FailedFile(job.source, error)
            failures.append(outcome)
        else:
            outcome = ConvertedFile(
                source=job.source,
                output=job.output,
                source_seconds=len(samples) / sample_rate,
                seconds=len(result.wave) / result.sample_rate,
                elapsed_seconds=time.perf_counter() - began,
            )
            files.append(outcome)
        if on_file:
            on_file(outcome)
        if on_progress:
            on_progress(done, len(jobs))
    return ConvertSummary(
        model=converter.voice.folder,
        vocoder=converter.vocoder_name,
        sample_rate=converter.sample_rate,
        folder=folder,
        files=tuple(files),
        failures=tuple(failures),
        load_seconds=load_seconds,
    )


def _plan(inputs: Sequence[Path], output: Path | None, out_dir: Path | None) -> list[_Job]:
    """Which recording goes where; raises before anything is converted if that cannot be done."""
    if not inputs:
        raise DataError("no recordings were given")
    if (output is None) == (out_dir is None):
        raise DataError("say where the result goes: -o FILE for one recording, or --out-dir DIR for any number")
    # (recording, its name below the output folder); a recording that is given twice is converted once
    found: dict[Path, Path] = {}
    for given in inputs:
        if not given.is_dir():
            found.setdefault(given, Path(given.name))
            continue
        recordings = _below(given, out_dir)
        if not recordings:
            raise DataError(f"{given}: no recordings in this folder; expected wav, flac, ogg or mp3 files")
        for path in recordings:
            found.setdefault(path, path.relative_to(given))
    if output is not None:
        if len(found) > 1:
            raise DataError(f"-o {output} takes one recording, and {len(found)} were given; use --out-dir DIR")
        audio_format(output)
        if output.is_dir():
            raise StorageError(f"cannot write {output}: a folder stands there; choose another name, or use --out-dir")
        jobs = [_Job(source, output) for source in found]
    else:
        assert out_dir is not None
        jobs = [_Job(source, out_dir / name.with_suffix(".wav")) for source, name in found.items()]
    _refuse_collisions(jobs)
    return jobs


def _below(folder: Path, out_dir: Path | None) -> list[Path]:
    """Recordings below a folder, without the results of an earlier run if these go below it, too."""
    recordings = list_audio(folder)
    if out_dir is None:
        return recordings
    results = out_dir.resolve()
    if results == folder.resolve() or not results.is_relative_to(folder.resolve()):
        return recordings
    return [path for path in recordings if not path.resolve().is_relative_to(results)]


def _refuse_collisions(jobs: Sequence[_Job]) -> None:
    recordings = {_identity(job.source): job.source for job in jobs}
    recordings.pop(None, None)
    owners: dict[Path, Path] = {}
    for job in jobs:
        overwritten = recordings.get(_identity(job.output))
        if overwritten is not None:
            raise DataError(
                f"{job.source}: its result would overwrite the recording {overwritten}; choose another place"
            )
        place = job.output.resolve()
        if place in owners:
            raise DataError(
                f"{owners[place]} and {job.source} would both become {job.output}; convert them in two runs with "
                "different --out-dir, or rename one"
            )
        owners[place] = job.source


def _identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of one file (links, letter case that doesn't count); None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_save_mel(path: Path, jobs: Sequence[_Job]) -> None:
    if len(jobs) > 1:
        raise DataError(f"--save-mel {path} takes one recording, and {len(jobs)} were given")
    if path.suffix.lower() != ".npy":
        raise DataError(f"--save-mel {path}: expected a name that ends in .npy")
    if path.is_dir():
        raise StorageError(f"cannot write {path}: a folder stands there; choose another name")


def _check_options(noise_scale: float | None, speed: float) -> None:
    if not (math.isfinite(speed) and speed > 0):
        raise DataError(f"speed {speed}: expected a number above 0; 1 is the speed of the model")
    if noise_scale is not None and not (math.isfinite(noise_scale) and noise_scale >= 0):
        raise DataError(f"noise scale {noise_scale}: expected 0 or a number above")


def _mono(wave: npt.NDArray[Any], sample_rate: int, name: str) -> Wave:
    if sample_rate <= 0:
        raise AudioError(f"{name}: a sample rate of {sample_rate} Hz is not possible")
    samples = np.asarray(wave, dtype=np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=1) if samples.shape[1] else samples[:, :0].reshape(-1)
    if samples.ndim != 1 or not len(samples):
        raise AudioError(f"{name}: expected samples (n,) or (n, channels), found {np.shape(wave)}")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: holds samples that are not numbers (NaN or infinite)")
    return samples


def _write_array(path: Path, array: npt.NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())
