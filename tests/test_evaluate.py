"""Folders and runs: matching, failures that stay alone, corpus numbers, files written."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from aasvc_cli import metrics
from aasvc_cli.config import Config
from aasvc_cli.corpus import Manifest, ParallelPair, write_manifest
from aasvc_cli.errors import DataError
from aasvc_cli.pipeline import evaluate
from aasvc_cli.pipeline.evaluate import EvaluateResult, evaluate_folders, evaluate_run
from aasvc_cli.storage.cache import Home
from aasvc_cli.storage.files import read_audio, read_json, write_audio

RECORDINGS = Path(__file__).parent / "data" / "recordings"
RATE = 24000
F0 = {"f0_min": 90.0, "f0_max": 440.0}


def buzz(frequency: float, seconds: float = 0.5) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = np.arange(1, 21)[:, None]
    return (0.1 * (np.cos(2 * np.pi * frequency * harmonics * time + harmonics**2) / harmonics).sum(axis=0)).astype(
        "f4"
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three short utterances, converted and target: steady tones 30, 20 and 10 Hz apart."""
    for name, converted, target in (("a", 180, 150), ("b", 180, 200), ("c", 230, 220)):
        write_audio(tmp_path / "converted" / f"{name}.wav", buzz(converted), RATE)
        write_audio(tmp_path / "target" / f"{name}.flac", buzz(target), RATE)
    return tmp_path / "converted", tmp_path / "target"


def ids(result: EvaluateResult) -> list[str]:
    return [utterance.utterance_id for utterance in result.utterances]


def test_every_pair_is_scored_and_averaged(folders):
    seen: list[tuple[int, int]] = []
    result = evaluate_folders(*folders, **F0, jobs=1, on_progress=lambda done, total: seen.append((done, total)))
    assert ids(result) == ["a", "b", "c"]
    assert [u.scores.f0_rmse for u in result.utterances] == pytest.approx([30, 20, 10], abs=0.5)
    assert result.corpus["F0RMSE"].mean == pytest.approx(np.mean([u.scores.f0_rmse for u in result.utterances]))
    assert result.corpus["F0RMSE"].low <= result.corpus["F0RMSE"].mean <= result.corpus["F0RMSE"].high
    assert result.corpus["F0CORR"].n + result.corpus["F0CORR"].n_undefined == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert not result.failures + result.without_target + result.without_conversion


def test_an_utterance_has_the_scores_of_its_two_recordings(folders):
    result = evaluate_folders(*folders, **F0, mode="corrected", jobs=1)
    pair = read_audio(folders[0] / "b.wav") + read_audio(folders[1] / "b.flac")
    assert result.utterances[1].scores == metrics.score_pair(*pair, **F0, mode="corrected")


def test_worker_processes_change_nothing(folders):
    alone, together = (evaluate_folders(*folders, jobs=jobs) for jobs in (1, 2))
    assert repr(together) == repr(alone)  # NaN equals itself there


def test_the_published_corpus_numbers_on_real_recordings():
    golden = json.loads((RECORDINGS.parent / "metrics.json").read_text(encoding="utf-8"))
    result = evaluate_folders(RECORDINGS / "male", RECORDINGS / "female", speaker="female", jobs=1)
    assert ids(result) == ["train_parallel_0003", "train_parallel_0005"]
    assert len(result.without_conversion) == 3
    expected = [golden["pairs"][f"male/{name} vs female/{name}"] for name in ids(result)]
    for name, summary in result.corpus.items():
        assert summary.mean == pytest.approx(np.mean([scores[name] for scores in expected]), abs=1e-6)


# -- matching


def test_nested_recordings_find_their_partner_by_path_and_then_by_name(folders):
    converted, target = folders
    (converted / "set" / "x").mkdir(parents=True)
    (converted / "a.wav").rename(converted / "set" / "x" / "a.wav")
    result = evaluate_folders(converted, target, **F0, jobs=1)
    assert ids(result) == ["b", "c", "set/x/a"]
    (target / "set" / "x").mkdir(parents=True)
    shutil.copy(target / "b.flac", target / "set" / "x" / "a.flac")
    result = evaluate_folders(converted, target, **F0, jobs=1)
    assert result.utterances[2].target == target / "set" / "x" / "a.flac"
    assert result.without_conversion == ("a",)


def test_missing_partners_are_reported_on_both_sides(folders):
    converted, target = folders
    (converted / "a.wav").unlink()
    (target / "c.flac").unlink()
    result = evaluate_folders(converted, target, **F0, jobs=1)
    assert (ids(result), result.without_target, result.without_conversion) == (["b"], ("c",), ("a",))


def test_a_name_that_two_targets_have_is_a_failure_and_not_a_guess(folders):
    converted, target = folders
    for folder in ("x", "y"):
        (target / folder).mkdir()
        shutil.copy(target / "a.flac", target / folder / "a.flac")
    (target / "a.flac").unlink()
    result = evaluate_folders(converted, target, **F0, jobs=1)
    assert ids(result) == ["b", "c"]
    assert [failure.utterance_id for failure in result.failures] == ["a"]
    assert "2 recordings have this name" in result.failures[0].reason


def test_composed_and_decomposed_accents_are_the_same_name(tmp_path):
    write_audio(tmp_path / "converted" / "\u304c.wav", buzz(180), RATE)  # GA in one character
    write_audio(tmp_path / "target" / "\u304b\u3099.wav", buzz(180), RATE)  # KA with a voicing mark
    assert len(evaluate_folders(tmp_path / "converted", tmp_path / "target", **F0, jobs=1).utterances) == 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda converted, target: shutil.rmtree(converted), "no such folder of converted recordings"),
        (lambda converted, target: shutil.rmtree(target), "no such folder of target recordings"),
        (lambda converted, target: [path.unlink() for path in target.iterdir()], "no target recordings"),
        (
            lambda converted, target: [p.rename(p.with_stem(p.stem + "_")) for p in list(target.iterdir())],
            "none of its 3",
        ),
        (lambda converted, target: [path.write_text("text") for path in converted.iterdir()], "none of 3 utterances"),
        (
            lambda converted, target: shutil.copy(converted / "a.wav", converted / "a.WAV"),
            "a.wav are the same utterance",
        ),
    ],
)
def test_where_nothing_can_be_scored_the_error_says_why(folders, break_it, message):
    break_it(*folders)
    with pytest.raises(DataError, match=message) as caught:
        evaluate_folders(*folders, **F0, jobs=1)
    assert str(folders[0].parent) in str(caught.value)
    assert "\n" not in str(caught.value)


# -- bad recordings


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_recording_fails_alone_and_is_counted(folders, side, jobs):
    bad = sorted(folders[side].iterdir())[1]
    bad.write_text("this is not audio")
    result = evaluate_folders(*folders, **F0, jobs=jobs)
    assert ids(result) == ["a", "c"]
    assert [failure.utterance_id for failure in result.failures] == ["b"]
    assert str(bad) in result.failures[0].reason
    assert result.corpus["MCD"].n == 2
    assert result.to_tree()["n_failed"] == 1


def test_a_fault_of_the_program_in_one_utterance_leaves_the_others_alone(folders, monkeypatch):
    real = metrics.analyse

    def fragile(wave, *arguments, **options):
        if len(wave) == 777:
            raise IndexError("list index out of range")
        return real(wave, *arguments, **options)

    monkeypatch.setattr(metrics, "analyse", fragile)
    write_audio(folders[0] / "a.wav", buzz(180)[:777], RATE)
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert ids(result) == ["b", "c"]
    assert result.failures[0].reason == "IndexError: list index out of range"


def test_silence_is_scored_without_f0_and_does_not_spoil_the_corpus(folders):
    write_audio(folders[0] / "b.wav", np.zeros(RATE // 2, dtype=np.float32), RATE)
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert not result.failures
    assert math.isnan(result.utterances[1].scores.f0_rmse)
    assert (result.corpus["F0RMSE"].n, result.corpus["F0RMSE"].n_undefined) == (2, 1)
    assert result.corpus["F0RMSE"].mean == pytest.approx(20, abs=0.5)
    assert result.to_tree()["utterances"][1]["F0RMSE"] is None


# -- baseline


def test_the_baseline_scores_the_unconverted_recordings_on_the_same_utterances(folders, tmp_path):
    converted, target = folders
    shutil.copytree(target, tmp_path / "source")
    (tmp_path / "source" / "c.flac").unlink()
    result = evaluate_folders(converted, target, source=tmp_path / "source", **F0, jobs=1)
    assert result.baseline is not None
    assert result.baseline["MCD"].mean == 0.0
    assert result.baseline["MCD"].n == 2
    assert [utterance.baseline is None for utterance in result.utterances] == [False, False, True]
    assert [(failure.utterance_id, failure.reason) for failure in result.failures] == [
        ("c", "no source recording for the baseline")
    ]
    assert result.to_tree()["utterances"][0]["baseline"]["MCD"] == 0.0


def test_a_bad_source_recording_costs_only_its_baseline(folders, tmp_path):
    converted, target = folders
    shutil.copytree(target, tmp_path / "source")
    (tmp_path / "source" / "c.flac").write_text("text")
    result = evaluate_folders(converted, target, source=tmp_path / "source", **F0, jobs=1)
    assert ids(result) == ["a", "b", "c"]
    assert result.failures[0].reason.startswith("baseline: ")


def test_the_baseline_of_the_corrected_mode_may_have_a_rate_of_its_own(folders, tmp_path):
    converted, target = folders
    for path in target.iterdir():
        write_audio(tmp_path / "source" / path.name, read_audio(path)[0][::2], RATE // 2)
    result = evaluate_folders(converted, target, source=tmp_path / "source", **F0, mode="corrected", jobs=1)
    assert not result.failures
    assert {utterance.sample_rate for utterance in result.utterances} == {RATE}


# -- F0 range and mode


def test_the_f0_range_is_estimated_from_the_targets_unless_given_or_known(folders):
    estimated = evaluate_folders(*folders, jobs=1).f0_range
    assert estimated.minimum <= 150 / 2 + 10 < 220 * 1.5 < estimated.maximum
    assert estimated.origin == "estimated from 3 target recordings"
    assert evaluate_folders(*folders, speaker="slt", jobs=1).f0_range.to_tree() == {
        "minimum": 120.0, "maximum": 275.0, "origin": "recipe's range for slt",
    }  # fmt: skip
    given = evaluate_folders(*folders, speaker="slt", **F0, jobs=1).f0_range
    assert given == metrics.F0Range(90.0, 440.0, "given")
    half = evaluate_folders(*folders, speaker="slt", f0_min=100.0, jobs=1).f0_range
    assert (half.minimum, half.maximum) == (100.0, 275.0)


def test_an_impossible_f0_range_or_mode_or_number_of_jobs_is_refused_at_once(folders):
    with pytest.raises(DataError, match="F0 range 300-275"):
        evaluate_folders(*folders, speaker="slt", f0_min=300.0)
    with pytest.raises(DataError, match="expected one of published, corrected"):
        evaluate_folders(*folders, mode="exact")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="expected at least 1"):
        evaluate_folders(*folders, jobs=0)


def test_the_corrected_mode_says_so_wherever_its_numbers_stand(folders):
    corrected = evaluate_folders(*folders, **F0, mode="corrected", jobs=1)
    assert [corrected.title(measure) for measure in corrected.measures] == [
        "MCD corrected [dB]", "F0RMSE corrected [Hz]", "F0CORR corrected", "DDUR corrected [s]",
    ]  # fmt: skip
    tree = corrected.to_tree()
    assert tree["mode"] == "corrected"
    assert "c0 left out" in tree["definition"]
    assert tree["analysis"][0]["alignment"] == "exact"
    published = evaluate_folders(*folders, **F0, jobs=1)
    assert published.title(published.measures[0]) == "MCD [dB]"
    assert "published" in published.definition


# -- runs


@pytest.fixture
def run(home: Home, folders: tuple[Path, Path]) -> Path:
    """A run whose eval set is converted; the sources are the targets themselves."""
    converted, target = folders
    pairs = tuple(ParallelPair(p.stem, source=p, target=p) for p in sorted(target.iterdir()))
    manifest = Manifest("demo", "male", "female", Config(), {"train": (), "dev": pairs[:1], "eval": pairs})
    write_manifest(home, manifest)
    folder = home.exp / "male_female_first"
    shutil.copytree(converted, folder / "converted" / "eval")
    (folder / "data.json").write_text('{"prepared": "demo"}')
    return folder


def test_a_run_is_scored_with_its_own_set_and_the_scores_stay_in_its_folder(home, run):
    result = evaluate_run(home, model="first", baseline=True, jobs=1)
    assert result.path == run / "scores-eval.json"
    assert result.f0_range.origin == "recipe's range for female"
    tree = read_json(result.path, "scores")
    assert (tree["model"], tree["prepared"], tree["set"]) == ("male_female_first", "demo", "eval")
    assert tree["corpus"]["F0RMSE"]["mean"] == result.corpus["F0RMSE"].mean == pytest.approx(20, abs=0.5)
    assert tree["baseline"]["MCD"]["mean"] == 0.0
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_utterances_of_the_set_that_were_not_converted_are_listed(home, run):
    (run / "converted" / "eval" / "b.wav").unlink()
    write_audio(run / "converted" / "eval" / "stranger.wav", buzz(100), RATE)
    result = evaluate_run(home, model="first", jobs=1)
    assert (ids(result), result.without_conversion, result.without_target) == (["a", "c"], ("b",), ("stranger",))


def test_a_run_without_conversions_says_which_command_makes_them(home, run):
    with pytest.raises(DataError, match=r"run: aasvc convert --set dev --model first"):
        evaluate_run(home, model="first", set_name="dev")
    with pytest.raises(DataError, match=r"no utterances in 'train'; it has train \(0\), dev \(1\), eval \(3\)"):
        evaluate_run(home, model="first", set_name="train")


def test_old_scores_survive_an_evaluation_that_fails(home, run):
    evaluate_run(home, model="first", jobs=1)
    before = (run / "scores-eval.json").read_bytes()
    for path in (run / "converted" / "eval").iterdir():
        path.write_text("text")
    with pytest.raises(DataError, match="none of 3 utterances"):
        evaluate_run(home, model="first", jobs=1)
    assert (run / "scores-eval.json").read_bytes() == before


def test_a_model_from_elsewhere_is_scored_on_the_set_that_is_named_or_was_prepared_last(home, run):
    (run / "data.json").unlink()
    assert len(evaluate_run(home, model=run, data="demo", jobs=1).utterances) == 3
    assert len(evaluate_run(home, model=run, jobs=1).utterances) == 3
    (run / "data.json").write_text("[]")
    with pytest.raises(DataError, match="--data"):
        evaluate_run(home, model=run, jobs=1)


def test_a_killed_worker_is_an_error_and_not_a_missing_number(folders, monkeypatch):
    monkeypatch.setattr(evaluate, "_score", _die)
    with pytest.raises(DataError, match="a worker process was killed"):
        evaluate_folders(*folders, **F0, jobs=2)


def _die(job):
    os.kill(os.getpid(), signal.SIGKILL)
