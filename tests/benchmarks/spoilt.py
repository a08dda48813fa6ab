"""What `aasvc prepare` says of recordings as people bring them: a parallel set spoilt in seven ways.

    python tests/benchmarks/spoilt.py SOURCE TARGET --folder WORK [--pairs 100] [--only NAME] [--markdown]

SOURCE and TARGET are folders of recordings with the same names. Each way is laid out below WORK and prepared there; the
table shows what was found, kept and cut, and how much of that is right.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from aasvc_cli.audio.files import read_audio
from aasvc_cli.config.reading import read_preset
from aasvc_cli.config.settings import Config
from aasvc_cli.data.preparation import PrepareReport
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.storage.home import Home

Wave = npt.NDArray[np.float32]
Spans = list[tuple[str, float, float]]
"""Name, start and end in seconds of what a long recording holds."""

PAUSES = (0.3, 1.5)
"""Shortest and longest pause between joined recordings, in seconds."""
BREATH_SHARE = 0.3
"""Share of the pauses with a breath in them."""


@dataclass
class Spoilt:
    """Two folders, and what was done to them.

    Attributes:
        truth: names of the pairs that were spoilt
        code: of the findings that should name them
        spans: what the joined recordings hold, by side
    """

    source: Path
    target: Path
    truth: set[str] = field(default_factory=set)
    code: str = ""
    spans: dict[str, Spans] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A pair of the set that is spoilt."""

    name: str
    source: Wave
    target: Wave
    rates: tuple[int, int]


Spoil = Callable[[Sequence[Pair], Path, np.random.Generator], Spoilt]


def prefix_names(pairs: Sequence[Pair], folder: Path, rng: np.random.Generator) -> Spoilt:
    """Each speaker's name in front of every name."""
    spoilt = _folders(folder)
    for pair in pairs:
        _write(spoilt.source / f"anna_{pair.name}.wav", pair.source, pair.rates[0])
        _write(spoilt.target / f"bob_{pair.name}.wav", pair.target, pair.rates[1])
    return spoilt


def inverted_channel(pairs: Sequence[Pair], folder: Path, rng: np.random.Generator) -> Spoilt:
    """Two channels, of which the right one is the left one upside down, so that their mean is silence."""
    return _each(pairs, folder, lambda wave, _: np.stack([wave, -wave], axis=1))


def swapped_texts(pairs: Sequence[Pair], folder: Path, rng: np.random.Generator) -> Spoilt:
    """One target in ten is that of another pair, of nearly the same length."""
    spoilt = _folders(folder)
    spoilt.code = "different_words"
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index].target) / pairs[index].rates[1])
    partner = list(range(len(pairs)))
    for place in rng.permutation(len(order) - 1):
        one, other = order[place], order[place + 1]
        if len(spoilt.truth) + 2 > max(2, round(len(pairs) / 10)):
            break
        if partner[one] == one and partner[other] == other:
            partner[one], partner[other] = other, one
            spoilt.truth |= {pairs[one].name, pairs[other].name}
    for index, pair in enumerate(pairs):
        given = pairs[partner[index]]
        _write(spoilt.source / f"{pair.name}.wav", pair.source, pair.rates[0])
        _write(spoilt.target / f"{pair.name}.wav", given.target, given.rates[1])
    return spoilt


def joined_takes(pairs: Sequence[Pair], folder: Path, rng: np.random.Generator) -> Spoilt:
    """One long recording for each speaker, with pauses between the sentences, and breath in some of them."""
    spoilt = _folders(folder)
    for side, path in (("source", spoilt.source), ("target", spoilt.target)):
        rate = max(pair.rates[side == "target"] for pair in pairs)
        wave, spoilt.spans[side] = join([(pair.name, *_side(pair, side)) for pair in pairs], rate, rng)
        _write(path / f"{path.name}.wav", wave, rate)
    return spoilt


def upsampled(pairs: Sequence[Pair], folder: Path, rng: np.random.Generator) -> Spoilt:
    """What a telephone lets through, in files of 24 kHz."""

    def narrow(wave: Wave, rate: int) -> tuple[Wave, int]:
        return soxr.resample(soxr.resample(wave, rate, 8000), 8000, 24000), 24000

    return _each(pairs, folder, narrow)


def other_levels(pairs: Sequence[Pair], folder: Path, rng: np.random.Generator) -> Spoilt:
    """One recording in ten 15 dB quieter than it was, another one 15 dB louder."""
    spoilt = _folders(folder)
    spoilt.code = "level"
    loud = 10 ** (15 / 20)
    for index, pair in enumerate(pairs):
        gain = {0: 1 / loud, 5: loud}.get(index % 10, 1.0)
        if gain != 1.0:
            spoilt.truth.add(pair.name)
        # everything quieter first, so that what is louder is not clipped
        _write(spoilt.source / f"{pair.name}.wav", pair.source * (0.15 * gain), pair.rates[0])
        _write(spoilt.target / f"{pair.name}.wav", pair.target * 0.15, pair.rates[1])
    return spoilt


def silence_around(pairs: Sequence[Pair], folder: Path, rng: np.random.Generator) -> Spoilt:
    """Two seconds of a quiet room before and after each recording."""

    def padded(wave: Wave, rate: int) -> Wave:
        before, after = (1e-4 * rng.standard_normal(2 * rate) for _ in range(2))
        return np.concatenate([before, wave, after])

    return _each(pairs, folder, padded)


WAYS: dict[str, Spoil] = {
    "prefix names": prefix_names,
    "inverted channel": inverted_channel,
    "swapped texts": swapped_texts,
    "joined takes": joined_takes,
    "8 kHz upsampled": upsampled,
    "levels ± 15 dB": other_levels,
    "2 s of silence": silence_around,
}


def join(takes: Sequence[tuple[str, Wave, int]], rate: int, rng: np.random.Generator) -> tuple[Wave, Spans]:
    """Recordings one after the other: the samples, and where each of them lies."""
    parts: list[Wave] = []
    spans: Spans = []
    length = 0
    for name, wave, own_rate in takes:
        wave = wave if own_rate == rate else soxr.resample(wave, own_rate, rate)
        gap = 1e-4 * rng.standard_normal(round(rng.uniform(*PAUSES) * rate))
        if rng.random() < BREATH_SHARE:
            count = min(round(0.5 * rate), round(0.7 * len(gap)))
            start = (len(gap) - count) // 2
            gap[start : start + count] += 0.01 * rng.standard_normal(count) * np.hanning(count)
        spans.append((name, length / rate, (length + len(wave)) / rate))
        parts += [wave, gap.astype(np.float32)]
        length += len(wave) + len(gap)
    return np.concatenate(parts), spans


def held(start: float, stop: float, spans: Spans, least: float = 0.2) -> tuple[str, ...]:
    """Names of what lies between two moments of a joined recording, from 0.2 s of it on."""
    return tuple(name for name, first, last in spans if min(stop, last) - max(start, first) > least)


def judge_pieces(report: PrepareReport, spoilt: Spoilt) -> dict[str, float]:
    """How many pieces hold the same on both sides, and which share of the source's speech is in none."""
    pieces = [piece for cut in report.cuts for piece in cut.pieces.values() if not piece.fault]
    same = sum(
        held(piece.source.start, piece.source.stop, spoilt.spans["source"])
        == held(piece.target.start, piece.target.stop, spoilt.spans["target"])
        for piece in pieces
    )
    spoken = sum(last - first for _, first, last in spoilt.spans["source"])
    kept = sum(
        max(0.0, min(piece.source.stop, last) - max(piece.source.start, first))
        for piece in pieces
        for _, first, last in spoilt.spans["source"]
    )
    return {"pieces": len(pieces), "same": same / max(1, len(pieces)), "lost": 1.0 - kept / spoken}


def read_pairs(source: Path, target: Path, count: int | None = None, longest: float = 12.0) -> list[Pair]:
    """Pairs of two folders by their relative paths, without those that are long, short or no sounds."""
    sides = [
        {path.relative_to(folder).with_suffix(""): path for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (source, target)
    ]
    pairs: list[Pair] = []
    for name in sorted(sides[0].keys() & sides[1].keys()):
        (one, first), (other, second) = (read_audio(side[name]) for side in sides)
        if min(len(one) / first, len(other) / second) > 0.5 and max(len(one) / first, len(other) / second) < longest:
            pairs.append(Pair("-".join(name.parts), one, other, (first, second)))
    return pairs[:count]


def run(pairs: Sequence[Pair], way: str, folder: Path, config: Config | None = None, **options: Any) -> dict[str, Any]:
    """Spoil, prepare, and hold what was found against what was done."""
    spoilt = WAYS[way](pairs, folder / "recordings", np.random.default_rng(7))
    began, busy = time.perf_counter(), _processor_seconds()
    report = prepare(
        Home(folder / "home"),
        config or read_preset("small"),
        PrepareOptions(source=spoilt.source, target=spoilt.target, name="set", **options),
    )
    elapsed, busy = time.perf_counter() - began, _processor_seconds() - busy
    named = {each.utterance_id for each in report.findings if each.code == spoilt.code}
    row: dict[str, Any] = {
        "way": way,
        "given": len(pairs),
        "matched": dict(report.matched_by),
        "kept": sum(report.n_pairs.values()),
        "counts": report.counts,
        "trimmed_seconds": report.trimmed_seconds,
        "advice": list(report.advice),
        "elapsed_seconds": elapsed,
        "processor_seconds": busy,
    }
    if spoilt.truth:
        row["found"] = len(named & spoilt.truth) / len(spoilt.truth)
        row["right"] = len(named & spoilt.truth) / max(1, len(named))
    if spoilt.spans:
        row |= judge_pieces(report, spoilt)
        row["of_length"] = elapsed / sum(spans[-1][2] for spans in spoilt.spans.values())
    return row


def _processor_seconds() -> float:
    """Of this process and of those that it has ended."""
    return sum(getattr(os.times(), name) for name in ("user", "system", "children_user", "children_system"))


def _folders(folder: Path) -> Spoilt:
    spoilt = Spoilt(folder / "anna", folder / "bob")
    for path in (spoilt.source, spoilt.target):
        path.mkdir(parents=True)
    return spoilt


def _side(pair: Pair, side: str) -> tuple[Wave, int]:
    return (pair.source, pair.rates[0]) if side == "source" else (pair.target, pair.rates[1])


def _each(pairs: Sequence[Pair], folder: Path, change: Callable[[Wave, int], Any]) -> Spoilt:
    """The same done to every recording; it returns samples, or samples and a rate."""
    spoilt = _folders(folder)
    for pair in pairs:
        for side, path in (("source", spoilt.source), ("target", spoilt.target)):
            wave, rate = _side(pair, side)
            changed = change(wave, rate)
            wave, rate = changed if isinstance(changed, tuple) else (changed, rate)
            _write(path / f"{pair.name}.wav", wave, rate)
    return spoilt


def _write(path: Path, wave: npt.NDArray[Any], rate: int) -> None:
    soundfile.write(path, np.clip(wave, -1, 1), rate, subtype="PCM_16")


# --- the table ------------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for people."""
    lines = ["| way | said | kept | right |", "|---|---|---|---|"]
    for row in rows:
        said = [f"{count} by {rule}" for rule, count in row["matched"].items()]
        said += [f"{count} {code}" for code, count in row["counts"].items()]
        if row["trimmed_seconds"] >= 1:
            said.append(f"{row['trimmed_seconds']:.0f} s of silence trimmed")
        said += [f"“{advice}”" for advice in row["advice"]]
        right = []
        if "found" in row:
            right.append(f"{row['found']:.0%} found, {row['right']:.0%} of the named are wrong")
        if "pieces" in row:
            right.append(
                f"{row['pieces']} pieces, {row['same']:.1%} hold the same sentences, {row['lost']:.1%} of the speech "
                f"lost, {row['of_length']:.3f} x the length of the recordings "
                f"({row['processor_seconds']:.0f} s of processor)"
            )
        lines.append(f"| {row['way']} | {'; '.join(said)} | {row['kept']} of {row['given']} | {'; '.join(right)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--only", choices=WAYS)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    pairs = read_pairs(given.source, given.target, given.pairs)
    rows = []
    for way in [given.only] if given.only else WAYS:
        folder = given.folder / way.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        rows.append(run(pairs, way, folder))
        if not given.markdown:
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    if given.markdown:
        print(markdown(rows))


if __name__ == "__main__":
    main()
