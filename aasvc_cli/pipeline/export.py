"""Write a voice and its vocoder as ONNX graphs, or as a page, once these are known to give the same samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aasvc_cli.conversion.voice import EXPORTED_FILE, Voice, find_voice, is_exported
from aasvc_cli.errors import ModelError, StorageError
from aasvc_cli.exporting.checked import card_file, checked_graphs, write_files
from aasvc_cli.exporting.page import PAGE_FILE, page_files, prepare_page
from aasvc_cli.storage.files import byte_size, make_folder, remove_file
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.build import Vocoder

FORMATS = ("onnx", "web")


@dataclass(frozen=True)
class ExportSummary:
    """What was exported.

    Attributes:
        model: the folder of the voice
        files: what was written, and its size in bytes
        difference: the largest between torch and onnxruntime, of a sample or of a mel in units of its scale
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

    def first_of_all(voice: Voice, sound: Vocoder, name: str) -> None:
        if format_name == "web":
            prepare_page(home, voice, sound, name, on_message)

    checked = checked_graphs(
        home, model, folder, vocoder=vocoder, source_stats=source_stats, data=data, on_message=on_message,
        on_voice=first_of_all,
    )  # fmt: skip
    files, voice, name = checked.files, checked.voice, checked.vocoder_name
    if format_name == "web":
        files = card_file(voice) | page_files(home, voice, checked.vocoder, name, on_message)
    make_folder(folder)
    for first in (EXPORTED_FILE, PAGE_FILE):  # what makes an earlier export one
        remove_file(folder / first)
    write_files(folder, files)
    sizes = {name: len(content) for name, content in files.items()}
    return ExportSummary(voice.folder, folder, format_name, name, sizes, checked.difference)
