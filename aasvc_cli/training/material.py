"""Whether a prepared set is what a training needs: checked before a folder is made."""

from __future__ import annotations

from collections.abc import Iterable

from aasvc_cli.config.settings import Config
from aasvc_cli.data.manifest import Manifest, ParallelPair
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import encoder_hint, feature_keys
from aasvc_cli.features.stats import NormStats
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home


def check_features(config: Config, manifest: Manifest) -> None:
    """Raise DataError if the configuration asks for features that were not prepared."""
    wanted, prepared = feature_keys(config.features), feature_keys(manifest.config.features)
    for side, key in wanted.items():
        if key not in prepared.values():
            kind = getattr(config.features, side)
            raise DataError(
                f"prepared data {manifest.name} has no {kind} features with the settings of configuration "
                f"{config.name}; run: aasvc prepare with the same --conf{encoder_hint(kind, config.features)}"
            )


def read_stats(home: Home, manifest: Manifest, config: Config, norm_name: str) -> NormStats:
    """The statistics of a prepared set under a name; raises DataError unless they are of the features asked for."""
    path = home.stats / manifest.name / f"{norm_name}.json"
    if not path.is_file():
        raise DataError(f"no statistics {norm_name} for {manifest.name}; run: aasvc stats --data {manifest.name}")
    stats = NormStats.from_tree(read_json(path, "statistics"), str(path))
    for side, key in feature_keys(config.features).items():
        if stats.keys[side] != key:
            raise DataError(
                f"{path}: statistics of {side} were computed with other feature settings; "
                f"run: aasvc stats --data {manifest.name}{encoder_hint(stats.kinds[side], config.features)}"
            )
    return stats


def check_pairs_for(config: Config, pairs: Iterable[ParallelPair]) -> None:
    """Raise DataError for the first pair that the model cannot align, or that is too long."""
    for pair in pairs:
        _check_tokens(pair, config)
        _check_length(pair, config)


def _check_tokens(pair: ParallelPair, config: Config) -> None:
    """Raise DataError if a source has more tokens than its target has frames."""
    tokens = config.model.n_tokens(pair.source_frames)
    if tokens > pair.target_frames:
        raise DataError(
            f"pair {pair.utterance_id}: {tokens} source tokens do not fit into {pair.target_frames} target "
            "frames; raise model.frames_per_token, or run: aasvc prepare with this configuration, "
            "which leaves such pairs out"
        )


def _check_length(pair: ParallelPair, config: Config) -> None:
    """Raise DataError if a pair is longer than a batch may be."""
    longest, most = max(pair.source_frames, pair.target_frames), config.train.max_frames
    if most is not None and config.train.auto_batch == "off" and longest > most:
        raise DataError(
            f"pair {pair.utterance_id} ({pair.source}) has {longest} frames, and train.max_frames allows {most} at "
            f"once; run aasvc prepare again, which cuts such pairs, or give --max-frames {longest}"
        )
