"""Pairs in the order of how badly they fit: computed from content, written for people, read back to leave pairs out.

A ranking is a table of tab-separated values with a line of names first. ``prepare`` writes one of misfits, ``train``
one of alignment losses; both have the columns ``pair`` and ``verdict``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
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
from aasvc_cli.features.content import CONTENT_CHANNELS, content, weights_identity
from aasvc_cli.features.shelf import PACK_FROM
from aasvc_cli.features.store import FeatureStore, recording_stamp
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


def fits_of(
    pairs: Sequence[ParallelPair], contents: Mapping[Path, str], store: FeatureStore, cache: ResultCache, spread: Spread
) -> list[Fit]:
    """How well each pair fits, beside other sentences of the same two speakers; in the order of ``pairs``, two or more.

    The content of each recording is kept in the store, and the outcome as a whole in the cache, as each pair is
    compared with others and with the means of all.

    Args:
        contents: SHA-256 of the recordings, as far as they are known

    Raises:
        DataError: a recording vanished or changed, or a process was ended.
    """
    rows: dict[Path, int] = {}
    for pair in pairs:
        rows.setdefault(pair.source, len(rows))
        rows.setdefault(pair.target, len(rows))
    digests = [contents.get(path) or file_sha256(path) for path in rows]
    identity = hashlib.sha256(
        "".join(digests[rows[path]] for pair in pairs for path in (pair.source, pair.target)).encode()
    )

    def compute() -> dict[str, npt.NDArray[Any]]:
        fits = _compared(pairs, rows, digests, store, spread)
        others = np.array([each.others for each in fits])
        return {"own": np.array([(each.cost, each.length_ratio) for each in fits]), "others": others}

    key = {"recordings": identity.hexdigest(), "weights": weights_identity(), "pooled": POOLED_FRAMES, "version": 1}
    kept = cache.arrays("fits", key, compute)
    return [
        Fit(cost, tuple(others), ratio)
        for (cost, ratio), others in zip(kept["own"].tolist(), kept["others"].tolist(), strict=True)
    ]


def _compared(
    pairs: Sequence[ParallelPair],
    rows: Mapping[Path, int],
    digests: Sequence[str],
    store: FeatureStore,
    spread: Spread,
) -> list[Fit]:
    """:func:`fits_of`, computed; ``rows`` numbers the recordings."""
    lengths = np.zeros(len(rows), dtype=np.int64)
    totals = np.zeros((len(rows), CONTENT_CHANNELS))
    summaries = spread(partial(_summarise, store=store), list(rows), killed=_killed)
    for done, (path, (content_of, n_frames, total)) in enumerate(summaries, start=1):
        row = rows[path]
        if content_of != digests[row]:
            raise DataError(f"{path}: changed while the pairs were compared; run: aasvc prepare again")
        lengths[row], totals[row] = n_frames, total
        if done % PACK_FROM == 0:
            store.pack()
    store.pack()
    sources, targets = [rows[pair.source] for pair in pairs], [rows[pair.target] for pair in pairs]
    means = _mean(totals, lengths, sources), _mean(totals, lengths, targets)
    others = nearest_in_length(lengths[targets].tolist())
    # neighbours need the same recordings
    jobs = [
        _Comparison(
            index, pairs[index].source, pairs[index].target, tuple(pairs[other].target for other in others[index])
        )
        for index in sorted(range(len(pairs)), key=lambda index: lengths[targets[index]])
    ]
    compared = spread(partial(_compare, means=means, store=store), jobs, killed=_killed)
    fits = {job.index: outcome for job, outcome in compared}
    return [fits[index] for index in range(len(pairs))]


@dataclass(frozen=True, slots=True)
class _Comparison:
    index: int
    source: Path
    target: Path
    others: tuple[Path, ...]


def _summarise(recording: Path, store: FeatureStore) -> tuple[str, int, npt.NDArray[np.float64]]:
    """SHA-256 of a recording, the number of its pooled frames, and their sum (D,)."""
    content_of, frames = _frames(recording, _stamp(recording), store)
    return content_of, len(frames), frames.sum(axis=0, dtype=np.float64)


def _compare(job: _Comparison, means: tuple[Array, Array], store: FeatureStore) -> Fit:
    def load(recording: Path, mean: Array) -> Array:
        return _frames(recording, _stamp(recording), store)[1] - mean

    own, mean = load(job.source, means[0]), means[1]
    return fit(own, load(job.target, mean), [partial(load, other, mean) for other in job.others])


def _stamp(recording: Path) -> tuple[int, ...]:
    return tuple(recording_stamp(recording) or ())


@lru_cache(maxsize=64)
def _frames(recording: Path, stamp: tuple[int, ...], store: FeatureStore) -> tuple[str, Array]:
    """SHA-256 of a recording and its pooled content, kept in 16 bits: (T, D)."""
    what = f"pooled{POOLED_FRAMES}-{weights_identity()}"
    if (kept := store.recall_array(what, recording)) is not None:
        return kept[1], kept[0]
    frames = pooled(content(*read_audio(recording))).astype(np.float16)
    content_of = store.remember(what, recording, {}, list(stamp) or None, frames)
    return content_of, frames.astype(np.float32)


def _mean(totals: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64], rows: Sequence[int]) -> Array:
    mean: Array = (totals[rows].sum(axis=0) / int(lengths[rows].sum())).astype(np.float32)
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
    path = Path(os.path.expanduser(wanted))
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
