"""Which recordings of two speakers belong together.

Rules in this order, each for what the ones before left: the same path below the two folders, without suffix; the same
name; the same name once a prefix or suffix that all names of a speaker share is taken off (``bdl_arctic_a0001`` and
``slt_arctic_a0001``). The only recording of one speaker belongs to the only one of the other. A table of pairs
takes the place of all of these.
"""

from __future__ import annotations

import csv
import difflib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from aasvc_cli.data.corpus import SHOWN, Recordings
from aasvc_cli.data.manifest import SETS, UNASSIGNED, Finding, ParallelPair, suggest
from aasvc_cli.data.texts import decoded, read_texts
from aasvc_cli.errors import DataError

Side = Literal["source", "target"]
SIDES: tuple[Side, Side] = ("source", "target")
_AFFIX_SHARE = 0.8
"""Share of the smaller side that must match before names without prefix or suffix count as the same."""
_AFFIX_FEWEST = 3
_AFFIX_SAMPLES = 3


@dataclass(frozen=True)
class Matching:
    """What was matched.

    Attributes:
        pairs: (set, pair) in the order of their names
        findings: what has no partner or is there twice
        rules: pairs by the rule that matched them: ``path``, ``name``, ``affix``, ``only`` or ``table``
    """

    pairs: list[tuple[str, ParallelPair]]
    findings: list[Finding]
    rules: Mapping[str, int]


class _Entry(NamedTuple):
    """A recording, its path in the speaker's folder without suffix, and the last part of that."""

    path: Path
    key: str
    stem: str


def match(source: Recordings, target: Recordings, table: Path | None = None) -> Matching:
    """Put recordings of the same sentence together, set by set.

    Args:
        table: a file with one pair per line: source, target and, if there is one, the text; TSV or CSV

    Raises:
        DataError: not a single pair, or a table with recordings that are not there.
    """
    notes: list[str] = []
    texts = read_texts(target.root, notes.append) | read_texts(source.root, notes.append)
    findings = [Finding("", "", "", "text_form", False, note) for note in dict.fromkeys(notes)]
    speakers: dict[Side, Recordings] = {"source": source, "target": target}
    for side, speaker in speakers.items():
        if speaker.others:
            findings.append(Finding("", "", side, "other_format", False, f"{speaker.root}: {speaker.advice}"))
    rules: Counter[str] = Counter()
    pairs: list[tuple[str, ParallelPair]] = []
    if table is not None:
        pairs = _by_table(table, source, target, texts)
        rules["table"] = len(pairs)
        return Matching(pairs, findings, rules)
    for name in [key for key in (UNASSIGNED, *SETS) if key in source.sets or key in target.sets]:
        entries = {side: _entries(speaker, name) for side, speaker in speakers.items()}
        matched, left = _match_set(entries)
        rules.update(rule for rule, *_ in matched)
        pairs += [(name, pair) for pair in _named(matched, texts)]
        findings += _left_over(name, left, speakers)
    if not pairs:
        raise DataError(_nothing_matched(source, target, findings))
    return Matching(pairs, findings, rules)


_Matched = tuple[str, str, _Entry, _Entry]
"""Rule, the name both share, source and target."""


def _match_set(entries: Mapping[Side, list[_Entry]]) -> tuple[list[_Matched], dict[Side, list[_Entry]]]:
    matched: list[_Matched] = []
    left = {side: list(listed) for side, listed in entries.items()}

    def apply(rule: str, keys: Mapping[Side, Callable[[_Entry], str | None]]) -> None:
        groups = {side: _grouped(left[side], keys[side]) for side in SIDES}
        for key in groups["source"].keys() & groups["target"].keys():
            sources, targets = groups["source"][key], groups["target"][key]
            if len(sources) == len(targets) == 1:
                matched.append((rule, key, sources[0], targets[0]))
        used = {id(entry) for _, _, *both in matched for entry in both}
        for side in SIDES:
            left[side] = [entry for entry in left[side] if id(entry) not in used]

    apply("path", dict.fromkeys(SIDES, lambda entry: entry.key))
    # of two recordings with the same path and another suffix, neither is the one that is meant
    ambiguous = {side: _repeated(left[side], lambda entry: entry.key) for side in SIDES}
    apply("name", {side: _unless(ambiguous[side], lambda entry: entry.stem) for side in SIDES})
    affixes = _find_affixes(left, min(len(entries[side]) for side in SIDES))
    if affixes is not None:
        apply("affix", {side: _unless(ambiguous[side], _without(affixes[side])) for side in SIDES})
    if all(len(entries[side]) == len(left[side]) == 1 for side in SIDES):
        source, target = left["source"][0], left["target"][0]
        matched.append(("only", source.key, source, target))
        left = {side: [] for side in SIDES}
    return matched, left


def _grouped(entries: Iterable[_Entry], key: Callable[[_Entry], str | None]) -> dict[str, list[_Entry]]:
    groups: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        name = key(entry)
        if name is not None:
            groups[name].append(entry)
    return groups


def _repeated(entries: Iterable[_Entry], key: Callable[[_Entry], str]) -> set[str]:
    return {name for name, group in _grouped(entries, key).items() if len(group) > 1}


def _unless(keys: set[str], key: Callable[[_Entry], str | None]) -> Callable[[_Entry], str | None]:
    return lambda entry: None if entry.key in keys else key(entry)


def _entries(speaker: Recordings, set_name: str) -> list[_Entry]:
    """Composed and decomposed accents are the same name."""
    root = os.fspath(speaker.root)
    is_absolute = os.path.abspath(root) == root  # so is all that lies below; to make each path anew takes long
    listed = []
    for path in speaker.sets.get(set_name, ()):
        key = unicodedata.normalize("NFC", os.path.splitext(speaker.relative(path))[0])
        absolute = path if is_absolute else Path(os.path.abspath(path))
        listed.append(_Entry(absolute, key, key.rsplit("/", 1)[-1]))
    return listed


def _named(matched: Iterable[_Matched], texts: Mapping[str, str]) -> list[ParallelPair]:
    """Pairs under the shortest name that is theirs alone: the last part of the path, or all of it."""
    listed = list(matched)
    short = {id(entry): entry[1].rsplit("/", 1)[-1].strip("_-. ") or entry[1] for entry in listed}
    counts = Counter(short.values())
    pairs = []
    for entry in listed:
        rule, key, source, target = entry
        name = short[id(entry)]
        if counts[name] > 1:
            name = source.key if rule in ("path", "name") else key
        text = next((texts[each] for each in (name, source.stem, target.stem, source.key) if each in texts), None)
        pairs.append(ParallelPair(name, source.path, target.path, text))
    return sorted(pairs, key=lambda pair: pair.utterance_id)


# --- prefixes and suffixes ------------------------------------------------------------------------------------------

Affixes = tuple[str, str]
"""What the names of a speaker begin and end with."""


def _find_affixes(left: Mapping[Side, Sequence[_Entry]], n_smaller: int) -> dict[Side, Affixes] | None:
    """The prefix and suffix of each side without which the most names agree; None if that is not how they differ."""
    if not left["source"] or not left["target"]:
        return None
    candidates: Counter[tuple[Affixes, Affixes]] = Counter()
    sources = left["source"]
    samples = sources[:: max(1, len(sources) // _AFFIX_SAMPLES)][:_AFFIX_SAMPLES]
    for one in samples:
        for other in left["target"]:
            shared = difflib.SequenceMatcher(None, one.stem, other.stem, autojunk=False).find_longest_match()
            if shared.size:
                candidates[_around(one.stem, shared.a, shared.size), _around(other.stem, shared.b, shared.size)] += 1
    best, most = None, (0, 0)
    for affixes in candidates:
        if not any(any(each) for each in affixes):
            continue
        sides = dict(zip(SIDES, affixes, strict=True))
        groups = {side: _grouped(left[side], _without(sides[side])) for side in SIDES}
        count = sum(
            len(groups["source"][key]) == len(groups["target"][key]) == 1
            for key in groups["source"].keys() & groups["target"].keys()
        )
        score = count, -sum(len(text) for each in affixes for text in each)
        if score > most:
            best, most = sides, score
    n_left = min(len(left[side]) for side in SIDES)
    # a rule for a few odd names among many would more likely pair what does not belong together
    enough = most[0] >= _AFFIX_SHARE * n_left and most[0] >= min(_AFFIX_FEWEST, n_smaller)
    return best if enough and n_left >= n_smaller / 2 else None


def _around(stem: str, start: int, size: int) -> Affixes:
    return stem[:start], stem[start + size :]


def _without(affixes: Affixes) -> Callable[[_Entry], str | None]:
    prefix, suffix = affixes

    def key(entry: _Entry) -> str | None:
        stem = entry.stem
        middle = stem.removeprefix(prefix).removesuffix(suffix)
        if len(middle) != len(stem) - len(prefix) - len(suffix) or not middle:
            return None
        # a number is never cut in two: 1 is not 11 without its first digit
        if ((prefix[-1:] + middle[:1]).isdigit() and prefix) or ((middle[-1:] + suffix[:1]).isdigit() and suffix):
            return None
        return str(PurePosixPath(entry.key).with_name(middle))

    return key


# --- tables ---------------------------------------------------------------------------------------------------------


def _by_table(
    path: Path, source: Recordings, target: Recordings, texts: Mapping[str, str]
) -> list[tuple[str, ParallelPair]]:
    lines = decoded(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = next((character for character in first if character in "\t,;"), None)
    if delimiter is None:
        raise DataError(f"{path}: expected lines of source, target and perhaps text, with tabs or commas between them")
    indices: dict[Side, dict[str, set[tuple[str, Path]]]] = {"source": _index(source), "target": _index(target)}
    roots: dict[Side, Path] = {"source": source.root, "target": target.root}
    matched: list[tuple[str, _Matched, str]] = []
    for number, row in enumerate(csv.reader(lines, delimiter=delimiter), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#") or (number == 1 and cells[:2] == ["source", "target"]):
            continue
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise DataError(f"{path}, line {number}: expected source and target, found {row!r}")
        named = {}
        for side, cell in zip(SIDES, cells, strict=False):
            hits = indices[side].get(unicodedata.normalize("NFC", cell), set())
            if len(hits) != 1:
                what = f"{len(hits)} recordings are called so" if hits else "no such recording"
                hint = "; name them with their folder" if hits else suggest(cell, list(indices[side]))
                raise DataError(f"{path}, line {number}: {cell}: {what} in {roots[side]} ({side}){hint}")
            named[side] = next(iter(hits))
        name, source_path = named["source"]
        entry, partner = (
            _Entry(each, PurePosixPath(*each.parts[-2:]).with_suffix("").as_posix(), each.stem)
            for each in (source_path, named["target"][1])
        )
        matched.append((name, ("table", entry.stem, entry, partner), cells[2] if len(cells) > 2 else ""))
    if not matched:
        raise DataError(f"{path}: holds no pairs")
    repeated = Counter(entry[1][2].path for entry in matched)
    twice = next((each for each, count in repeated.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: {twice} stands in {repeated[twice]} lines; a recording can be in one pair only")
    pairs = []
    for name, match_, text in matched:
        (pair,) = _named([match_], {match_[1]: text} if text else texts)
        pairs.append((name, pair))
    counts = Counter(pair.utterance_id for _, pair in pairs)
    return sorted(
        (
            (name, pair if counts[pair.utterance_id] == 1 else _renamed(pair, entry[2].key))
            for (name, pair), (_, entry, _) in zip(pairs, matched, strict=True)
        ),
        key=lambda each: each[1].utterance_id,
    )


def _renamed(pair: ParallelPair, name: str) -> ParallelPair:
    return ParallelPair(name, pair.source, pair.target, pair.text)


def _index(speaker: Recordings) -> dict[str, set[tuple[str, Path]]]:
    """(set, recording) by everything that it may be called in a table."""
    index: dict[str, set[tuple[str, Path]]] = defaultdict(set)
    for set_name, paths in speaker.sets.items():
        for path in paths:
            relative = speaker.relative(path)
            entry = (set_name, Path(os.path.abspath(path)))
            names = (path.name, path.stem, relative, os.path.splitext(relative)[0], str(entry[1]))
            for name in (*names, str(path)):
                index[unicodedata.normalize("NFC", name)].add(entry)
    return index


# --- what is left over ----------------------------------------------------------------------------------------------


def _left_over(
    set_name: str, left: Mapping[Side, Sequence[_Entry]], speakers: Mapping[Side, Recordings]
) -> list[Finding]:
    """A finding for every name that has no partner, by which it is listed."""
    findings = []
    by_stem = {side: _grouped(left[side], lambda entry: entry.stem) for side in SIDES}
    others = {side: {path.stem: path for path in speaker.others} for side, speaker in speakers.items()}
    for stem in sorted(by_stem["source"].keys() | by_stem["target"].keys()):
        groups = {side: by_stem[side].get(stem, []) for side in SIDES}
        twice = next((side for side in SIDES if len(groups[side]) > 1), None)
        if all(groups.values()):
            assert twice is not None
            listed = ", ".join(str(entry.path) for entry in groups[twice][:SHOWN])
            message = (
                f"{len(groups[twice])} {twice} recordings have this name ({listed}); keep one, or lay both speakers "
                "out in the same subfolders"
            )
            findings.append(Finding(stem, set_name, twice, "duplicate", True, message))
            continue
        missing: Side = "target" if groups["source"] else "source"
        for entry in groups["source"] or groups["target"]:
            if stem in others[missing]:
                message = f"only {others[missing][stem]} on the {missing} side, which is not readable here; convert it"
                findings.append(Finding(entry.key, set_name, missing, "other_format", True, message))
            else:
                message = f"no {missing} recording of this name (only {entry.path})"
                findings.append(Finding(entry.key, set_name, missing, "no_partner", True, message))
    return findings


def _nothing_matched(source: Recordings, target: Recordings, findings: Sequence[Finding]) -> str:
    duplicates = [finding for finding in findings if finding.code == "duplicate"]
    if duplicates:
        return (
            f"{source.root} and {target.root}: every name that both have is there more than once (first: "
            f"{duplicates[0].utterance_id}: {duplicates[0].message})"
        )
    examples = [next((paths[0].name for paths in each.sets.values() if paths), "none") for each in (source, target)]
    return (
        f"no recording in {source.root} ({source.n_files} files, e.g. {examples[0]}) has a partner of the same "
        f"name in {target.root} ({target.n_files} files, e.g. {examples[1]}); recordings of one sentence must "
        "share their file name, or be listed in a table: --pairs FILE"
    )
