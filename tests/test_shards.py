"""``--shard I/N``: the parts of prepare, convert and evaluate together are the whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.features.kinds import storage_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.home import Home
from tests import processes

PARTS = ("2/3", "3/3", "1/3", "2/3")
"""In any order, one of them twice."""


def content(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


def features(home: Home) -> dict[str, bytes]:
    """What training would load, by recording; the time of an excerpt is in a feature's file, and its own."""
    manifest = read_manifest(home)
    store = FeatureStore(home.features, manifest.config.features, storage_key)
    recordings = {path for pairs in manifest.sets.values() for pair in pairs for path in (pair.source, pair.target)}
    return {home.kept(path): store.load("mel", path).tobytes() for path in recordings}


def results(tree: dict[str, Any]) -> dict[str, Any]:
    """A report without what differs from run to run."""
    return {
        key: value
        for key, value in tree.items()
        if key not in ("n_computed", "n_fresh", "analysed_seconds", "elapsed_seconds", "manifest", "report", "ranking")
    }


@pytest.fixture(scope="module")
def sentences(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole sentences, with pauses at which they can be cut."""
    root = tmp_path_factory.mktemp("sentences") / "ja-JP"
    for path in demo_corpus.rglob("*.ogg"):
        if int(path.stem[-4:]) in (0, 1, 660, 680):
            (root / path.relative_to(demo_corpus)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.relative_to(demo_corpus))
    return root


@pytest.fixture
def prepare(sentences: Path, tiny_conf: Path) -> list[str]:
    return ["prepare", str(sentences), "--conf", str(tiny_conf), "--jobs", "1", "--max-seconds", "3"]


def test_parts_of_prepare_are_the_whole(aasvc: Callable[..., Any], prepare: list[str], tmp_path: Path):
    whole, parted = Home(tmp_path / "whole"), Home(tmp_path / "parted")
    assert aasvc("--home", whole.root, *prepare).code == 0
    for part in PARTS:
        outcome = aasvc("--home", parted.root, *prepare, "--shard", part)
        assert outcome.code == 0 and f"part {part}: " in outcome.out, outcome.err
        assert not list(parted.prepared.glob("*/manifest.json"))
    outcome = aasvc("--home", parted.root, *prepare, "--json", "-")
    report = json.loads(outcome.out)
    assert report["n_computed"] == 0 and not any("--shard" in advice for advice in report["advice"])
    assert features(parted) == features(whole)
    assert content(parted.prepared, "*.flac") == content(whole.prepared, "*.flac") != {}
    assert content(parted.prepared, "manifest.json") == content(whole.prepared, "manifest.json") != {}
    one, other = (json.loads(next(home.prepared.glob("*/report.json")).read_text()) for home in (whole, parted))
    assert results(one) == results(other)


def test_a_part_of_prepare_that_is_missing_is_named_and_done(aasvc: Callable[..., Any], prepare: list[str], home: Home):
    assert aasvc(*prepare, "--shard", "1/2").code == 0
    outcome = aasvc(*prepare)
    assert "advice: --shard 2/2 was not run to its end; what was left of it is done now" in outcome.out
    assert "--shard" not in aasvc(*prepare).out


def test_parts_of_convert_and_evaluate_are_the_whole(aasvc: Callable[..., Any], trained: Home, tmp_path: Path):
    convert = ["convert", "--set", "eval", "--model", "tiny", "--vocoder", "griffin-lim"]
    evaluate = ["evaluate", "--model", "tiny", "--measures", "signal", "--jobs", "1"]
    assert aasvc(*convert).code == 0 and aasvc(*evaluate, "--json", tmp_path / "whole.json").code == 0
    converted = trained.exp / "male_female_tiny" / "converted"
    whole = content(converted)
    for path in converted.rglob("*.wav"):
        path.unlink()
    (trained.exp / "male_female_tiny").joinpath("scores-eval.json").unlink()
    for path in trained.cache.rglob("*.*"):
        path.unlink()
    assert aasvc(*convert, "--shard", "2/2").code == 0
    (only,) = content(converted)
    outcome = aasvc(*evaluate)
    missing = (set(whole) - {only}).pop()
    assert f"{Path(missing).stem}: not converted" in outcome.err
    assert aasvc(*convert, "--shard", "1/2").code == 0
    assert content(converted) == whole
    (trained.exp / "male_female_tiny").joinpath("scores-eval.json").unlink()
    assert aasvc(*evaluate, "--shard", "2/2").code == 0
    assert not (trained.exp / "male_female_tiny").joinpath("scores-eval.json").exists()
    assert "--shard 1/2 was not run to its end" in aasvc(*evaluate).err
    outcome = aasvc(*evaluate, "--json", tmp_path / "parts.json")
    assert "--shard" not in outcome.err
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "a.wav", "-o", "b.wav", "--shard", "1/2"], "--shard goes with --out-dir or --set"),
        (["evaluate", "--model", "tiny", "--shard", "1/2", "--json", "-"], "--shard only scores"),
        (["convert", "--set", "eval", "--model", "tiny", "--shard", "1/9"], "there are only 2 recordings"),
    ],
)
def test_what_does_not_go_with_a_part_is_one_line(aasvc: Callable[..., Any], trained: Home, arguments, message):
    outcome = aasvc(*arguments)
    assert outcome.code in (1, 2) and message in outcome.err


@pytest.mark.process
@processes.needs_forks
def test_parts_that_run_at_the_same_time_are_the_whole(aasvc: Callable[..., Any], prepare: list[str], tmp_path: Path):
    whole, parted = Home(tmp_path / "whole"), Home(tmp_path / "parted")
    command = ["--home", str(parted.root), "--quiet", *prepare]
    running = [processes.start(processes.command_line, [*command, "--shard", f"{i}/3"]) for i in (1, 2, 3)]
    assert aasvc("--home", whole.root, *prepare).code == 0
    assert processes.finish(running) == [0, 0, 0]
    assert aasvc(*command).code == 0
    assert features(parted) == features(whole)
    assert content(parted.prepared, "*.flac") == content(whole.prepared, "*.flac")
    assert content(parted.prepared, "manifest.json") == content(whole.prepared, "manifest.json")
