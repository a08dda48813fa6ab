"""Voices: folders with a trained model in them, found by name and loaded.

A voice is a folder with ``config.yaml``, ``stats.json`` and ``best.safetensors`` (or ``last.safetensors``): what a
training run leaves, what ships with the package, and what users give each other. A model card, ``card.json``, may say
where it comes from and which vocoder goes with it. Folders in the published layout are read, too: on first use they are
converted to this form, which is kept in the data folder.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.mel import Array
from aasvc_cli.config.reading import dump_yaml, parse_config
from aasvc_cli.config.settings import Config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.conversion.source_stats import SOURCE_SIDES, find_prepared_source, prepared_source_stats
from aasvc_cli.errors import DataError, ModelError
from aasvc_cli.features.kinds import FOLDER, SIDES, encoder_hint, extract, feature_keys, feature_width, with_widths
from aasvc_cli.features.stats import FeatureStats, NormStats
from aasvc_cli.storage.checkpoint import load_checkpoint, load_weights, save_checkpoint
from aasvc_cli.storage.files import read_json, write_json, write_text
from aasvc_cli.storage.home import BUNDLED, Home, bundled
from aasvc_cli.storage.imported import Provenance, import_once

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from aasvc_cli.config.settings import FeatureConfig
    from aasvc_cli.model.aasvc import AASVC

CONFIG_FILE = "config.yaml"
STATS_FILE = "stats.json"
CARD_FILE = "card.json"
EXPORTED_FILE = "voice.onnx"
"""What makes a folder an exported model, see :mod:`aasvc_cli.conversion.exported`."""
WEIGHT_FILES = ("best.safetensors", "last.safetensors")
"""In the order in which they are looked for."""
_WEIGHT_PREFIX = "model."


@dataclass(frozen=True, eq=False)
class Voice:
    """A model that is ready to convert.

    Attributes:
        name: of the folder
        config: with the feature widths filled in
        stats: what to normalise with; the source's are the target's where ``source_from_input`` holds
        model: in evaluation mode, on the device asked for
        source_from_input: whether nothing is known of the source speaker, so that each recording has to be normalised
            with its own statistics
        card: what the folder says of itself, such as ``vocoder``, the name of the vocoder that goes with it
    """

    name: str
    folder: Path
    config: Config
    stats: NormStats
    model: AASVC
    device: torch.device
    source_from_input: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def min_source_frames(self) -> int:
        """Fewest source frames that can be converted."""
        return self.model.min_source_frames

    def extract(self, kind: str, wave: Array, given: tuple[Array, float] | None = None) -> Array:
        """One feature of a recording, see :func:`aasvc_cli.features.kinds.extract`."""
        return extract(kind, wave, self.config.features, given)

    def convert(
        self,
        sources: Sequence[Array],
        durations: Sequence[Array],
        seeds: Sequence[int],
        *,
        noise_scale: float | None,
        speed: float,
    ) -> list[Utterance]:
        """What the target would say, see :meth:`aasvc_cli.model.aasvc.AASVC.convert_batch`."""
        import torch

        conversions = self.model.convert_batch(
            [torch.from_numpy(source).to(self.device) for source in sources],
            [torch.from_numpy(duration).to(self.device) for duration in durations],
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            noise_scale=noise_scale,
            speed=speed,
        )
        return [
            Utterance(one.mel.float().cpu().numpy(), one.durations.cpu().numpy().astype(np.int64))
            for one in conversions
        ]

    def speak(self, vocoder: Any, log_mel: Array, seed: int) -> Array:
        """The sound of a log-mel (T, M), not normalised, by a vocoder on the same device: (T * hop_length,)."""
        from aasvc_cli.vocoder.build import speak

        return speak(vocoder, log_mel, self.device, seed=seed)


@dataclass(frozen=True, eq=False)
class Utterance:
    """What a model says for one utterance.

    Attributes:
        mel: (T, M) float32, normalised with the target's statistics
        durations: (K,) int64, target frames of each token
    """

    mel: Array
    durations: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class VoiceFiles:
    """What a model folder holds, before a network is built of it.

    Attributes:
        config: with the feature widths filled in
        stats: None where only the target's are there, as in published models
        weights: of the model, by name; empty if they were not asked for
        origin: names the weights in messages
    """

    config: Config
    target: FeatureStats
    stats: NormStats | None
    weights: Mapping[str, Tensor]
    card: Mapping[str, Any]
    origin: str


def find_voice(home: Home, name: str | Path | None = None) -> Path:
    """The folder of a voice.

    Args:
        name: a full name under ``exp`` in the data folder, else ``bundled``, else a tag, else a downloaded model, else
            a folder; None for the bundled voice.

    Raises:
        ModelError: nothing of that name (the nearest names are given), or several.
    """
    if name is None:
        return _bundled_voice()
    text = os.fspath(name)
    given = Path(os.path.expanduser(text))
    runs = _runs(home)
    # a bare name means a run first, as a folder of that name may happen to be in the current one
    if text and given.name == text:
        if text in runs:
            return home.exp / text
        # nor does a run that is called after what it began with hide it
        if text == BUNDLED:
            return _bundled_voice()
        tagged = [run for run in runs if run.endswith(f"_{text}")]
        if len(tagged) > 1:
            raise ModelError(f"{text}: fits {len(tagged)} runs: {', '.join(tagged)}; give the full name of one")
        if tagged:
            return home.exp / tagged[0]
        if (home.models / text).is_dir():
            return home.models / text
    if text and given.is_dir():
        return given
    if text and given.exists():
        raise ModelError(f"{given}: is a file, expected the folder of a model")
    raise ModelError(f"{text}: no such model folder, and no run of that name in {home.exp}{_suggest(home, text, runs)}")


def load_voice(
    folder: Path,
    device: str = "cpu",
    *,
    home: Home | None = None,
    source_stats: Path | None = None,
    data: str | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Voice:
    """Load a model folder, ours or published.

    A published folder has no statistics of its source speaker. They come from ``source_stats``, else from the prepared
    set ``data``, else from a prepared set of that speaker if the folder says who that is, else from each recording.

    Args:
        device: ``auto`` takes a GPU if there is one
        home: the data folder, where our form of published folders is kept, and prepared sets are; None for none
        source_stats: statistics of the source speaker in place of the folder's own: ``.h5`` with ``mel_mean`` and
            ``mel_scale``, or a ``stats.json``
        on_message: told where statistics come from that the folder doesn't have

    Raises:
        ModelError: a part is missing or damaged, or the parts don't belong together.
        ConfigError, DataError: the configuration or the statistics have faults.
    """
    chosen = pick_device(device)
    files = read_voice(folder, home)
    config, stats, from_input = files.config, files.stats, False
    if stats is None:
        stats, from_input = _without_source(folder, files, home, source_stats, data, on_message or (lambda _: None))
    if source_stats is not None:
        stats = _with_source(stats, config, source_stats)
    _check_widths(folder, config, stats)
    model = _build(config, files.weights, files.origin).to(chosen)
    return Voice(folder.absolute().name, folder, config, stats, model, chosen, from_input, files.card)


def read_voice(folder: Path, home: Home | None = None, *, weights: bool = True) -> VoiceFiles:
    """What a model folder holds, ours or published.

    Args:
        home: the data folder, where our form of published folders is kept; None for none
        weights: whether to read them

    Raises:
        ModelError: a part is missing or damaged, or the parts don't belong together.
        ConfigError, DataError: the configuration or the statistics have faults.
    """
    from aasvc_cli.published.voices import is_published_folder, published_files, read_published_voice

    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    if is_exported(folder):
        raise ModelError(f"{folder}: is an exported model, which can only convert; use the folder it was exported from")
    if (folder / CONFIG_FILE).is_file() or not is_published_folder(folder):
        return _read_ours(folder, weights, None)

    def write(place: Path, provenance: Provenance) -> None:
        config, state, target, card = read_published_voice(folder)
        header = {"step": card["step"], "origin": provenance}
        save_checkpoint(
            place / WEIGHT_FILES[0], {f"{_WEIGHT_PREFIX}{name}": tensor for name, tensor in state.items()}, header
        )
        write_text(place / CONFIG_FILE, dump_yaml(config))
        kind, key = str(config.features.target), feature_keys(config.features)["target"]
        write_json(
            place / STATS_FILE, {"origin": card["name"], "target": {"kind": kind, "key": key} | target.to_tree()}
        )
        write_json(place / CARD_FILE, {**card, "origin": provenance})

    def read(kept: Path) -> VoiceFiles:
        return _read_ours(kept, weights, str(folder))

    if home is not None and (files := import_once(home, folder, published_files(folder), write, read)) is not None:
        return files
    config, state, target, card = read_published_voice(folder, weights=weights)
    return VoiceFiles(config, target, None, state, card, str(folder))


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


def _bundled_voice() -> Path:
    folder = bundled("voice")
    if not folder.is_dir():
        raise ModelError(f"{folder}: this installation has no bundled voice; choose a model with --model")
    return folder


def _runs(home: Home) -> list[str]:
    return _folders(home.exp)


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _suggest(home: Home, text: str, runs: list[str]) -> str:
    # a tag is what follows the two speakers, which may hold underscores themselves
    names = {part: run for run in runs for part in (run, run.rsplit("_", 1)[-1])}
    others = [*_folders(home.models), BUNDLED]
    names |= {model: model for model in others}
    runs = runs + others
    near = difflib.get_close_matches(Path(text).name, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there is: {', '.join(runs)}"


def _read_ours(folder: Path, with_weights: bool, origin: str | None) -> VoiceFiles:
    config, target, stats = _read_settings(folder)
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(
            f"{folder}: no weights, expected {' or '.join(WEIGHT_FILES)}; aasvc train writes them with its "
            "first checkpoint"
        )
    tensors, header = load_checkpoint(path) if with_weights else ({}, {})
    if path.name == WEIGHT_FILES[1] and header.get("step") == 0:
        raise ModelError(
            f"{folder}: was stopped before its first step of training; the same aasvc train goes on with it"
        )
    state = {
        name.removeprefix(_WEIGHT_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_WEIGHT_PREFIX)
    }
    return VoiceFiles(config, target, stats, state, read_card(folder), origin or str(path))


def is_exported(folder: Path) -> bool:
    """Whether a folder is what ``aasvc export`` writes."""
    return (folder / EXPORTED_FILE).is_file() and not (folder / CONFIG_FILE).exists()


def read_card(folder: Path) -> dict[str, Any]:
    """The model card of a folder, empty if there is none; raises DataError."""
    path = folder / CARD_FILE
    if not path.is_file():
        return {}
    tree = read_json(path, "a model card")
    if not isinstance(tree, dict):
        raise DataError(f"{path}: expected a model card, a mapping; found {type(tree).__name__}")
    return tree


def _read_settings(folder: Path) -> tuple[Config, FeatureStats, NormStats | None]:
    for name, what in ((CONFIG_FILE, "its configuration"), (STATS_FILE, "its statistics")):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder}: not a model folder, {what} is missing; expected {CONFIG_FILE}, {STATS_FILE} and "
                f"{WEIGHT_FILES[0]}, or a published folder with config.yml and checkpoint-<steps>steps.pkl"
            )
    path = folder / CONFIG_FILE
    config = with_widths(parse_config(read_config_file(path), str(path)), str(path))
    keys = feature_keys(config.features)
    path = folder / STATS_FILE
    tree = read_json(path, "the statistics of a model")
    if isinstance(tree, dict) and "target" in tree and not set(SOURCE_SIDES) & set(tree):
        # what became of a published model
        entry = tree["target"] if isinstance(tree["target"], dict) else {}
        if entry.get("key") != keys["target"]:
            raise ModelError(f"{path}: its statistics are not of the target features of {CONFIG_FILE} beside it")
        return config, FeatureStats.from_tree(entry, f"{path}: target"), None
    stats = NormStats.from_tree(tree, str(path))
    check_statistics(stats, config.features, path, f"{CONFIG_FILE} beside it; copy both from the same run")
    return config, stats.target, stats


def check_statistics(stats: NormStats, features: FeatureConfig, place: Path, whose: str) -> None:
    """Raise ModelError, naming ``place``, unless the statistics in it are of these features.

    Args:
        whose: whose settings the features have, and what to do if they are others
    """
    for side, key in feature_keys(features).items():
        if stats.keys[side] != key:
            kind = stats.kinds[side]
            raise ModelError(
                f"{place}: its {side} statistics are of {kind} features with other settings than {whose}"
                f"{encoder_hint(kind, features)}"
            )


WITHOUT_SOURCE_STATS = (
    "has no statistics of its source speaker; each recording is normalised by its own, which moves the result by about "
    "1 dB in every mel band for whole sentences and by more than 2 dB for a single second: give --source-stats FILE, "
    "or --data NAME for a prepared set of that speaker"
)
"""The warning for a model without statistics of its source; measured on a voice on mels that has the right ones."""


def _without_source(
    folder: Path,
    files: VoiceFiles,
    home: Home | None,
    source_stats: Path | None,
    data: str | None,
    say: Callable[[str], None],
) -> tuple[NormStats, bool]:
    """Statistics of a model that has the target's only, and whether its source has to be taken from each recording."""
    features, target = files.config.features, files.target
    kinds = {side: str(getattr(features, side)) for side in SIDES}

    def with_source(source: Mapping[str, FeatureStats]) -> NormStats:
        return NormStats(
            source["source"], target, source["duration"], kinds, feature_keys(features), folder.absolute().name
        )

    # stands in for the others until these are known
    placeholder = with_source({side: _stand_in(files, side) for side in SOURCE_SIDES})
    if source_stats is not None:
        return placeholder, False
    if data is not None:
        if home is None:
            raise ModelError(f"--data {data}: there is no data folder to find it in")
        return with_source(prepared_source_stats(home, files.config, data)), False
    # published folders are named <source>_<target>_<tag>
    speaker = files.card.get("source_speaker") or folder.absolute().name.split("_")[0]
    name = find_prepared_source(home, files.config, speaker) if home is not None else None
    if home is not None and name is not None:
        say(f"source statistics: those of {speaker} in the prepared data {name} (others: --source-stats, --data)")
        return with_source(prepared_source_stats(home, files.config, name)), False
    say(f"warning: {folder} {WITHOUT_SOURCE_STATS}")
    return placeholder, True


def _stand_in(files: VoiceFiles, side: str) -> FeatureStats:
    """The target's statistics, or those of nothing to do for features of another width."""
    import numpy as np

    features = files.config.features
    width = feature_width(getattr(features, side), features)
    if width == len(files.target.mean):
        return files.target
    return FeatureStats(np.zeros(width, dtype=np.float32), np.ones(width, dtype=np.float32), 0)


def _with_source(stats: NormStats, config: Config, path: Path) -> NormStats:
    """The same statistics with those of the source speaker taken from a file."""
    from aasvc_cli.published.voices import read_h5_stats

    if not path.exists():
        raise ModelError(f"{path}: no such file; --source-stats takes the statistics of the source speaker")
    sides = ("source", "duration")
    if path.suffix.lower() in (".h5", ".hdf5"):
        names = {side: getattr(config.features, side) for side in sides}
        names |= {side: str(config.features.folder.name) for side in sides if names[side] == FOLDER}
        chosen = {side: _checked(read_h5_stats(path, names[side]), path) for side in sides}
    else:
        given = NormStats.from_tree(read_json(path, "statistics"), str(path))
        for side in sides:
            if given.keys[side] != stats.keys[side]:
                raise ModelError(
                    f"{path}: its {side} statistics are of {given.kinds[side]} features with other settings than the "
                    "model's; compute them with the model's own configuration"
                )
        chosen = {side: getattr(given, side) for side in sides}
    return NormStats(chosen["source"], stats.target, chosen["duration"], stats.kinds, stats.keys, stats.origin)


def _checked(stats: FeatureStats, path: Path) -> FeatureStats:
    return FeatureStats.from_tree(stats.to_tree(), str(path))


def _check_widths(folder: Path, config: Config, stats: NormStats) -> None:
    for side in SIDES:
        expected = feature_width(getattr(config.features, side), config.features)
        width = len(getattr(stats, side).mean)
        if width != expected:
            raise ModelError(
                f"{folder}: the {side} statistics have {width} dimensions, the {getattr(config.features, side)} "
                f"features {expected}; they belong to another model"
            )


def _build(config: Config, state: Mapping[str, Tensor], origin: str) -> AASVC:
    import torch

    from aasvc_cli.model.aasvc import AASVC

    with torch.device("meta"):  # without memory, until the weights are known to fit
        model = AASVC(config.model)
    load_weights(model, state, origin)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()
