"""Voices: folders with a trained model in them, found by name and loaded.

A voice is a folder with ``config.yaml``, ``stats.json`` and ``best.safetensors`` (or ``last.safetensors``): what a
training run leaves, what ships with the package, and what users give each other. Folders in the published layout are
read, too.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aasvc_cli.config import Config, parse_config, read_config_file
from aasvc_cli.errors import DataError, ModelError
from aasvc_cli.features import SIDES, FeatureStats, NormStats, feature_keys
from aasvc_cli.storage.cache import Home, bundled
from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.files import read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from aasvc_cli.model.aasvc import AASVC

CONFIG_FILE = "config.yaml"
STATS_FILE = "stats.json"
WEIGHT_FILES = ("best.safetensors", "last.safetensors")
"""In the order in which they are looked for."""
_WEIGHT_PREFIX = "model."


@dataclass(frozen=True, eq=False)
class Voice:
    """A model that is ready to convert.

    Attributes:
        name: of the folder
        config: with the feature widths filled in
        model: in evaluation mode, on the device asked for
    """

    name: str
    folder: Path
    config: Config
    stats: NormStats
    model: AASVC
    device: torch.device


def find_voice(home: Home, name: str | Path | None = None) -> Path:
    """The folder of a voice.

    Args:
        name: a full name or a tag under ``exp`` in the data folder, else a folder; None for the bundled voice.

    Raises:
        ModelError: nothing of that name (the nearest names are given), or several.
    """
    if name is None:
        folder = bundled("voice")
        if not folder.is_dir():
            raise ModelError(f"{folder}: this installation has no bundled voice; choose a model with --model")
        return folder
    text = os.fspath(name)
    given = Path(text).expanduser()
    runs = _runs(home)
    # a bare name means a run first, as a folder of that name may happen to be in the current one
    if text and given.name == text:
        if text in runs:
            return home.exp / text
        tagged = [run for run in runs if run.endswith(f"_{text}")]
        if len(tagged) > 1:
            raise ModelError(f"{text}: fits {len(tagged)} runs: {', '.join(tagged)}; give the full name of one")
        if tagged:
            return home.exp / tagged[0]
    if text and given.is_dir():
        return given
    if text and given.exists():
        raise ModelError(f"{given}: is a file, expected the folder of a model")
    raise ModelError(f"{text}: no such model folder, and no run of that name in {home.exp}{_suggest(text, runs)}")


def load_voice(folder: Path, device: str = "cpu", *, source_stats: Path | None = None) -> Voice:
    """Load a model folder, ours or published.

    Args:
        device: ``auto`` takes a GPU if there is one
        source_stats: statistics of the source speaker in place of the folder's own: ``.h5`` with ``mel_mean`` and
            ``mel_scale``, or a ``stats.json``. A folder in the published layout has none and needs them.

    Raises:
        ModelError: a part is missing or damaged, or the parts don't belong together.
        ConfigError, DataError: the configuration or the statistics have faults.
    """
    from aasvc_cli.legacy.published import is_published_folder

    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    chosen = pick_device(device)
    if not (folder / CONFIG_FILE).is_file() and is_published_folder(folder):
        config, state, stats = _read_published(folder, source_stats)
        origin = str(folder)
    else:
        config, stats = _read_settings(folder)
        if source_stats is not None:
            stats = _with_source(stats, config, source_stats)
        weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
        if weights is None:
            raise ModelError(
                f"{folder}: no weights, expected {' or '.join(WEIGHT_FILES)}; aasvc train writes them with its "
                "first checkpoint"
            )
        tensors, _ = load_checkpoint(weights)
        state = {
            name.removeprefix(_WEIGHT_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(_WEIGHT_PREFIX)
        }
        origin = str(weights)
    _check_widths(folder, config, stats)
    return Voice(folder.absolute().name, folder, config, stats, _build(config, state, origin).to(chosen), chosen)


def prepared_name(folder: Path) -> str | None:
    """The prepared set that a run was trained on; None for a model folder from elsewhere.

    Raises:
        DataError: the run's record of its data is damaged.
    """
    path = folder / "data.json"
    if not path.exists():
        return None
    tree = read_json(path, "what a run was trained on")
    name = tree.get("prepared") if isinstance(tree, dict) else None
    if not isinstance(name, str):
        raise DataError(f'{path}: expected {{"prepared": NAME}}; name the prepared set yourself with --data')
    return name


def pick_device(name: str) -> torch.device:
    """The device to compute on; ``auto`` takes a GPU if there is one.

    Raises:
        ModelError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"--device {name}: cannot be used here ({reason}); use auto or cpu") from None
    return device


def _runs(home: Home) -> list[str]:
    if not home.exp.is_dir():
        return []
    return sorted(path.name for path in home.exp.iterdir() if path.is_dir() and not path.name.startswith("."))


def _suggest(text: str, runs: list[str]) -> str:
    # a tag is what follows the two speakers, which may hold underscores themselves
    names = {part: run for run in runs for part in (run, run.rsplit("_", 1)[-1])}
    near = difflib.get_close_matches(Path(text).name, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there is: {', '.join(runs)}" if runs else "; train one: aasvc train --tag NAME"


def _read_settings(folder: Path) -> tuple[Config, NormStats]:
    for name, what in ((CONFIG_FILE, "its configuration"), (STATS_FILE, "its statistics")):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder}: not a model folder, {what} is missing; expected {CONFIG_FILE}, {STATS_FILE} and "
                f"{WEIGHT_FILES[0]}, or a published folder with config.yml and checkpoint-<steps>steps.pkl"
            )
    path = folder / CONFIG_FILE
    config = parse_config(read_config_file(path), str(path)).resolved()
    path = folder / STATS_FILE
    stats = NormStats.from_tree(read_json(path, "the statistics of a model"), str(path))
    for side, key in feature_keys(config.features).items():
        if stats.keys[side] != key:
            raise ModelError(
                f"{path}: its {side} statistics are of {stats.kinds[side]} features with other settings than "
                f"{CONFIG_FILE} beside it; copy both from the same run"
            )
    return config, stats


def _read_published(folder: Path, source_stats: Path | None) -> tuple[Config, dict[str, Tensor], NormStats]:
    from aasvc_cli.legacy.published import read_published_voice

    config, state, target = read_published_voice(folder)
    if target is None:
        raise ModelError(f"{folder}: stats.h5 with the target's statistics is missing; copy it beside the checkpoint")
    if source_stats is None:
        raise ModelError(
            f"{folder}: a published model comes with the target's statistics only; give those of its source speaker "
            "with --source-stats FILE (.h5 with mel_mean and mel_scale, or a stats.json)"
        )
    kinds = {side: str(getattr(config.features, side)) for side in SIDES}
    # the target's stand in for the others, until these are read
    stats = NormStats(target, target, target, kinds, feature_keys(config.features), str(folder))
    return config, state, _with_source(stats, config, source_stats)


def _with_source(stats: NormStats, config: Config, path: Path) -> NormStats:
    """The same statistics with those of the source speaker taken from a file."""
    from aasvc_cli.legacy.published import read_h5_stats

    if not path.is_file():
        raise ModelError(f"{path}: no such file; --source-stats takes the statistics of the source speaker")
    sides = ("source", "duration")
    if path.suffix.lower() in (".h5", ".hdf5"):
        found = {side: _checked(read_h5_stats(path, getattr(config.features, side)), path) for side in sides}
    else:
        given = NormStats.from_tree(read_json(path, "statistics"), str(path))
        for side in sides:
            if given.keys[side] != stats.keys[side]:
                raise ModelError(
                    f"{path}: its {side} statistics are of {given.kinds[side]} features with other settings than the "
                    "model's; compute them with the model's own configuration"
                )
        found = {side: getattr(given, side) for side in sides}
    return NormStats(found["source"], stats.target, found["duration"], stats.kinds, stats.keys, stats.origin)


def _checked(stats: FeatureStats, path: Path) -> FeatureStats:
    return FeatureStats.from_tree(stats.to_tree(), str(path))


def _check_widths(folder: Path, config: Config, stats: NormStats) -> None:
    for side in SIDES:
        expected = config.features.width(getattr(config.features, side))
        found = len(getattr(stats, side).mean)
        if found != expected:
            raise ModelError(
                f"{folder}: the {side} statistics have {found} dimensions, the {getattr(config.features, side)} "
                f"features {expected}; they belong to another model"
            )


def _build(config: Config, state: Mapping[str, Tensor], origin: str) -> AASVC:
    import torch

    from aasvc_cli.model.aasvc import AASVC

    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be replaced
        model = AASVC(config.model)
    expected = model.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {what} (first: {names[0]})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    if faults:
        raise ModelError(
            f"{origin}: the weights do not fit the configuration beside them: tensors {', '.join(faults)}; "
            "both must come from the same run"
        )
    try:
        model.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in expected.items()})
    except RuntimeError as error:
        raise ModelError(f"{origin}: cannot be loaded ({str(error).splitlines()[0]})") from None
    broken = [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(f"{origin}: {len(broken)} tensors hold NaN or infinity (first: {broken[0]}); use another one")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()
