"""Features that another program has written: a folder with one ``.npy`` (T, D) for each recording.

``features.json`` in it says what they are: ``{"name": "ppg_sxliu", "channels": 144, "frames_per_second": 100}``, the
first frame at time 0. The features of ``speaker/wav/a.flac`` are ``a.npy``, ``wav/a.npy`` or ``speaker/wav/a.npy``, of
which the longest path that is there counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import read_json, reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

DESCRIPTION_FILE = "features.json"
SUFFIX = ".npy"
SPARE_FRAMES = 3
"""Extractors differ by so many frames at the end of a recording."""
SPARE_SHARE = 0.02
_MOST_FOLDERS = 8
"""Folders of a recording's path that a feature's path may repeat."""


@dataclass(frozen=True)
class Description:
    """What ``features.json`` says.

    Attributes:
        name: what the features are; a voice refuses those of another name
    """

    name: str
    channels: int
    frames_per_second: float


def read_description(folder: Path) -> Description:
    """What a folder says of its features; raises DataError."""
    path = folder / DESCRIPTION_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of features")
    tree = read_json(path, "the description of a folder of features")
    with reading(path, '{"name": ..., "channels": ..., "frames_per_second": ...}'):
        name, channels, rate = str(tree["name"]), int(tree["channels"]), float(tree["frames_per_second"])
        if not (name and channels >= 1 and channels == tree["channels"] and math.isfinite(rate) and 0 < rate <= 1e4):
            raise ValueError(f"found {name!r:.60}, {channels} channels, {rate:g} frames a second")
    return Description(name, channels, rate)


def find_features(config: FeatureConfig, recording: Path, place: Path | None = None) -> tuple[Path, float]:
    """The file with the features of a recording, and its frames per second.

    Args:
        place: a folder or the file itself; None for a file beside the recording, or in the folder of the configuration

    Raises:
        DataError: nothing there, or features of another kind.
    """
    settings = config.folder
    rate = settings.frames_per_second or config.mel.frames_per_second
    if place is not None and place.suffix == SUFFIX and not place.is_dir():
        return place, rate
    beside = recording.with_suffix(SUFFIX)
    if place is None and beside.is_file():
        return beside, rate
    if place is None and (settings.path is None or not Path(settings.path).is_dir()):
        raise DataError(
            f"{recording}: its features ({settings.name or 'from a folder'}) are needed, which another program writes; "
            f"put {beside.name} beside it, or name their folder: prepare --src-feat DIR, convert --features DIR"
        )
    folder = place or Path(str(settings.path))
    described = _fitting(folder, config)
    parts = recording.absolute().with_suffix(SUFFIX).parts[1:]
    for length in range(min(len(parts), _MOST_FOLDERS), 0, -1):
        path = folder.joinpath(*parts[-length:])
        if path.is_file():
            return path, described.frames_per_second
    raise DataError(f"{recording}: no features of it in {folder}; expected {beside.name}")


def _fitting(folder: Path, config: FeatureConfig) -> Description:
    """The description of a folder, if its features are those of the configuration."""
    described, settings = read_description(folder), config.folder
    for what in ("name", "channels"):
        expected, actual = getattr(settings, what), getattr(described, what)
        if expected and expected != actual:
            raise DataError(f"{folder / DESCRIPTION_FILE}: {what} is {actual}, expected {expected}")
    return described


def read_features(
    config: FeatureConfig, recording: Path, seconds: float | None = None, place: Path | None = None
) -> tuple[Array, float]:
    """The features of a recording, (T, D), and their frames per second; see :func:`find_features`.

    Args:
        seconds: length of the recording, which theirs has to be; None if it is not known yet

    Raises:
        DataError: no such features, of another shape or length, or with values that are no numbers.
    """
    import numpy as np

    path, rate = find_features(config, recording, place)
    with reading(path, "an array (frames, channels) of NumPy"):
        array = np.load(path, allow_pickle=False)
    channels = config.folder.channels
    if array.ndim != 2 or not len(array) or array.dtype.kind not in "fiu" or channels not in (None, array.shape[1]):
        raise DataError(
            f"{path}: has shape {array.shape} of {array.dtype}, expected (frames, {channels or 'channels'}) of numbers"
        )
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds values that are not numbers (NaN or infinite)")
    if seconds is not None:
        check_length(len(values), rate, seconds, str(path), str(recording))
    return values, rate


def check_length(n_frames: int, rate: float, seconds: float, name: str, recording: str) -> None:
    """Raise DataError if features are not as long as their recording."""
    if abs(n_frames - seconds * rate) > max(SPARE_FRAMES, SPARE_SHARE * seconds * rate):
        raise DataError(
            f"{name}: has {n_frames} frames, {n_frames / rate:.2f} s at {rate:g} a second, but {recording} lasts "
            f"{seconds:.2f} s; they belong to another recording, or frames_per_second in {DESCRIPTION_FILE} is wrong"
        )


def part(features: Array, rate: float, start: float, stop: float) -> Array:
    """Features of a part of a recording, to the nearest frame: (T, D) -> (T', D), at least one frame."""
    first = min(round(start * rate), len(features) - 1)
    return features[first : max(first + 1, math.ceil(stop * rate) + 1)]
