"""The alignment that a model finds between two recordings of a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.resampling import resample
from aasvc_cli.conversion.converter import stats_of
from aasvc_cli.conversion.voice import Voice
from aasvc_cli.errors import DataError
from aasvc_cli.features.folder import read_features
from aasvc_cli.features.kinds import FOLDER, extract

Array = npt.NDArray[np.float32]


def align(voice: Voice, source: Path, target: Path) -> tuple[Array, list[int]]:
    """Which source token a model aligns with each target frame.

    Returns:
        weights: (T, K) probability of each source token at each target frame
        path: token of each of the T frames on the best monotonic path

    Raises:
        AudioError, DataError: a recording cannot be read, or is too short for the model.
    """
    features, stats, model = voice.config.features, voice.stats, voice.model
    rate = features.mel.sample_rate
    waves = {side: resample(*read_audio(path), rate) for side, path in (("source", source), ("target", target))}
    given = read_features(features, source) if FOLDER in (features.source, features.duration) else None
    heard, timed = (extract(kind, waves["source"], features, given) for kind in (features.source, features.duration))
    of_source, of_duration = stats.source, stats.duration
    if voice.source_from_input:
        of_source, of_duration = stats_of(heard), stats_of(timed)
    source_feature, rhythm = of_source.normalise(heard), of_duration.normalise(timed)
    target_feature = stats.target.normalise(extract(features.target, waves["target"], features))
    try:
        forced = model.align(
            *(torch.from_numpy(feature).to(voice.device) for feature in (source_feature, target_feature, rhythm))
        )
    except ValueError as error:
        raise DataError(f"{source} and {target}: {error}") from None
    weights = forced.log_alignment[0].exp().float().cpu().numpy()
    return weights, [int(token) for token in forced.path[0]]
