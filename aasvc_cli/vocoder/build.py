"""One vocoder by name, checked against the mel settings of the model it serves.

A vocoder is a folder with ``config.yaml`` (its kind, the settings of its mels, the sizes of its network) and
``generator.safetensors``. Folders in the published layout are read, too. Griffin-Lim needs no folder.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aasvc_cli.config.reading import parse_section, to_tree
from aasvc_cli.config.settings import MelConfig, Section
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.storage.checkpoint import load_checkpoint, load_weights, save_checkpoint
from aasvc_cli.storage.files import write_text
from aasvc_cli.storage.home import UNIVERSAL, Home
from aasvc_cli.vocoder.folder import CONFIG_FILE, GRIFFIN_LIM, WEIGHTS_FILE, StoredVocoder, find_vocoder
from aasvc_cli.vocoder.gan_generators import (
    GanVocoder,
    HiFiGan,
    HiFiGanSizes,
    ParallelWaveGan,
    ParallelWaveGanSizes,
)
from aasvc_cli.vocoder.griffin_lim import GriffinLim
from aasvc_cli.vocoder.istft import IstftGenerator, IstftSizes, IstftVocoder

_SIZES = TypeVar("_SIZES", HiFiGanSizes, ParallelWaveGanSizes)


class Vocoder(Protocol):
    """Turns log-mels into sound."""

    @property
    def mel(self) -> MelConfig:
        """The settings of the log-mels that it takes."""
        ...

    @property
    def sample_rate(self) -> int:
        """Of the waveform, in Hz."""
        ...

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        ...

    def synthesise(self, log_mel: Tensor, *, seed: int = 0) -> Tensor:
        """(B, T, M), not normalised, to (B, T * hop_length); ``seed`` decides what is drawn, if anything is."""
        ...


def speak(vocoder: Vocoder, log_mel: npt.NDArray[np.float32], device: str | torch.device, *, seed: int = 0) -> Any:
    """The sound of one utterance: (T, M), not normalised, to (T * hop_length,) float32."""
    mel = torch.from_numpy(log_mel).unsqueeze(0).to(device)
    return vocoder.synthesise(mel, seed=seed)[0].float().cpu().numpy()


def build_vocoder(
    name: str | Path, mel: MelConfig, *, home: Home | None = None, device: str | torch.device = "cpu"
) -> Vocoder:
    """The vocoder of that name for log-mels of these settings.

    Args:
        name: ``griffin-lim``, or as for :func:`find_vocoder`
        home: the data folder; None for none

    Raises:
        ModelError: no such vocoder, or one that is damaged or for other mel settings.
        ConfigError: its configuration has faults.
    """
    if os.fspath(name) == GRIFFIN_LIM:
        return GriffinLim(mel)
    vocoder = load_vocoder(find_vocoder(home, name), home=home, device=device)
    refuse_mismatch(os.fspath(name), vocoder, mel)
    return vocoder


def load_vocoder(folder: Path, *, home: Home | None = None, device: str | torch.device = "cpu") -> Vocoder:
    """Load a vocoder folder, ours or published.

    Raises:
        ModelError: a part is missing or damaged, or the parts don't belong together.
        ConfigError: the configuration has faults.
    """
    from aasvc_cli.published.vocoders import is_published_vocoder

    if (folder / CONFIG_FILE).is_file() or not is_published_vocoder(folder):
        stored = read_vocoder(folder)
    else:
        stored = _import(folder, home)
    return KINDS[stored.kind](stored, str(folder), torch.device(device))


def _import(folder: Path, home: Home | None) -> StoredVocoder:
    """A published folder, by way of our form of it in the data folder if there is one."""
    from aasvc_cli.published.vocoders import published_vocoder_files
    from aasvc_cli.storage.imported import Provenance, import_once

    def write(place: Path, provenance: Provenance) -> None:
        stored = _published(folder)
        write_vocoder(place, dataclasses.replace(stored, origin={**stored.origin, **provenance}))

    kept = None if home is None else import_once(home, folder, published_vocoder_files(folder), write, read_vocoder)
    return _published(folder) if kept is None else kept


def _published(folder: Path) -> StoredVocoder:
    from aasvc_cli.published.vocoders import read_published_vocoder

    published = read_published_vocoder(folder)
    return StoredVocoder(published.kind, published.mel, published.generator, published.tensors, published.origin)


def read_vocoder(folder: Path) -> StoredVocoder:
    """What a vocoder folder of ours holds; raises ModelError or ConfigError."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder}: not a vocoder folder, {name} is missing; expected {CONFIG_FILE} and {WEIGHTS_FILE}, or a "
                "published folder with config.yml, checkpoint-<steps>steps.pkl and stats.h5"
            )
    kind, mel, generator = read_vocoder_config(folder / CONFIG_FILE)
    tensors, header = load_checkpoint(folder / WEIGHTS_FILE)
    return StoredVocoder(kind, mel, generator, tensors, header)


def read_vocoder_config(path: Path) -> tuple[str, MelConfig, dict[str, Any]]:
    """Kind, settings of the mels and sizes of the network, out of a configuration; raises ConfigError."""
    tree = read_config_file(path)
    faults = [f"{key}: unknown key" for key in tree if key not in ("kind", "mel", "generator")]
    if tree.get("kind") not in list(KINDS):
        faults.append(f"kind: expected one of {', '.join(KINDS)}, found {tree.get('kind')!r}")
    if not isinstance(tree.get("generator"), dict):
        faults.append("generator: expected the sizes of the network")
    if faults:
        raise ConfigError(str(path), faults)
    return tree["kind"], parse_section(MelConfig, tree.get("mel") or {}, "mel", str(path)), tree["generator"]


def write_vocoder(folder: Path, stored: StoredVocoder) -> None:
    """Write a vocoder folder that :func:`read_vocoder` reads back; raises StorageError."""
    import yaml

    tree = {"kind": stored.kind, "mel": to_tree(stored.mel), "generator": _plain(stored.generator)}
    save_checkpoint(folder / WEIGHTS_FILE, stored.tensors, stored.origin)
    write_text(folder / CONFIG_FILE, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def default_vocoder(mel: MelConfig) -> str:
    """The vocoder of a voice that has none of its own: the universal one where it takes mels of these settings."""
    settings = read_vocoder_config(find_vocoder(None, UNIVERSAL) / CONFIG_FILE)[1]
    return GRIFFIN_LIM if _differences(settings, mel) else UNIVERSAL


def refuse_mismatch(name: str, vocoder: Vocoder, mel: MelConfig) -> None:
    """Raise ModelError, with both values, if a vocoder doesn't fit the mel settings of a model."""
    differences = _differences(vocoder.mel, mel)
    if differences:
        raise ModelError(f"vocoder {name} does not fit the model: {'; '.join(differences)}; choose another vocoder")


def _differences(vocoder: MelConfig, model: MelConfig) -> list[str]:
    """What is unlike in the mels of a vocoder and of a model, with both values."""
    stored, expected = _meaning(vocoder), _meaning(model)
    return [
        f"{what} {stored[what]}, the model has {expected[what]}"
        for what in expected
        if not _same(stored[what], expected[what])
    ]


def _meaning(mel: MelConfig) -> dict[str, Any]:
    """Mel settings with ``null`` replaced by its defaults."""
    tree = to_tree(mel)
    return tree | {
        "win_length": mel.win_length or mel.n_fft,
        "fmax": mel.fmax if mel.fmax is not None else mel.sample_rate / 2,
        "log_base": "e" if mel.log_base is None else mel.log_base,
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other))
    return bool(one == other)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


# --- kinds ----------------------------------------------------------------------------------------------------------


def _hifi_gan(stored: StoredVocoder, origin: str, device: torch.device) -> Vocoder:
    sizes = _sizes(HiFiGanSizes, stored, origin)
    return _gan(HiFiGan, sizes, stored, origin, device)


def _parallel_wavegan(stored: StoredVocoder, origin: str, device: torch.device) -> Vocoder:
    sizes = _sizes(ParallelWaveGanSizes, stored, origin)
    return _gan(ParallelWaveGan, sizes, stored, origin, device)


def _istft(stored: StoredVocoder, origin: str, device: torch.device) -> Vocoder:
    sizes = parse_section(IstftSizes, stored.generator, "generator", origin)
    _refuse_oversized(sizes, stored, origin)
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be replaced
        generator = IstftGenerator(stored.mel, sizes)
    load_weights(generator, stored.tensors, origin)
    return IstftVocoder(generator.to(device))


KINDS: dict[str, Callable[[StoredVocoder, str, torch.device], Vocoder]] = {
    "istft": _istft,
    "hifi-gan": _hifi_gan,
    "parallel-wavegan": _parallel_wavegan,
}
"""How each kind of vocoder is built from what its folder holds: (stored, name of the folder in messages, device)."""


def _sizes(cls: type[_SIZES], stored: StoredVocoder, origin: str) -> _SIZES:
    sizes = parse_section(cls, stored.generator, "generator", origin)
    faults = []
    if sizes.hop_length != stored.mel.hop_length:
        faults.append(
            f"generator.upsample_scales: their product is {sizes.hop_length}, but mel.hop_length is "
            f"{stored.mel.hop_length}"
        )
    if sizes.n_mels != stored.mel.n_mels:
        faults.append(f"generator: takes {sizes.n_mels} channels, but mel.n_mels is {stored.mel.n_mels}")
    if faults:
        raise ConfigError(origin, faults)
    _refuse_oversized(sizes, stored, origin)
    return sizes


def _refuse_oversized(sizes: Section, stored: StoredVocoder, origin: str) -> None:
    """Refuse sizes far beyond those of the weights, before a network of these sizes takes the memory."""
    most = max((*(size for tensor in stored.tensors.values() for size in tensor.shape), len(stored.tensors), 16))
    faults = [
        f"generator.{key}: {value} does not fit the weights, whose largest size is {most}"
        for key, value in to_tree(sizes).items()
        if isinstance(value, int) and value > 4 * most
    ]
    if faults:
        raise ConfigError(origin, faults)


def _gan(
    network: Callable[[Any], HiFiGan | ParallelWaveGan],
    sizes: Any,
    stored: StoredVocoder,
    origin: str,
    device: torch.device,
) -> Vocoder:
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be replaced
        generator = network(sizes)
    tensors = dict(stored.tensors)
    mean, scale = tensors.pop("mean", None), tensors.pop("scale", None)
    load_weights(generator, tensors, origin)
    for name, statistic in (("mean", mean), ("scale", scale)):
        if statistic is not None and statistic.shape != (stored.mel.n_mels,):
            raise ModelError(f"{origin}: {name} has shape {tuple(statistic.shape)}, expected ({stored.mel.n_mels},)")
    if (mean is None) != (scale is None):
        raise ModelError(f"{origin}: mean and scale belong together, and one is missing")
    return GanVocoder(
        generator.to(device),
        stored.mel,
        mean=None if mean is None else mean.float().to(device),
        scale=None if scale is None else scale.float().to(device),
    )
