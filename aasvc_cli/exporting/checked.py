"""The graphs of a voice, once these are known to give the samples that torch gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aasvc_cli.conversion.converter import Converter
from aasvc_cli.conversion.exported import ExportedVocoder, ExportedVoice, exported_from
from aasvc_cli.conversion.voice import CARD_FILE, Voice
from aasvc_cli.errors import ModelError
from aasvc_cli.exporting.parts import graph_files
from aasvc_cli.storage.files import as_bytes, json_text, make_folder, write_bytes
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.build import Vocoder

LARGEST_DIFFERENCE = 1e-3
"""Between what torch and onnxruntime compute: of a sample, full scale at 1, and of a mel, in units of its scale."""
CHECKED_FRAMES = 150
"""Of the utterance that is compared."""


@dataclass(frozen=True, eq=False)
class CheckedGraphs:
    """The graphs of a voice.

    Attributes:
        voice, vocoder: what they were made of
        files: by name, with the card of the voice, the one that makes a folder an exported model last
        difference: the largest from torch, see ``LARGEST_DIFFERENCE``
    """

    voice: Voice
    vocoder: Vocoder
    vocoder_name: str
    files: Mapping[str, bytes]
    difference: float


def checked_graphs(
    home: Home,
    model: str | Path | None,
    folder: Path,
    *,
    vocoder: str | None = None,
    source_stats: Path | None = None,
    data: str | None = None,
    on_message: Callable[[str], None] | None = None,
    on_voice: Callable[[Voice, Vocoder, str], None] | None = None,
) -> CheckedGraphs:
    """Make the graphs of a voice, and compare them with it.

    Args:
        model, vocoder, source_stats, data: as for :meth:`~aasvc_cli.conversion.converter.Converter.load`
        folder: where they will be, for messages
        on_voice: told the voice, its vocoder and the vocoder's name before anything is made of them; may raise

    Raises:
        ModelError: the voice or the vocoder cannot be exported, or the graphs would give other samples.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    converter = Converter.load(
        model, home=home, device="cpu", vocoder=vocoder, source_stats=source_stats, data=data, on_message=on_message
    )
    voice, sound, name = converter.voice, converter.vocoder, converter.vocoder_name
    assert isinstance(voice, Voice) and not isinstance(sound, ExportedVocoder)
    if on_voice is not None:
        on_voice(voice, sound, name)
    files = graph_files(voice, sound, name)
    difference = _difference(voice, sound, *exported_from(folder, files, voice.card))
    if not difference <= LARGEST_DIFFERENCE:
        raise ModelError(
            f"{voice.folder}: onnxruntime gives results that differ by {difference:.2g} from those of torch, expected "
            f"at most {LARGEST_DIFFERENCE:g}; nothing was written"
        )
    return CheckedGraphs(voice, sound, name, card_file(voice) | files, difference)


def card_file(voice: Voice) -> dict[str, bytes]:
    """The card of a voice as a file, if it has one."""
    return {CARD_FILE: as_bytes(json_text(voice.card) + "\n")} if voice.card else {}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names below a folder, in their order; raises StorageError."""
    for name, content in files.items():
        make_folder((folder / name).parent)
        write_bytes(folder / name, content)


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
