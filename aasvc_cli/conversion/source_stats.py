"""Statistics of a source speaker for models that come without them: which prepared set has the right ones.

Published models ship the target's statistics only. A prepared set can stand in for what is missing if its features have
the same settings and its source speaker is the one the model was trained on.
"""

from __future__ import annotations

from aasvc_cli.config.reading import to_tree
from aasvc_cli.config.settings import Config
from aasvc_cli.data.manifest import list_prepared, read_manifest
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import feature_keys
from aasvc_cli.features.stats import FeatureStats, NormStats
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home

SOURCE_SIDES = ("source", "duration")
"""The inputs of a model that are computed from the source recording."""


def prepared_source_stats(home: Home, config: Config, name: str) -> dict[str, FeatureStats]:
    """The source side of the statistics of a prepared set.

    Raises:
        DataError: no such set, no statistics, or features of other settings than the model's.
    """
    manifest = read_manifest(home, name)
    path = home.stats / manifest.name / "self.json"
    wanted, prepared_keys = feature_keys(config.features), feature_keys(manifest.config.features)
    for side in SOURCE_SIDES:
        if wanted[side] != prepared_keys[side]:
            raise DataError(
                f"prepared data {manifest.name}: its {side} features have other settings than the model's "
                f"({_differences(config, manifest.config)}); prepare the source speaker with those"
            )
    if not path.is_file():
        raise DataError(f"no statistics for {manifest.name}; run: aasvc stats --data {manifest.name}")
    stats = NormStats.from_tree(read_json(path, "statistics"), str(path))
    for side in SOURCE_SIDES:
        if stats.keys[side] != wanted[side]:
            raise DataError(f"{path}: is older than the prepared data; run: aasvc stats --data {manifest.name}")
    return {side: getattr(stats, side) for side in SOURCE_SIDES}


def find_prepared_source(home: Home, config: Config, speaker: str) -> str | None:
    """The prepared set whose source speaker a model was trained on; None if no set is known to be that.

    Equal features alone would not do: statistics of a wrong speaker are worse than none. Of several sets the largest is
    taken.
    """
    candidates = []
    for name in list_prepared(home):
        try:
            manifest = read_manifest(home, name)
            prepared_source_stats(home, config, name)
        except DataError:
            continue
        if manifest.source_speaker.casefold() == speaker.casefold():
            candidates.append((len(manifest.sets["train"]), name))
    return max(candidates)[1] if candidates else None


def _differences(model: Config, prepared: Config) -> str:
    """Which settings differ, with both values."""
    of_model, of_prepared = to_tree(model.features), to_tree(prepared.features)
    flat = [
        (key, value, of_model[key])
        for key, value in of_prepared.items()
        if not isinstance(value, dict) and key != "target"
    ] + [(key, value, of_model["mel"][key]) for key, value in of_prepared["mel"].items()]
    return ", ".join(f"{key} {value}, the model has {wanted}" for key, value, wanted in flat if value != wanted)
