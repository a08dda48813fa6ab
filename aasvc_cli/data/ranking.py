"""Pairs in the order of how badly they fit: computed from content, written for people, read back to leave pairs out.

A ranking is a table of tab-separated values with a line of names first. ``prepare`` writes one of misfits, ``train``
one of alignment losses; both have the columns ``pair`` and ``verdict``.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.files import read_audio
from aasvc_cli.data.analysis import Spread
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.data.splitting import read_names
from aasvc_cli.data.texts import decoded
from aasvc_cli.data.wording import POOLED_FRAMES, Fit, Verdict, fit, nearest_in_length, pooled
from aasvc_cli.errors import DataError
from aasvc_cli.features.content import content, weights_identity
from aasvc_cli.storage.files import file_sha256, write_text
from aasvc_cli.storage.result_cache import ResultCache

Array = npt.NDArray[np.float32]

RANKING_FILE = "ranking.tsv"
LOSS_WRONG, LOSS_NEAR = 6.0, 4.0
"""Spreads by which the alignment loss of a pair is above the median, from which on it is wrong, and near to that."""
_LEAST_SPREAD = 0.02
"""Of the losses, as a share of their median."""
WRONG = "wrong"
"""Verdict of the pairs that ``--drop`` leaves out."""


# --- how well pairs fit ---------------------------------------------------------------------------------------------


def fits_of(pairs: Sequence[ParallelPair], cache: ResultCache, spread: Spread) -> list[Fit]:
    """How well each pair fits, beside other sentences of the same two speakers; in the order of ``pairs``, two or more.

    Raises:
        DataError: a recording vanished, or a process was ended.
    """
    recordings = sorted({path for pair in pairs for path in (pair.source, pair.target)})
    summaries = dict(spread(partial(_summarise, cache=cache), recordings, killed=_killed))
    means = _mean([summaries[pair.source] for pair in pairs]), _mean([summaries[pair.target] for pair in pairs])
    others = nearest_in_length([summaries[pair.target].n_frames for pair in pairs])
    jobs = [
        _Comparison(
            index,
            summaries[pair.source],
            summaries[pair.target],
            tuple(summaries[pairs[other].target] for other in others[index]),
        )
        for index, pair in enumerate(pairs)
    ]
    jobs.sort(key=lambda job: job.target.n_frames)  # neighbours need the same recordings
    compared = spread(partial(_compare, means=means, cache=cache), jobs, killed=_killed)
    fits = {job.index: outcome for job, outcome in compared}
    return [fits[index] for index in range(len(pairs))]


@dataclass(frozen=True, eq=False)
class _Summary:
    """A recording: its file with the digest, the number of its pooled frames and their sum (D,)."""

    path: Path
    digest: str
    n_frames: int
    total: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Comparison:
    index: int
    source: _Summary
    target: _Summary
    others: tuple[_Summary, ...]


def _summarise(recording: Path, cache: ResultCache) -> _Summary:
    digest = file_sha256(recording)
    frames = _frames(recording, digest, cache)
    return _Summary(recording, digest, len(frames), frames.sum(axis=0, dtype=np.float64))


def _compare(job: _Comparison, means: tuple[Array, Array], cache: ResultCache) -> Fit:
    def load(summary: _Summary, mean: Array) -> Array:
        return _frames(summary.path, summary.digest, cache) - mean

    own, mean = load(job.source, means[0]), means[1]
    return fit(own, load(job.target, mean), [partial(load, other, mean) for other in job.others])


@lru_cache(maxsize=64)
def _frames(recording: Path, digest: str, cache: ResultCache) -> Array:
    """Pooled content of a recording, kept in 16 bits: (T, D)."""

    def compute() -> dict[str, npt.NDArray[Any]]:
        return {"frames": pooled(content(*read_audio(recording))).astype(np.float16)}

    key = {"content": digest, "weights": weights_identity(), "pooled": POOLED_FRAMES}
    return cache.arrays("content", key, compute)["frames"].astype(np.float32)


def _mean(summaries: Sequence[_Summary]) -> Array:
    total = np.sum([summary.total for summary in summaries], axis=0)
    mean: Array = (total / sum(summary.n_frames for summary in summaries)).astype(np.float32)
    return mean


def _killed(_: object) -> NoReturn:
    raise DataError("a process that compared pairs was ended by the system; what was finished is kept - try --jobs 1")


# --- the table ------------------------------------------------------------------------------------------------------


def write_ranking(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a ranking, the worst pair first; all rows have the same columns. Raises StorageError."""
    text = io.StringIO()
    table = csv.DictWriter(
        text, list(rows[0]) if rows else ["pair", "verdict"], dialect="excel-tab", lineterminator="\n"
    )
    table.writeheader()
    table.writerows(
        {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    )
    write_text(path, text.getvalue())


def by_loss(losses: Mapping[str, float]) -> list[dict[str, object]]:
    """Rows of a ranking of pairs by the alignment loss of a trained model: it fails to align what does not fit."""
    middle = statistics.median(losses.values())
    # 1.4826 makes the median absolute deviation the standard deviation of a normal distribution
    spread = 1.4826 * statistics.median(abs(loss - middle) for loss in losses.values())
    spread = max(spread, _LEAST_SPREAD * abs(middle))
    verdicts = {name: _verdict((loss - middle) / spread) for name, loss in losses.items()}
    ordered = sorted(losses.items(), key=lambda item: (-item[1], item[0]))
    return [{"pair": name, "alignment_loss": loss, "verdict": verdicts[name]} for name, loss in ordered]


def _verdict(spreads: float) -> Verdict:
    return "wrong" if spreads >= LOSS_WRONG else "near" if spreads >= LOSS_NEAR else ""


def to_drop(wanted: str, ranked: Sequence[str], known: Sequence[str]) -> set[str]:
    """The pairs that ``--drop`` means.

    Args:
        wanted: a number, for so many of the worst; a ranking, for those of its pairs whose verdict is :data:`WRONG`; or
            a list with one name per line
        ranked: pairs, the worst first; empty if they could not be ranked
        known: names of all pairs

    Raises:
        DataError: no such file, unknown names, or more than there are.
    """
    if wanted.strip().isdigit():
        count = int(wanted)
        if count > len(ranked):
            raise DataError(f"--drop {wanted}: only {len(ranked)} pairs are ranked by how badly they fit")
        return set(ranked[:count])
    path = Path(wanted).expanduser()
    names = _wrong_names(path) if path.is_file() else None
    if names is None:
        names = read_names(path, "drop")
    unknown = sorted(names - set(known))
    if unknown:
        raise DataError(f"{path}: {len(unknown)} of {len(names)} names are not among the pairs (first: {unknown[0]})")
    return names


def _wrong_names(path: Path) -> set[str] | None:
    """Pairs of a ranking whose verdict is wrong; None for another kind of file."""
    lines = decoded(path).splitlines()
    if not lines or not {"pair", "verdict"} <= set(lines[0].split("\t")):
        return None
    rows = csv.DictReader(lines, dialect="excel-tab")
    return {row["pair"] for row in rows if row["verdict"] == WRONG}
