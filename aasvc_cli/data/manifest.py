"""Prepared pairs on disk: one JSON file per set of pairs."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aasvc_cli.config.reading import parse_config, to_tree
from aasvc_cli.config.settings import Config
from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import json_text, read_json, reading, write_json, write_text
from aasvc_cli.storage.home import Home

SETS = ("train", "dev", "eval")
SUGGESTED = 8
"""Known names that are shown at most where an unknown one is like none of them."""
UNASSIGNED = ""
"""The set of a pair before training, dev and evaluation data are split."""


@dataclass(frozen=True)
class ParallelPair:
    """The same sentence from both speakers.

    Attributes:
        source_frames, target_frames: length of the features; 0 while unknown
        source_seconds, target_seconds: length of the recordings
        speaker: who says the source; empty in a set of one source speaker
    """

    utterance_id: str
    source: Path
    target: Path
    text: str | None = None
    source_frames: int = 0
    target_frames: int = 0
    source_seconds: float = 0.0
    target_seconds: float = 0.0
    speaker: str = ""


@dataclass(frozen=True)
class Finding:
    """Something noticed about a recording or a pair.

    Attributes:
        side: ``source`` or ``target``; empty if it is about both
        code: one word for programs, such as ``no_partner``
        excluded: whether the pair is left out for it; otherwise it is only a note
        message: a sentence for people, without the utterance's name
    """

    utterance_id: str
    set: str
    side: str
    code: str
    excluded: bool
    message: str


@dataclass(frozen=True)
class Manifest:
    """Which pairs to train, watch and evaluate on; written by ``prepare``.

    Attributes:
        config: the configuration whose features were computed
        sets: the good pairs of each of :data:`SETS`
        excluded: (utterance_id, set, reason) of every pair that was left out
        source_root, target_root: the folders that the recordings come from
        more_source_roots: those of further source speakers
        extra: pairs of changed copies of target recordings with these recordings, to train on beside the others
    """

    name: str
    source_speaker: str
    target_speaker: str
    config: Config
    sets: Mapping[str, tuple[ParallelPair, ...]]
    excluded: Sequence[tuple[str, str, str]] = field(default_factory=list)
    source_root: Path = Path()
    target_root: Path = Path()
    more_source_roots: tuple[Path, ...] = ()
    extra: tuple[ParallelPair, ...] = ()

    @property
    def alone(self) -> tuple[ParallelPair, ...]:
        """The extra pairs of recordings that no other pair has."""
        paired = {pair.target for pairs in self.sets.values() for pair in pairs}
        return tuple(pair for pair in self.extra if pair.target not in paired)


# --- manifests on disk ----------------------------------------------------------------------------------------------


def manifest_path(home: Home, name: str) -> Path:
    """Where the manifest of a prepared set is kept."""
    return home.prepared / name / "manifest.json"


def write_manifest(home: Home, manifest: Manifest) -> Path:
    """Keep a manifest, and remember it as the one prepared last; raises StorageError."""
    path = manifest_path(home, manifest.name)
    tree: dict[str, Any] = {
        "name": manifest.name,
        "source_speaker": manifest.source_speaker,
        "target_speaker": manifest.target_speaker,
        "source_root": home.kept(manifest.source_root),
        "target_root": home.kept(manifest.target_root),
        "config": to_tree(manifest.config),
        "sets": {name: [_pair_tree(home, pair) for pair in manifest.sets.get(name, ())] for name in SETS},
        "excluded": [list(entry) for entry in manifest.excluded],
    }
    if manifest.more_source_roots:
        tree["more_source_roots"] = [home.kept(root) for root in manifest.more_source_roots]
    if manifest.extra:
        tree["extra"] = [_pair_tree(home, pair) for pair in manifest.extra]
    # a line for each entry: to indent them all would take three times as long, which shows at 100,000 recordings
    entries = (f" {json_text(name)}: {json_text(value, indent=None)}" for name, value in tree.items())
    write_text(path, "{\n" + ",\n".join(entries) + "\n}\n")
    write_json(home.prepared / "latest.json", {"name": manifest.name})
    return path


def read_manifest(home: Home, name: str | None = None) -> Manifest:
    """A prepared set by name, or the one prepared last.

    Raises:
        DataError: there is none of that name (the message lists what there is), or its file is damaged.
    """
    if name is None:
        latest = home.prepared / "latest.json"
        if not latest.is_file():
            raise DataError(f"nothing is prepared in {home.root}; run: aasvc prepare CORPUS")
        name = str(_entry(read_json(latest, "the name of the set prepared last"), "name", latest))
    with _opened(home, name) as tree:
        return Manifest(
            name=name,
            source_speaker=str(tree["source_speaker"]),
            target_speaker=str(tree["target_speaker"]),
            config=parse_config(tree["config"], str(manifest_path(home, name))),
            sets={key: tuple(_parse_pair(home, entry) for entry in tree["sets"][key]) for key in SETS},
            excluded=[(str(utterance), str(where), str(why)) for utterance, where, why in tree["excluded"]],
            source_root=home.found(tree["source_root"]),
            target_root=home.found(tree["target_root"]),
            more_source_roots=tuple(home.found(root) for root in tree.get("more_source_roots", ())),
            extra=tuple(_parse_pair(home, entry) for entry in tree.get("extra", ())),
        )


def prepared_roots(home: Home, name: str) -> tuple[Path, ...]:
    """The folders of the sources and of the target that a prepared set stands for; raises DataError."""
    with _opened(home, name) as tree:
        roots = tree["source_root"], *tree.get("more_source_roots", ()), tree["target_root"]
        return tuple(home.found(root) for root in roots)


def has_same_training_set(home: Home, manifest: Manifest) -> bool:
    """Whether the set of that name on disk trains on the same pairs and features; raises DataError without one."""
    with _opened(home, manifest.name) as tree:
        pairs = [_pair_tree(home, pair) for pair in manifest.sets["train"]]
        features = parse_config(tree["config"], str(manifest_path(home, manifest.name))).features
        return bool(tree["sets"]["train"] == pairs and features == manifest.config.features)


@contextlib.contextmanager
def _opened(home: Home, name: str) -> Iterator[dict[str, Any]]:
    """What the file of a prepared set says; what goes wrong while it is used is an error that names the file."""
    path = manifest_path(home, name)
    if name not in list_prepared(home):
        raise DataError(f"no prepared data named {name:.100}{suggest(name, list_prepared(home))}; run: aasvc prepare")
    tree = read_json(path, "a manifest")
    with reading(path, "a complete manifest", advice="run: aasvc prepare again"):
        if tree["name"] != name:
            raise ValueError(f"its name is {tree['name']!r:.60}")
        yield tree


def list_prepared(home: Home) -> list[str]:
    """Names of all prepared sets."""
    return sorted(path.parent.name for path in home.prepared.glob("*/manifest.json"))


def _pair_tree(home: Home, pair: ParallelPair) -> dict[str, Any]:
    tree = {
        "utterance_id": pair.utterance_id,
        "source": home.kept(pair.source),
        "target": home.kept(pair.target),
        "text": pair.text,
        "source_frames": pair.source_frames,
        "target_frames": pair.target_frames,
        "source_seconds": pair.source_seconds,
        "target_seconds": pair.target_seconds,
    }
    return tree | {"speaker": pair.speaker} if pair.speaker else tree


def _parse_pair(home: Home, tree: Mapping[str, Any]) -> ParallelPair:
    text = tree["text"]
    return ParallelPair(
        utterance_id=str(tree["utterance_id"]),
        source=home.found(tree["source"]),
        target=home.found(tree["target"]),
        text=None if text is None else str(text),
        source_frames=int(tree["source_frames"]),
        target_frames=int(tree["target_frames"]),
        source_seconds=float(tree["source_seconds"]),
        target_seconds=float(tree["target_seconds"]),
        speaker=str(tree.get("speaker", "")),
    )


def _entry(tree: Any, key: str, path: Path) -> Any:
    if not isinstance(tree, dict) or key not in tree:
        raise DataError(f"{path}: expected an entry {key}; run: aasvc prepare again")
    return tree[key]


# --- finding recordings ---------------------------------------------------------------------------------------------


def suggest(name: str, known: Collection[str]) -> str:
    """A hint that ends an error about an unknown name: the nearest of the known ones, or a few of them."""
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    shown = sorted(known)[:SUGGESTED]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"; there is: {', '.join(shown)}{more}" if known else ""
