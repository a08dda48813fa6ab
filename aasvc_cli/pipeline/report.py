"""``--report`` of ``aasvc evaluate`` and ``aasvc prepare``: the outcome as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aasvc_cli.data.preparation import PrepareReport
from aasvc_cli.data.texts import decoded
from aasvc_cli.errors import AasvcError
from aasvc_cli.measures.listening import Verdict, from_csv, verdicts
from aasvc_cli.measures.results import Comparison, EvaluateResult
from aasvc_cli.report.collect import DEFAULT_UTTERANCES, Aligner, evaluation_page
from aasvc_cli.report.page import render
from aasvc_cli.report.preparation import preparation_page, render_preparation
from aasvc_cli.storage.files import as_bytes, write_text

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class ReportFile:
    """A page that was written.

    Attributes:
        n_heard: utterances whose recordings are in it
        n_utterances: utterances whose scores are in it
        n_bytes: size of the file
    """

    path: Path
    n_heard: int
    n_utterances: int
    n_bytes: int


def write_report(
    outcome: EvaluateResult | Comparison,
    path: Path,
    *,
    n_utterances: int = DEFAULT_UTTERANCES,
    listening: Sequence[Verdict] = (),
    on_progress: OnProgress | None = None,
) -> ReportFile:
    """Write the page of an evaluation; see :func:`aasvc_cli.report.collect.evaluation_page`.

    Raises:
        StorageError: no permission, no space; an older file is left as it was.
    """
    aligners, notes = _aligners(outcome.systems if isinstance(outcome, Comparison) else (outcome,))
    page = evaluation_page(outcome, n_utterances=n_utterances, aligners=aligners, on_progress=on_progress)
    text = render(replace(page, notes=(*page.notes, *notes), listening=listening))
    write_text(path, text)
    n_heard = sum(bool(utterance.takes) for utterance in page.utterances)
    return ReportFile(path, n_heard, len(page.utterances), len(as_bytes(text)))


def read_verdicts(path: Path) -> list[Verdict]:
    """What the answers of a listening test say.

    Raises:
        StorageError: the file cannot be read.
        DataError: it holds no answers.
    """
    return verdicts(from_csv(decoded(path), str(path)))


def write_preparation_report(report: PrepareReport, path: Path, *, on_progress: OnProgress | None = None) -> ReportFile:
    """Write the page of a preparation; see :func:`aasvc_cli.report.preparation.preparation_page`.

    Raises:
        StorageError: no permission, no space; an older file is left as it was.
    """
    page = preparation_page(report, on_progress)
    text = render_preparation(page)
    write_text(path, text)
    n_heard = sum(bool(each.utterance.takes) for each in page.doubtful)
    return ReportFile(path, n_heard, len(report.measured), len(as_bytes(text)))


def _aligners(results: Sequence[EvaluateResult]) -> tuple[dict[Path | None, Aligner], list[str]]:
    """The models of the runs, as far as they can be loaded, and why the others cannot."""
    folders = [result.folder for result in results if result.folder is not None]
    if not folders:
        return {}, []
    from aasvc_cli.conversion.alignment import align
    from aasvc_cli.conversion.voice import load_voice

    aligners: dict[Path | None, Aligner] = {}
    notes = []
    for folder in folders:
        try:
            aligners[folder] = partial(align, load_voice(folder))
        except AasvcError as error:
            notes.append(f"No alignments of {folder.name}: {error}")
    return aligners, notes
