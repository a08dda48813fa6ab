"""Pictures and sounds that show, while a voice is trained, how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aasvc_cli.audio.files import write_audio
from aasvc_cli.report import drawing
from aasvc_cli.report.collect import preview_name, write_previews
from aasvc_cli.report.content import Alignment
from aasvc_cli.storage.files import write_bytes
from aasvc_cli.training.previews import Preview


def show(folder: Path, step: int, previews: Sequence[Preview], sample_rate: int, *, best_step: int | None) -> None:
    """Write mels, alignments and sounds of a step to ``previews``, and a page of all steps.

    Args:
        folder: of the run
        best_step: of the best checkpoint so far; None if there is none

    Raises:
        StorageError: no permission, no space.
    """
    alignments, recordings = {}, dict[str, tuple[Path | None, Path]]()
    for each in previews:
        utterance_id = each.pair.utterance_id
        base = folder / "previews" / preview_name(step, utterance_id)
        alignment = Alignment(f"step {step:,}", each.weights, each.path)
        write_bytes(base.with_name(f"{base.name}-mel.png"), drawing.spectrograms(list(each.log_mels)))
        write_bytes(base.with_name(f"{base.name}-alignment.png"), drawing.alignment(alignment))
        write_audio(base.with_name(f"{base.name}.wav"), np.clip(each.wave, -1.0, 1.0), sample_rate)
        alignments[utterance_id] = alignment
        recordings[utterance_id] = each.pair.source, each.pair.target
    write_previews(folder, recordings, step, alignments, best_step=best_step)
