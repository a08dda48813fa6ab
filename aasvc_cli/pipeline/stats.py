"""Mean and scale of the features of a training set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.data.corpus import clean_name
from aasvc_cli.data.manifest import Manifest, read_manifest
from aasvc_cli.data.restoring import restore_features
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import SIDES, feature_keys, storage_key
from aasvc_cli.features.likeness import Array, Likeness, upper_quartile
from aasvc_cli.features.stats import FeatureStats, NormStats, RunningStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.files import write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.workers import Workers, core_count, each_in_chunks

SELF = "self"
"""The name that means: compute them from the data at hand."""


@dataclass(frozen=True)
class StatsResult:
    """What `stats` found.

    Attributes:
        path: the statistics; other commands take their name as ``--norm-name``
        origin: the training set or the model that they come from
        n_utterances: pairs they were computed from; 0 if they were taken from a model
        kinds, n_frames: kind of feature and number of frames on each side of the model
    """

    path: Path
    data: str
    norm_name: str
    origin: str
    n_utterances: int
    kinds: dict[str, str]
    n_frames: dict[str, int]

    def lines(self) -> list[str]:
        """The result for people."""
        sides = ", ".join(f"{side} {self.kinds[side]} ({self.n_frames[side]} frames)" for side in SIDES)
        return [f"{self.data}: statistics of {self.origin}: {sides}", f"written to {self.path}"]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"path": str(self.path)}


def compute_stats(
    home: Home,
    *,
    data: str | None = None,
    norm_name: str = SELF,
    on_progress: Callable[[int, int], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> StatsResult:
    """Statistics to normalise a prepared set with, kept as ``stats/<data>/<norm_name>.json``.

    Args:
        data: a prepared set; None for the one prepared last
        norm_name: ``self`` computes them from the training pairs, one utterance in memory at a time; anything else
            takes those of the model of that name, whose features must have the same settings.
        on_progress: told (done, all) features
        on_message: told of features that have to be computed again

    Raises:
        DataError: not a name, features or recordings have changed, or those of the model have other settings.
        ModelError: there is no model of that name.
        StorageError: the statistics cannot be written.
    """
    if clean_name(norm_name) != norm_name:
        raise DataError(f"--norm-name {norm_name}: expected {SELF}, or the name of a model without folders")
    manifest = read_manifest(home, data)
    with Workers(core_count()) as pool:
        restore_features(home, manifest, manifest.config, spread=partial(each_in_chunks, pool), on_message=on_message)
    if norm_name == SELF:
        stats = _from_training_set(home, manifest, on_progress)
    else:
        stats = _from_model(home, norm_name, manifest, on_progress)
    path = home.stats / manifest.name / f"{norm_name}.json"
    write_json(path, stats.to_tree())
    return StatsResult(
        path=path,
        data=manifest.name,
        norm_name=norm_name,
        origin=stats.origin,
        n_utterances=len(manifest.sets["train"]) if norm_name == SELF else 0,
        kinds=dict(stats.kinds),
        n_frames={side: getattr(stats, side).n_frames for side in SIDES},
    )


def _from_training_set(home: Home, manifest: Manifest, on_progress: Callable[[int, int], None] | None) -> NormStats:
    features = manifest.config.features
    store = FeatureStore(home.features, features, storage_key)
    pairs = manifest.sets["train"]
    # source and duration features usually are the same, and are read once then
    wanted = dict.fromkeys(_role(side, features) for side in SIDES)
    stats: dict[tuple[str, str], FeatureStats] = {}
    several = len({pair.speaker for pair in pairs}) > 1
    speakers: dict[str, FeatureStats] = {}
    done, total = 0, len(wanted) * len(pairs)
    for side, kind in wanted:
        running = RunningStats()
        quartiles = []
        own: dict[str, tuple[RunningStats, list[Array]]] = {}
        for pair in pairs:
            feature = store.load(kind, pair.source if side == "source" else pair.target)
            running.update(feature)
            if side == "source":
                quartiles.append(upper_quartile(feature))
                if several:
                    of_speaker, quartiles_of_speaker = own.setdefault(pair.speaker, (RunningStats(), []))
                    of_speaker.update(feature)
                    quartiles_of_speaker.append(quartiles[-1])
            done += 1
            if on_progress:
                on_progress(done, total)
        # what convert is given is compared with that of the source
        stats[side, kind] = _with_likeness(running, quartiles) if side == "source" else running.result()
        if kind == features.source and own:
            speakers = {name: _with_likeness(*known) for name, known in sorted(own.items())}
    source, target, duration = (stats[_role(side, features)] for side in SIDES)
    kinds = {side: str(getattr(features, side)) for side in SIDES}
    origin = f"training set of {manifest.name}"
    return NormStats(source, target, duration, kinds, feature_keys(features), origin, speakers)


def _with_likeness(running: RunningStats, quartiles: list[Array]) -> FeatureStats:
    result = running.result()
    return dataclasses.replace(result, likeness=Likeness.of(quartiles, result.scale))


def _role(side: str, features: FeatureConfig) -> tuple[str, str]:
    """Which recording and which kind of feature stand behind one side of the model."""
    return ("target" if side == "target" else "source"), str(getattr(features, side))


def _from_model(home: Home, name: str, manifest: Manifest, on_progress: Callable[[int, int], None] | None) -> NormStats:
    from aasvc_cli.conversion.voice import find_voice, read_voice

    features = manifest.config.features
    folder = find_voice(home, name)
    files = read_voice(folder, home, weights=False)
    keys = feature_keys(files.config.features)
    # a published model has no statistics of its source; those of the training set take their place
    sides = SIDES if files.stats is not None else ("target",)
    for side in sides:
        if keys[side] != feature_keys(features)[side]:
            conf = next(path for path in (folder / "config.yaml", folder / "config.yml") if path.is_file())
            raise DataError(
                f"{folder}: its {side} statistics are of {getattr(files.config.features, side)} with other settings "
                f"than the prepared {getattr(features, side)} features; prepare again with the model's own settings: "
                f"aasvc prepare --conf {conf}"
            )
    if files.stats is not None:
        return files.stats
    own = _from_training_set(home, manifest, on_progress)
    return dataclasses.replace(own, target=files.target, origin=f"{folder.absolute().name}, source: {own.origin}")
