"""Folders of vocoders: where a name leads, and what they hold. Needs no torch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import DataError, ModelError
from aasvc_cli.storage.home import BUNDLED, UNIVERSAL, Home, bundled

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "generator.safetensors"
GRIFFIN_LIM = "griffin-lim"
"""Names the vocoder that has no folder."""


@dataclass(frozen=True, eq=False)
class StoredVocoder:
    """What a vocoder folder holds.

    Attributes:
        kind: which network, a key of ``KINDS``
        mel: the settings of the log-mels that it was trained on
        generator: its sizes
        tensors: its weights by our names; ``mean`` and ``scale`` (M,) if its mels are normalised
        origin: where it comes from: JSON-able, kept in the header of the weights
    """

    kind: str
    mel: MelConfig
    generator: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any] = field(default_factory=dict)


def find_vocoder(home: Home | None, name: str | Path) -> Path:
    """The folder of a vocoder.

    Args:
        name: one in ``vocoders`` of the data folder, else one that ships with the package, else a folder

    Raises:
        ModelError: nothing of that name; the nearest names are given.
    """
    text = os.fspath(name)
    given = Path(os.path.expanduser(text))
    names = named_vocoders(home)
    if text in names:
        return names[text]
    if text and given.is_dir():
        return given
    if text and given.exists():
        raise ModelError(f"{given}: is a file, expected the folder of a vocoder, or {GRIFFIN_LIM}")
    known = [GRIFFIN_LIM, *names]
    near = difflib.get_close_matches(given.name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there is: {', '.join(known)}"
    raise ModelError(f"{text}: no such vocoder; {hint}")


def find_vocoder_of(home: Home | None, voice: Path, name: str) -> Path:
    """The folder of the vocoder that a voice names: inside the voice's own folder, else by name, else beside it.

    Raises:
        ModelError: it is nowhere.
        DataError: the name leads out of the voice's folder, by a path or a link.
    """
    inside, beside = voice / name, voice.absolute().parent / name
    if Path(name).name != name or (inside.exists() and not inside.resolve().is_relative_to(voice.resolve())):
        raise DataError(
            f"{voice}: its model card names the vocoder {name!r:.60}, which lies outside this folder; choose another "
            "with --vocoder"
        )
    for folder in (inside, named_vocoders(home).get(name), beside):
        if folder is not None and folder.is_dir():
            return folder
    raise ModelError(f"{name}: no such vocoder in {voice}, beside it, or in the data folder; run: aasvc download")


def vocoder_files(folder: Path) -> list[Path]:
    """The files that decide what a vocoder folder, ours or published, sounds like."""
    from aasvc_cli.published.vocoders import is_published_vocoder, published_vocoder_files

    if not (folder / CONFIG_FILE).is_file() and is_published_vocoder(folder):
        return published_vocoder_files(folder)
    return [folder / CONFIG_FILE, folder / WEIGHTS_FILE]


def named_vocoders(home: Home | None) -> dict[str, Path]:
    """Vocoders that a bare name means."""
    names = {}
    if home is not None and home.vocoders.is_dir():
        names = {path.name: path for path in sorted(home.vocoders.iterdir()) if path.is_dir() and path.name[:1] != "."}
    for name, folder in ((BUNDLED, "vocoder"), (UNIVERSAL, "universal")):
        names.setdefault(name, bundled(folder))
    return names
