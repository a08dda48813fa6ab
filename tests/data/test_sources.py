"""Several source speakers: the pairs of each, under names that say whose they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from aasvc_cli.data.corpus import Recordings, locate_all
from aasvc_cli.data.manifest import UNASSIGNED
from aasvc_cli.data.matching import match
from aasvc_cli.data.sources import joint_name, match_all, sentences
from aasvc_cli.errors import DataError
from aasvc_cli.storage.home import Home


def folder(root: Path, *names: str) -> Path:
    for name in names:
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def recordings(root: Path, *names: str) -> Recordings:
    folder(root, *names)
    return Recordings(root.name, root, {UNASSIGNED: tuple(root / f"{name}.wav" for name in names)})


def test_one_source_is_matched_as_ever(tmp_path: Path):
    source, target = recordings(tmp_path / "a", "1", "2", "4"), recordings(tmp_path / "t", "1", "2", "3")
    assert match_all([source], target) == match(source, target)


def test_every_source_is_matched_by_its_own_rule_under_its_own_name(tmp_path: Path):
    names = ["s1", "s2", "s3", "s4"]
    target = recordings(tmp_path / "t", *names)
    plain, prefixed = recordings(tmp_path / "a", *names[:3]), recordings(tmp_path / "b", *(f"b_{n}" for n in names))
    matching = match_all([plain, prefixed], target)
    assert [(pair.utterance_id, pair.speaker) for _, pair in matching.pairs] == [
        *((f"a/{name}", "a") for name in names[:3]),
        *((f"b/{name}", "b") for name in names),
    ]
    assert matching.rules == Counter(path=3, affix=4)
    assert [(finding.utterance_id, finding.code) for finding in matching.findings] == [("a/s4", "no_partner")]
    said = sentences(matching.pairs)
    assert said["a/s2"] == said["b/s2"] == "s2"
    assert len(set(said.values())) == 4


def test_a_sentence_is_what_the_target_says_whatever_the_sources_call_it(tmp_path: Path):
    target = recordings(tmp_path / "t", "one/1", "two/1")
    sources = [recordings(tmp_path / name, "one/1", "two/1") for name in "ab"]
    matching = match_all(sources, target)
    by_target = {}
    for _, pair in matching.pairs:
        by_target.setdefault(pair.target, set()).add(sentences(matching.pairs)[pair.utterance_id])
    assert sorted(by_target.values()) == [{"one/1"}, {"two/1"}]


def test_a_table_is_for_one_source(tmp_path: Path):
    sources = [recordings(tmp_path / name, "1") for name in "ab"]
    with pytest.raises(DataError, match="for one source, and there are 2"):
        match_all(sources, recordings(tmp_path / "t", "1"), tmp_path / "pairs.tsv")


def test_a_joint_name_stays_short():
    assert joint_name(["a"]) == "a"
    assert joint_name(["a", "b", "c"]) == "a-b-c"
    assert joint_name([f"v{n}" for n in range(12)]) == "v0-and-11-more"


class TestLocating:
    def test_speakers_have_names_of_their_own(self, tmp_path: Path, home: Home):
        roots = [folder(tmp_path / person / "speech", "1") for person in ("anna", "bob", "carl")]
        sources, target = locate_all(home, None, roots[:2], roots[2])
        assert len({each.speaker for each in (*sources, target)}) == 3
        assert [each.speaker for each in sources] == ["anna-speech", "bob-speech"]
        assert [each.root for each in (*sources, target)] == roots

    def test_a_source_is_named_once_and_is_not_the_target(self, tmp_path: Path, home: Home):
        roots = [folder(tmp_path / person, "1") for person in ("anna", "bob", "carl")]
        with pytest.raises(DataError, match="given twice as a source"):
            locate_all(home, None, [roots[0], roots[1], roots[0]], roots[2])
        with pytest.raises(DataError, match="source and target are the same folder"):
            locate_all(home, None, [roots[0], roots[2]], roots[2])
