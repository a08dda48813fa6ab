"""Exports of voices that are made on first use and kept: what ``aasvc convert --runtime onnx`` runs.

To find one that was made before takes neither torch nor the voice itself, only the checksums of its files, which are
remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aasvc_cli import __version__
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.conversion.exported import refuse_device
from aasvc_cli.conversion.source_stats import SOURCE_SIDES
from aasvc_cli.conversion.voice import CARD_FILE, CONFIG_FILE, STATS_FILE, WEIGHT_FILES, find_voice, read_card
from aasvc_cli.errors import DataError, ModelError, StorageError
from aasvc_cli.features.content import melody_file, weights_file
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import UNIVERSAL, Home
from aasvc_cli.storage.imported import Provenance, import_once
from aasvc_cli.vocoder.folder import CONFIG_FILE as VOCODER_CONFIG
from aasvc_cli.vocoder.folder import GRIFFIN_LIM, WEIGHTS_FILE, find_vocoder, find_vocoder_of

FORM = f"onnx3-{__version__}"
"""Part of the name of what is kept; its number is counted up when the same files give other graphs."""
SELF_FILE = "self.json"
"""Statistics of a prepared set."""


def load_kept(
    home: Home,
    model: str | Path | None,
    *,
    device: str = "auto",
    vocoder: str | None = None,
    source_stats: Path | None = None,
    data: str | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Converter:
    """A voice by way of an export of it, made on first use and found again by the content of the voice's files.

    An export that was damaged is made anew.

    Args:
        device: ``auto`` or ``cpu``
        model, vocoder, source_stats, data: as for :meth:`~aasvc_cli.conversion.converter.Converter.load`

    Raises:
        ModelError, ConfigError, DataError: no such voice, or a part of it cannot be exported.
        MissingExtraError: it has to be made, and the extra ``onnx`` is not installed.
        StorageError: the data folder cannot be written to.
    """
    folder = find_voice(home, model)
    refuse_device(folder, device)
    files = [*_voice_files(folder), *_vocoder_files(home, folder, vocoder), weights_file(), melody_file()]
    files += [source_stats] if source_stats is not None else _source_files(home, folder, data)
    say = on_message or (lambda _: None)
    why = "once; later conversions start at once"

    def write(place: Path, _: Provenance) -> None:
        from aasvc_cli.exporting import checked

        say(f"exporting {folder.name} for onnxruntime, {why}")
        graphs = checked.checked_graphs(
            home, model, place, vocoder=vocoder, source_stats=source_stats, data=data, on_message=on_message
        )
        checked.write_files(place, graphs.files)

    def load(place: Path) -> Converter:
        return Converter.load(place, home=home, on_message=on_message)

    def damaged() -> None:
        nonlocal why
        why = "as the export that was kept is damaged"

    there = [path for path in files if path.is_file()]
    kept = import_once(home, folder, there, write, load, form=FORM, on_damage=damaged)
    if kept is None:
        raise StorageError(
            f"{home.imported}: cannot be written, and keeps what --runtime onnx runs; run: aasvc export MODEL FOLDER, "
            "then use --model FOLDER"
        )
    return kept


def _voice_files(folder: Path) -> list[Path]:
    """What decides the voice, ours or published."""
    from aasvc_cli.published.voices import is_published_folder, published_files

    if not (folder / CONFIG_FILE).is_file() and is_published_folder(folder):
        return published_files(folder)
    weights = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()][:1]
    return [folder / CONFIG_FILE, folder / STATS_FILE, folder / CARD_FILE, *weights]


def _source_files(home: Home, folder: Path, data: str | None) -> list[Path]:
    """What decides the statistics of the source speaker, where the voice's own do not: a prepared set, maybe any."""
    if data is not None:
        return [home.stats / data / SELF_FILE]
    path = folder / STATS_FILE
    if path.is_file() and set(SOURCE_SIDES) & set(read_json(path, "the statistics of a model")):
        return []
    return sorted(home.stats.glob(f"*/{SELF_FILE}"))


def _vocoder_files(home: Home, voice: Path, name: str | None) -> list[Path]:
    """What decides the vocoder; where nothing is named, or it is nowhere, it would be the universal one."""
    from aasvc_cli.published.vocoders import is_published_vocoder, published_vocoder_files

    if name == GRIFFIN_LIM:  # refused by the export, with its reason
        return []
    folder = _named_vocoder(home, voice) if name is None else find_vocoder(home, name)
    if not (folder / VOCODER_CONFIG).is_file() and is_published_vocoder(folder):
        return published_vocoder_files(folder)
    return [folder / VOCODER_CONFIG, folder / WEIGHTS_FILE]


def _named_vocoder(home: Home, voice: Path) -> Path:
    own = read_card(voice).get("vocoder")
    if isinstance(own, str) and own not in ("", GRIFFIN_LIM):
        try:
            return find_vocoder_of(home, voice, own)
        except (ModelError, DataError):
            pass  # the export says so
    return find_vocoder(None, UNIVERSAL)
