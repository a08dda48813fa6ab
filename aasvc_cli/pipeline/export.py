"""Write a voice and its vocoder as ONNX graphs, or as a page, once these are known to give the same samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aasvc_cli.conversion.converter import Converter
from aasvc_cli.conversion.exported import ExportedVocoder, ExportedVoice, exported_from
from aasvc_cli.conversion.voice import CARD_FILE, EXPORTED_FILE, Voice, find_voice, is_exported
from aasvc_cli.errors import ModelError, StorageError
from aasvc_cli.exporting.page import PAGE_FILE, page_files
from aasvc_cli.exporting.parts import graph_files
from aasvc_cli.storage.files import as_bytes, byte_size, json_text, make_folder, remove_file, write_bytes
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.build import Vocoder

FORMATS = ("onnx", "web")
LARGEST_DIFFERENCE = 1e-3
"""Between what torch and onnxruntime compute: of a sample, full scale at 1, and of a mel, in units of its scale."""
CHECKED_FRAMES = 150
"""Of the utterance that is compared."""


@dataclass(frozen=True)
class ExportSummary:
    """What was exported.

    Attributes:
        model: the folder of the voice
        files: what was written, and its size in bytes
        difference: the largest between torch and onnxruntime, see ``LARGEST_DIFFERENCE``
    """

    model: Path
    folder: Path
    format: str
    vocoder: str
    files: Mapping[str, int]
    difference: float

    def lines(self) -> list[str]:
        """The result for people."""
        total = byte_size(sum(self.files.values()))
        return [f"{self.folder}: {len(self.files)} files, {total}; differs from torch by {self.difference:.1g} at most"]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "model": str(self.model), "folder": str(self.folder), "format": self.format, "vocoder": self.vocoder,
            "files": dict(self.files), "difference": self.difference,
        }  # fmt: skip


def export_model(
    home: Home,
    model: str | Path | None,
    folder: Path,
    *,
    format_name: str = "onnx",
    vocoder: str | None = None,
    source_stats: Path | None = None,
    data: str | None = None,
    overwrite: bool = False,
    on_message: Callable[[str], None] | None = None,
) -> ExportSummary:
    """Export a voice.

    Args:
        model, vocoder, source_stats, data: as for :meth:`~aasvc_cli.conversion.converter.Converter.load`
        folder: is made; the graphs appear in it complete or not at all
        format_name: ``onnx`` for the graphs, which ``aasvc convert --model FOLDER`` takes; ``web`` for a page with them
        overwrite: replace what an earlier export left there

    Raises:
        StorageError: there is something in the folder already.
        ModelError: the voice or the vocoder cannot be exported, or the graphs would give other samples.
        MissingExtraError: the extra ``onnx`` is not installed.
        DownloadError: the page needs onnxruntime-web, which is not there and cannot be fetched.
    """
    if is_exported(place := find_voice(home, model)):
        raise ModelError(f"{place}: is an exported model already; copy it, or export the model it came from")
    if not overwrite and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        raise StorageError(f"{folder}: is there already; choose a new folder, or replace its files with --overwrite")
    converter = Converter.load(
        model, home=home, device="cpu", vocoder=vocoder, source_stats=source_stats, data=data, on_message=on_message
    )
    voice, sound, name = converter.voice, converter.vocoder, converter.vocoder_name
    assert isinstance(voice, Voice) and not isinstance(sound, ExportedVocoder)
    files = graph_files(voice, sound, name)
    difference = _difference(voice, sound, *exported_from(folder, files, voice.card))
    if not difference <= LARGEST_DIFFERENCE:
        raise ModelError(
            f"{voice.folder}: onnxruntime gives results that differ by {difference:.2g} from those of torch, expected "
            f"at most {LARGEST_DIFFERENCE:g}; nothing was written"
        )
    if format_name == "web":
        files = page_files(home, voice, sound, name, on_message)
    if voice.card:
        files = {CARD_FILE: as_bytes(json_text(voice.card) + "\n"), **files}
    make_folder(folder)
    for first in (EXPORTED_FILE, PAGE_FILE):  # what makes an earlier export one
        remove_file(folder / first)
    for name, content in files.items():
        make_folder((folder / name).parent)
        write_bytes(folder / name, content)
    sizes = {name: len(content) for name, content in files.items()}
    return ExportSummary(voice.folder, folder, format_name, converter.vocoder_name, sizes, difference)


def _difference(voice: Voice, vocoder: Vocoder, graph: ExportedVoice, sound: ExportedVocoder) -> float:
    """The largest between two results for one input, of the mels and, for one mel, of the samples."""
    model, rng = voice.config.model, np.random.default_rng(0)
    assert model.source_dim is not None and model.duration_dim is not None
    source, duration = (
        rng.normal(size=(CHECKED_FRAMES, width)).astype(np.float32) for width in (model.source_dim, model.duration_dim)
    )
    torch_result, onnx_result = (
        each.convert([source], [duration], [1], noise_scale=None, speed=1.0)[0] for each in (voice, graph)
    )
    if torch_result.mel.shape != onnx_result.mel.shape:
        return float("inf")
    log_mel = voice.stats.target.restore(torch_result.mel)
    wave, other = voice.speak(vocoder, log_mel, 1), graph.speak(sound, log_mel, 1)
    return float(max(np.abs(torch_result.mel - onnx_result.mel).max(), np.abs(wave - other).max()))
