"""``aasvc train --kind base``: from recordings of many voices to a network that other voices begin with."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from aasvc_cli.config.settings import Config
from aasvc_cli.conversion.voice import find_voice, pick_device, read_voice
from aasvc_cli.data.analysis import Bench, Job
from aasvc_cli.data.corpus import clean_name
from aasvc_cli.data.excerpts import Progress, analyse_all
from aasvc_cli.data.many_voices import many_voices, voice_of
from aasvc_cli.data.readings import Reading, find_readings
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import SIDES, feature_keys, storage_key, with_widths
from aasvc_cli.features.stats import FeatureStats, NormStats, RunningStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.result_cache import ResultCache
from aasvc_cli.training.distributed import World
from aasvc_cli.training.initial_weights import Beginning
from aasvc_cli.training.progress import TrainingReport
from aasvc_cli.training.run_folder import run_name
from aasvc_cli.training.voice_run import TrainResult, VoiceRun, run_together
from aasvc_cli.workers import Workers, core_count, each_in_chunks


def train_base(
    home: Home,
    config: Config,
    *,
    recordings: Path,
    tag: str | None = None,
    init: str | Path | None = None,
    overwrite: bool = False,
    tensorboard: bool = False,
    jobs: int | None = None,
    on_progress: Progress | None = None,
    on_report: Callable[[TrainingReport], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train a base, or go on with one.

    One network learns to say what anybody says in each of the voices. The run lives in ``exp/<folder>_<tag>``, and is
    what :func:`aasvc_cli.pipeline.train.train` takes as ``init``.

    Args:
        recordings: ``<group>/<speaker>/**``; recordings of the same name in a group are the same sentence, read by
            several speakers, of whom each is a source and a target
        tag: last part of the folder's name; the configuration's name if None
        init: a base to begin with; the vectors of its voices are kept where there are as many
        overwrite: start anew, discarding what the folder holds
        jobs: processes that compute features; as many as there are cores if None
        on_progress: told (done, all) recordings whose features are computed

    Raises:
        DataError: no recordings, too few sentences that several people read.
        ConfigError: the folder belongs to a run with other settings or other recordings.
        TrainingError: the loss diverged or is not finite; the last good checkpoint is kept.
        StorageError: no permission, no space; the last good checkpoint is kept.
    """
    readings = find_readings(recordings)
    checked = with_widths(config)

    def prepare(world: World) -> VoiceRun:
        listen = partial(_listen, home, checked, recordings, readings, jobs)
        world.by_first(lambda: listen(on_progress))
        paths, lengths = listen(None)  # it is all there now
        usable = [dataclasses.replace(each, path=paths[each.path]) for each in readings if each.path in paths]
        manifest = many_voices(recordings, usable, checked, lengths)
        stats = _stats(FeatureStore(home.features, checked.features, storage_key), checked, usable)
        model = dataclasses.replace(checked.model, n_voices=len(stats.voices))
        folder = home.exp / f"{manifest.name}_{run_name(tag, checked)}"
        several = dataclasses.replace(checked, model=model)
        device = pick_device(several.train.device)
        return VoiceRun(
            home, folder, several, manifest, stats, world, device, init=init, begin=begin, tensorboard=tensorboard
        )

    def begin(name: str | Path) -> Beginning:
        voice = find_voice(home, name)
        files = read_voice(voice, home)
        return Beginning(voice, files.weights, feature_keys(files.config.features), files.card, files.origin)

    return run_together(
        prepare,
        overwrite=overwrite,
        on_report=on_report,
        on_message=on_message,
        should_stop=should_stop,
    )


def _listen(
    home: Home,
    config: Config,
    recordings: Path,
    readings: Sequence[Reading],
    jobs: int | None,
    on_progress: Progress | None,
) -> tuple[dict[Path, Path], dict[Path, int]]:
    """Compute what features are missing.

    Returns:
        the file to work with for each recording that can be used, and the frames of that file
    """
    features = config.features
    bench = Bench(
        store=FeatureStore(home.features, features, storage_key),
        cache=ResultCache(home.cache),
        folder=home.prepared / clean_name(recordings.absolute().name) / "recordings",
        trim=features.trim,
    )
    kinds = tuple(dict.fromkeys((features.source, features.duration, features.target)))
    with Workers(jobs or core_count()) as pool:
        analyses = analyse_all(
            [Job(reading.path, kinds) for reading in readings], bench, partial(each_in_chunks, pool), on_progress
        )
    usable = {job.recording: each for job, each in analyses.items() if each.path is not None and not each.code}
    paths = {recording: each.path for recording, each in usable.items() if each.path is not None}
    return paths, {each.path: each.n_frames for each in usable.values() if each.path is not None}


def _stats(store: FeatureStore, config: Config, readings: Sequence[Reading]) -> NormStats:
    """Statistics of what all say, and of how each voice sounds.

    Each voice is normalised with its own mean and scale, as a further voice will be: what is left for the network to
    learn is then nearer to what it knows.
    """
    features = config.features
    sources: dict[str, RunningStats] = {kind: RunningStats() for kind in (features.source, features.duration)}
    voices: dict[str, RunningStats] = defaultdict(RunningStats)
    for reading in readings:
        for kind, running in sources.items():
            running.update(store.load(kind, reading.path))
        voices[voice_of(reading)].update(store.load(features.target, reading.path))
    if len(voices) < 2:
        raise DataError(f"{len(voices)} voice; expected two or more that read the same sentences")
    together = RunningStats()
    for running in voices.values():
        together.merge(running)
    kinds = {side: str(getattr(features, side)) for side in SIDES}
    of_source: dict[str, FeatureStats] = {kind: running.result() for kind, running in sources.items()}
    return NormStats(
        of_source[features.source],
        together.result(),
        of_source[features.duration],
        kinds,
        feature_keys(features),
        "recordings of many voices",
        voices={name: running.result() for name, running in sorted(voices.items())},
    )
