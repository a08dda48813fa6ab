"""Folders and runs: matching, failures that stay alone, corpus numbers, files written."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.settings import Config
from aasvc_cli.conversion.origin import Origin, voice_of
from aasvc_cli.data.manifest import Manifest, ParallelPair, read_manifest, write_manifest
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.measures import judges as listeners
from aasvc_cli.measures import scoring
from aasvc_cli.measures import signal as metrics
from aasvc_cli.measures.catalogue import BY_NAME, parse_threshold
from aasvc_cli.measures.results import EvaluateResult, compare_results, crossed
from aasvc_cli.measures.statistics import ErrorCounts
from aasvc_cli.pipeline import evaluate
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.parts import Shard
from aasvc_cli.storage.result_cache import ResultCache
from tests.once import once
from tests.voices import tiny_config, write_voice

RECORDINGS = Path(__file__).parents[1] / "assets" / "recordings"
RATE = 24000
RANGE = {"f0_min": 90.0, "f0_max": 440.0}
F0 = {**RANGE, "measures": ["signal"]}


def evaluate_folders(*folders: Path, source=None, text=None, speaker=None, home=None, **options) -> EvaluateResult:
    about = {"source": source, "text": text, "speaker": speaker, "home": home}
    return evaluate.evaluate_folders(*folders, **about, options=evaluate.Options(**options))


def evaluate_run(home: Home, *, model, set_name="eval", data=None, baseline=False, **options) -> EvaluateResult:
    about = {"model": model, "set_name": set_name, "data": data, "baseline": baseline}
    return evaluate.evaluate_run(home, **about, options=evaluate.Options(**options))


@cache
def buzz(frequency: float, seconds: float = 0.5) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = np.arange(1, 21)[:, None]
    return (0.1 * (np.cos(2 * np.pi * frequency * harmonics * time + harmonics**2) / harmonics).sum(axis=0)).astype(
        "f4"
    )


def swell() -> np.ndarray:
    """A sound that nobody could take for a voice."""
    return (0.5 * np.hanning(RATE // 2)).astype("f4")


@pytest.fixture(scope="module", autouse=True)
def _tones_are_analysed_once() -> Iterator[None]:
    """The same few tones are scored again and again, and finding their pitch and envelope is most of that."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pitch", "spectral_envelope"):
            patch.setattr(metrics, name, once(getattr(metrics, name)))
        yield


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
    assert [u.scores["F0RMSE"] for u in result.utterances] == pytest.approx([30, 20, 10], abs=0.5)
    assert result.corpus["F0RMSE"].mean == pytest.approx(np.mean([u.scores["F0RMSE"] for u in result.utterances]))
    assert result.corpus["F0RMSE"].low <= result.corpus["F0RMSE"].mean <= result.corpus["F0RMSE"].high
    assert result.corpus["F0CORR"].n + result.corpus["F0CORR"].n_undefined == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert not result.failures + result.without_target + result.without_conversion


def test_an_utterance_has_the_scores_of_its_two_recordings(folders):
    result = evaluate_folders(*folders, **F0, mode="corrected", jobs=1)
    pair = read_audio(folders[0] / "b.wav") + read_audio(folders[1] / "b.flac")
    expected = metrics.score_pair(*pair, **RANGE, mode="corrected").named("corrected")
    assert result.utterances[1].scores == pytest.approx(expected, nan_ok=True, abs=1e-12)


@pytest.mark.process
def test_worker_processes_change_nothing(folders):
    alone, together = (evaluate_folders(*folders, measures=["signal"], jobs=jobs) for jobs in (1, 2))
    assert repr(together) == repr(alone)  # NaN equals itself there


def test_the_published_corpus_numbers_on_real_recordings():
    golden = json.loads((RECORDINGS.parent / "metrics.json").read_text(encoding="utf-8"))
    result = evaluate_folders(RECORDINGS / "male", RECORDINGS / "female", speaker="female", measures=["signal"], jobs=1)
    assert ids(result) == ["train_parallel_0003", "train_parallel_0005"]
    assert len(result.without_conversion) == 3
    expected = [golden["pairs"][f"male/{name} vs female/{name}"] for name in ids(result)]
    for name in expected[0]:
        assert result.corpus[name].mean == pytest.approx(np.mean([scores[name] for scores in expected]), abs=1e-6)


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


@pytest.fixture
def speakers(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Converted, target and source recordings whose names begin with their speakers', and one that is elsewhere."""
    for number, (converted, target, source) in enumerate(((180, 150, 120), (180, 200, 210), (230, 220, 200)), start=1):
        write_audio(tmp_path / "converted" / f"bdl_a000{number}.wav", buzz(converted), RATE)
        write_audio(tmp_path / "target" / f"slt_a000{number}.flac", buzz(target), RATE)
        write_audio(tmp_path / "source" / f"rms_a000{number}.wav", buzz(source), RATE)
    write_audio(tmp_path / "target" / "slt_b0009.flac", buzz(180), RATE)
    return tmp_path / "converted", tmp_path / "target", tmp_path / "source"


def test_names_with_a_prefix_of_each_speaker_are_matched_as_prepare_does(speakers, aasvc):
    converted, target, _ = speakers
    result = evaluate_folders(converted, target, **F0, jobs=1)
    assert [(u.utterance_id, u.target.stem) for u in result.utterances] == [
        (f"bdl_a000{number}", f"slt_a000{number}") for number in (1, 2, 3)
    ]
    assert [u.scores["F0RMSE"] for u in result.utterances] == pytest.approx([30, 20, 10], abs=0.5)
    assert (result.without_target, result.without_conversion) == ((), ("slt_b0009",))
    (note,) = result.notes
    assert note.startswith("3 recordings matched without what the names of each folder share: bdl_a0001 with slt_a0001")
    done = aasvc("evaluate", "--converted", converted, "--target", target, "--measures", "signal", "--jobs", 1)
    assert done.code == 0, done.err
    assert note in done.err.splitlines()


def test_baseline_and_texts_know_prefixes_too(speakers, tmp_path):
    converted, target, source = speakers
    text = tmp_path / "text.txt"
    text.write_text("slt_a0001 one\na0002 two\nbdl_a0003 three\nslt_a0003 none of it\n")
    result = evaluate_folders(converted, target, source=source, text=text, **F0, jobs=1)
    assert [u.source.stem for u in result.utterances] == ["rms_a0001", "rms_a0002", "rms_a0003"]
    assert [u.baseline["F0RMSE"] for u in result.utterances] == pytest.approx([30, 10, 20], abs=0.5)
    assert [u.text for u in result.utterances] == ["one", "two", "three"]
    assert not result.failures


def test_a_single_odd_name_among_others_is_not_matched_to_another_odd_one(folders):
    (folders[0] / "c.wav").rename(folders[0] / "happy.wav")
    (folders[1] / "c.flac").rename(folders[1] / "sad.flac")
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert (ids(result), result.without_target, result.without_conversion) == (["a", "b"], ("happy",), ("sad",))
    for name in "ab":
        (folders[0] / f"{name}.wav").unlink()
    with pytest.raises(DataError, match="partner of the same name"):
        evaluate_folders(*folders, **F0, jobs=1)


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
            lambda converted, target: [p.rename(p.with_stem(chr(ord(p.stem) + 3))) for p in list(target.iterdir())],
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
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.process)])
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
        if len(wave) == 3777:
            raise IndexError("list index out of range")
        return real(wave, *arguments, **options)

    monkeypatch.setattr(metrics, "analyse", fragile)
    write_audio(folders[0] / "a.wav", buzz(180)[:3777], RATE)
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert ids(result) == ["b", "c"]
    assert result.failures[0].reason == "IndexError: list index out of range"


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (np.zeros(RATE // 2), "is silent; expected sound above -60 dB"),
        (np.full(RATE // 2, 0.3), "is silent"),  # nothing but an offset
        (np.random.default_rng(0).uniform(-3e-5, 3e-5, RATE), "is silent"),  # nothing but dither
        (buzz(180)[:1], "lasts 0.0000 s; expected 0.1 s or more"),
        (buzz(180)[: RATE // 11], "lasts 0.0909 s"),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_what_says_nothing_fails_by_name_and_is_in_no_mean(folders, home, side, wave, reason):
    sound = evaluate_folders(*folders, **F0, home=home, jobs=1)
    bad = sorted(folders[side].iterdir())[1]
    write_audio(bad, wave.astype(np.float32), RATE)
    result = evaluate_folders(*folders, **F0, home=home, jobs=1)
    assert ids(result) == ["a", "c"]
    assert [failure.utterance_id for failure in result.failures] == ["b"]
    assert result.failures[0].reason.startswith(f"{bad}: {reason}")
    for name, summary in result.corpus.items():
        rest = [u.scores[name] for u in sound.utterances if u.utterance_id != "b" and math.isfinite(u.scores[name])]
        assert summary.mean == pytest.approx(np.mean(rest) if rest else math.nan, nan_ok=True)


def test_a_sound_without_voice_has_no_f0_and_does_not_spoil_the_corpus(folders, aasvc):
    write_audio(folders[0] / "b.wav", swell(), RATE)
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert not result.failures
    assert math.isnan(result.utterances[1].scores["F0RMSE"])
    assert (result.corpus["F0RMSE"].n, result.corpus["F0RMSE"].n_undefined) == (2, 1)
    assert result.corpus["F0RMSE"].mean == pytest.approx(20, abs=0.5)
    assert result.to_tree()["utterances"][1]["scores"]["F0RMSE"] is None
    assert result.undefined["F0RMSE"] == ["b"]
    converted, target = folders
    done = aasvc("evaluate", "--converted", converted, "--target", target, "--measures", "signal", "--jobs", 1)
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "not defined" in line and line.endswith(": b")]
    assert len(lines) == 1
    assert lines[0].startswith("not defined for 1 utterance, left out there: F0RMSE, ")


# -- what one of the two definitions cannot do


@pytest.mark.parametrize(
    ("rates", "left_out", "reason"),
    [
        ((192000, 192000), "published", "192000 Hz: the published analysis works up to 160000 Hz"),
        ((RATE + 1, RATE), "published", "needs sample rates with a common divisor"),
    ],
)
def test_what_one_definition_cannot_do_the_other_still_does(tmp_path, aasvc, rates, left_out, reason):
    for side, rate in zip(("converted", "target"), rates, strict=True):
        time = np.arange(rate // 2) / rate
        wave = 0.1 * sum(np.cos(2 * np.pi * 150 * k * time + k * k) / k for k in range(1, 20))
        for name in "ab":
            write_audio(tmp_path / side / f"{name}.wav", wave.astype(np.float32), rate)
    folders = tmp_path / "converted", tmp_path / "target"
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert (ids(result), result.failures) == (["a", "b"], ())
    assert "MCD_corrected" in result.corpus
    assert "MCD" not in result.corpus
    assert [settings.mode for settings in result.analysis] == ["corrected"]
    (skipped,) = result.skipped
    assert skipped.what == f"{left_out} signal measures of a, b"
    assert reason in skipped.reason
    with pytest.raises(DataError, match="none of 2 utterances could be scored"):
        evaluate_folders(*folders, **F0, mode=left_out, jobs=1)
    options = ["--measures", "signal", "--f0-min", 90, "--f0-max", 440, "--jobs", 1]
    done = aasvc("evaluate", "--converted", folders[0], "--target", folders[1], *options)
    assert done.code == 0, done.err
    assert sum(reason in line for line in done.err.splitlines()) == 1


def test_a_recording_too_long_for_the_exact_alignment_keeps_its_published_scores(folders, monkeypatch):
    from aasvc_cli.audio import dtw

    monkeypatch.setattr(dtw, "MAX_CELLS", 50)
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert (ids(result), result.failures) == (["a", "b", "c"], ())
    assert "MCD" in result.corpus
    assert "MCD_corrected" not in result.corpus
    assert all(skipped.what.startswith("corrected signal measures of") for skipped in result.skipped)


def test_a_fault_of_the_program_in_one_definition_is_a_failure_beside_the_others_scores(folders, monkeypatch):
    real = metrics.analyse

    def fragile(*arguments, mode, **options):
        if mode == "corrected":
            raise IndexError("list index out of range")
        return real(*arguments, mode=mode, **options)

    monkeypatch.setattr(metrics, "analyse", fragile)
    result = evaluate_folders(*folders, **F0, jobs=1)
    assert "MCD" in result.corpus
    reasons = {failure.reason for failure in result.failures}
    assert reasons == {"corrected measures: IndexError: list index out of range"}


@pytest.mark.parametrize(("rate", "jobs"), [(1000, 1), pytest.param(4000, 2, marks=pytest.mark.process)])
def test_a_wrong_header_costs_its_own_utterance_only(folders, rate, jobs):
    write_audio(folders[0] / "b.wav", buzz(180)[: max(rate // 5, 200)], rate)
    result = evaluate_folders(*folders, **F0, jobs=jobs)
    assert {"a", "c"} <= set(ids(result))
    assert len(result.utterances) + len(result.failures) == 3


# -- remarks


def test_what_is_to_be_said_of_recordings_is_noted_once_for_each_kind(folders):
    converted, target = folders
    for name in ("a", "b", "c"):
        path = converted / f"{name}.wav"
        path.write_bytes(path.read_bytes()[:-2000])
    (target / "c.flac").unlink()
    write_audio(target / "c.wav", buzz(225) * 0.5 + 0.1, RATE)
    truncated, offset = evaluate_folders(converted, target, **F0, jobs=1).notes
    assert truncated.startswith(f"{converted / 'a.wav'}: ends after ")
    assert truncated.endswith("the rest of the file is missing; 2 more like it: b.wav, c.wav")
    assert offset.startswith(f"{target / 'c.wav'}: ")
    assert "offset" in offset


def test_the_rate_at_which_recordings_are_stored_changes_no_corrected_measure(tmp_path):
    names = ("train_parallel_0006", "train_parallel_0007")
    for side, order in (("made", names), ("16000", names[::-1]), ("48000", names[::-1])):
        for number, name in enumerate(order):
            wave, rate = read_audio(RECORDINGS / "female" / f"{name}.flac")
            wave = resample(wave[: rate * 3 // 2], rate, 16000)
            if side == "48000":
                wave = resample(wave, 16000, 48000)
            write_audio(tmp_path / side / f"{number}.wav", wave, int(side) if side != "made" else 16000)
    scored = {side: evaluate_folders(tmp_path / "made", tmp_path / side, **F0, jobs=1) for side in ("16000", "48000")}
    corrected, published = (
        {side: result.corpus[measure].mean for side, result in scored.items()} for measure in ("MCD_corrected", "MCD")
    )
    assert corrected["48000"] == pytest.approx(corrected["16000"], abs=0.3)
    assert published["48000"] > published["16000"] + 5  # the empty band
    assert not scored["16000"].notes
    (note,) = scored["48000"].notes
    assert "sound up to 7." in note
    assert "taken at 16000 Hz" in note


# -- copies


def test_pairs_whose_source_and_target_are_the_same_recordings_are_noted(folders):
    converted, target = folders
    result = evaluate_folders(converted, target, source=target, **F0, jobs=1)
    assert result.notes == ("source and target are the same recordings in all pairs; wrong folder? a, b, c",)


def test_conversions_that_are_the_target_recordings_are_noted(folders, aasvc):
    converted, target = folders
    write_audio(converted / "b.wav", read_audio(target / "b.flac")[0], RATE)  # another kind of file, the same sound
    note = "1 of 3 converted recordings is the same as its target recording; wrong folder? b"
    assert evaluate_folders(converted, target, **F0, jobs=1).notes == (note,)
    assert evaluate_folders(target, target, **F0, jobs=1).notes == (
        "all converted recordings are the same as their target recordings; wrong folder? a, b, c",
    )
    done = aasvc("evaluate", "--converted", converted, "--target", target, "--measures", "signal", "--jobs", 1)
    assert note in done.err.splitlines()


def test_one_recording_is_spoken_of_as_one(folders, tmp_path):
    converted, target = folders
    for name in "ab":
        (target / f"{name}.flac").unlink()
    same = "source and target are the same recording in all pairs; wrong folder? c"
    assert evaluate_folders(converted, target, source=target, **F0, jobs=1).notes == (same,)
    shutil.copy(target / "c.flac", converted / "c.wav")
    note = "the converted recording is the same as its target recording; wrong folder? c"
    assert evaluate_folders(converted, target, **F0, jobs=1).notes == (note,)
    (converted / "c.wav").write_text("text")
    with pytest.raises(DataError, match="the only utterance could not be scored; first: c: "):
        evaluate_folders(converted, target, **F0, jobs=1)
    (converted / "c.wav").unlink()
    (converted / "b.wav").unlink()
    (target / "c.flac").rename(target / "x.flac")
    write_audio(target / "y.flac", buzz(150), RATE)
    with pytest.raises(DataError, match="none of its recordings has a partner"):
        evaluate_folders(converted, target, **F0, jobs=1)


def test_conversions_that_are_the_source_recordings_are_noted(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "source")
    result = evaluate_folders(*folders, source=tmp_path / "source", **F0, jobs=1)
    assert len(result.notes) == 1
    assert "all converted recordings are the same as their source recordings" in result.notes[0]


def test_one_pair_has_scores_without_intervals_and_a_page(folders, aasvc, tmp_path):
    converted, target = folders
    for name in ("a", "b"):
        (converted / f"{name}.wav").unlink()
    page = tmp_path / "page.html"
    out = tmp_path / "out.json"
    pair = ["--converted", converted, "--target", target, "--measures", "signal", "--jobs", 1]
    done = aasvc("evaluate", *pair, "--report", page, "--json", out)
    assert done.code == 0, done.err
    assert "1 of 1 utterance to hear" in done.err
    assert json.loads(out.read_text())["f0_range"]["origin"] == "estimated from 1 target recording"
    assert not re.search(r"\b1 (utterances|recordings|pairs)\b", page.read_text(encoding="utf-8") + done.out + done.err)
    summary = json.loads(out.read_text())["corpus"]["MCD"]
    assert (summary["n"], summary["low"], summary["high"]) == (1, None, None)
    assert page.read_text(encoding="utf-8").count("<article") == 1


def test_recordings_without_any_voice_ask_for_the_range(folders, aasvc):
    converted, target = folders
    for path in target.iterdir():
        write_audio(path, swell(), RATE)
    pairs = ["--converted", converted, "--target", target, "--measures", "signal", "--jobs", 1]
    done = aasvc("evaluate", *pairs)
    assert done.code == 1
    assert "--f0-min and --f0-max" in done.err.splitlines()[-1]
    assert aasvc("evaluate", *pairs, "--f0-min", 90, "--f0-max", 440).code == 0


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
    estimated = evaluate_folders(*folders, measures=["signal"], jobs=1).f0_range
    assert 100 <= estimated.minimum < 150 < 220 < estimated.maximum <= 340
    assert estimated.origin == "estimated from 3 target recordings"
    assert evaluate_folders(*folders, speaker="slt", measures=["signal"], jobs=1).f0_range.to_tree() == {
        "minimum": 120.0, "maximum": 275.0, "origin": "recipe's range for slt",
    }  # fmt: skip
    given = evaluate_folders(*folders, speaker="slt", **F0, jobs=1).f0_range
    assert given == metrics.F0Range(90.0, 440.0, "given")
    half = evaluate_folders(*folders, speaker="slt", f0_min=100.0, measures=["signal"], jobs=1).f0_range
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
    signal = [measure for measure in corrected.measures if measure.group == "signal"]
    assert [measure.heading for measure in signal[:4]] == [
        "MCD corrected [dB]", "F0RMSE corrected [Hz]", "F0CORR corrected", "DDUR corrected [s]",
    ]  # fmt: skip
    assert "MCD" not in corrected.corpus
    tree = corrected.to_tree()
    assert "c0 left out" in tree["definitions"]["corrected"]
    assert [settings["alignment"] for settings in tree["analysis"]] == ["exact"]
    published = evaluate_folders(*folders, **F0, mode="published", jobs=1)
    assert published.measures[0].heading == "MCD [dB]"
    assert list(published.definitions) == ["published"]
    assert "MCD_corrected" not in published.corpus


def test_both_definitions_side_by_side_are_what_each_is_alone(folders):
    both = evaluate_folders(*folders, **F0, jobs=1)
    alone = [evaluate_folders(*folders, **F0, mode=mode, jobs=1) for mode in metrics.MODES]
    for result in alone:
        for name, summary in result.corpus.items():
            assert repr(both.corpus[name]) == repr(summary)


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
    assert (tree["model"], tree["prepared"], tree["set"]) == (str(run), "demo", "eval")
    assert tree["corpus"]["F0RMSE"]["mean"] == result.corpus["F0RMSE"].mean == pytest.approx(20, abs=0.5)
    assert tree["baseline"]["MCD"]["mean"] == 0.0
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_utterances_of_the_set_that_were_not_converted_are_listed(home, run):
    (run / "converted" / "eval" / "b.wav").unlink()
    write_audio(run / "converted" / "eval" / "stranger.wav", buzz(100), RATE)
    result = evaluate_run(home, model="first", measures=["signal"], jobs=1)
    assert (ids(result), result.without_conversion, result.without_target) == (["a", "c"], ("b",), ("stranger",))


def test_a_run_without_conversions_says_which_command_makes_them(home, run):
    with pytest.raises(DataError, match=r"run: aasvc convert --set dev --model first"):
        evaluate_run(home, model="first", set_name="dev")
    with pytest.raises(DataError, match=r"no utterances in 'train'; it has train \(0\), dev \(1\), eval \(3\)"):
        evaluate_run(home, model="first", set_name="train")


def test_old_scores_survive_an_evaluation_that_fails(home, run):
    evaluate_run(home, model="first", measures=["signal"], jobs=1)
    before = (run / "scores-eval.json").read_bytes()
    for path in (run / "converted" / "eval").iterdir():
        path.write_text("text")
    with pytest.raises(DataError, match="none of 3 utterances"):
        evaluate_run(home, model="first", measures=["signal"], jobs=1)
    assert (run / "scores-eval.json").read_bytes() == before


SCORED = ["--measures", "signal", "--f0-min", 90, "--f0-max", 440, "--jobs", 1]


def block(place: Path) -> None:
    (place / "scores-eval.json").mkdir()  # not even root can write a file there


@pytest.mark.parametrize(
    ("forbid", "reason"),
    [(block, "a folder stands there"),
     pytest.param(lambda place: place.chmod(0o500), "no permission", marks=pytest.mark.unprivileged)],
)  # fmt: skip
def test_scores_that_cannot_be_kept_with_their_run_are_shown_and_written_elsewhere(
    home, run, aasvc, tmp_path, forbid, reason
):
    kept, rows = tmp_path / "kept.json", tmp_path / "rows.csv"
    shown = aasvc("evaluate", "--model", "first", *SCORED, "--json", kept).out
    before = read_json(kept, "scores")
    for path in (kept, run / "scores-eval.json"):
        path.unlink()
    forbid(run)
    try:
        done = aasvc("evaluate", "--model", "first", *SCORED, "--json", kept, "--csv", rows)
        result = evaluate_run(home, model="first", jobs=1, **F0)
    finally:
        run.chmod(0o700)
    assert (done.code, done.out) == (1, shown)
    assert done.err.splitlines()[-1].startswith(f"aasvc: error: cannot write {run / 'scores-eval.json'}: {reason}")
    assert "--json FILE" in done.err.splitlines()[-1]
    assert read_json(kept, "scores") == before
    assert len(rows.read_text().splitlines()) == 4
    assert result.path is None and reason in result.unsaved


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device is full here")
@pytest.mark.parametrize("full", ["--csv", "--json", "--report"])
def test_a_full_disk_costs_only_the_file_that_it_has_no_room_for(folders, aasvc, tmp_path, full):
    files = {"--csv": tmp_path / "rows.csv", "--json": tmp_path / "scores.json", "--report": tmp_path / "page.html"}
    pairs = ["evaluate", "--converted", folders[0], "--target", folders[1], *SCORED]
    shown = aasvc(*pairs).out
    others = [path for option, path in files.items() if option != full]
    done = aasvc(*pairs, *(each for item in {**files, full: "/dev/full"}.items() for each in item))
    assert (done.code, done.out) == (1, shown)
    assert done.err.splitlines()[-1].startswith("aasvc: error: cannot write /dev/full: the disk is full")
    assert all(path.stat().st_size > 100 for path in others)


@pytest.mark.unprivileged
def test_marks_of_parts_that_cannot_be_removed_cost_no_scores(folders, home):
    evaluate_folders(*folders, **F0, home=home, shard=Shard(1, 1), jobs=1)
    (mark,) = (home.cache / "evaluate-parts").rglob("*.json")
    mark.parent.chmod(0o500)
    try:
        result = evaluate_folders(*folders, **F0, home=home, jobs=1)
    finally:
        mark.parent.chmod(0o700)
    assert ids(result) == ["a", "b", "c"]
    assert any(str(mark) in note for note in result.notes)


def test_another_set_has_conversions_and_scores_of_its_own(home, run, folders):
    manifest = read_manifest(home, "demo")
    write_manifest(home, replace(manifest, name="other"))
    with pytest.raises(DataError, match=r"nothing converted yet; run: aasvc convert --set eval .* --data other"):
        evaluate_run(home, model="first", data="other", jobs=1)
    shutil.copytree(folders[0], home.results / f"{run.name}_other" / "converted" / "eval")
    result = evaluate_run(home, model="first", data="other", measures=["signal"], jobs=1)
    assert result.path == home.results / f"{run.name}_other" / "scores-eval.json"
    assert not (run / "scores-eval.json").exists()


def test_conversions_of_other_weights_or_of_several_ways_are_noted(home, run):
    write_voice(run, tiny_config())
    converted = sorted((run / "converted" / "eval").iterdir())
    voice = voice_of(run)

    def notes(*comments: str) -> list[str]:
        for path, comment in zip(converted, comments, strict=True):
            wave, rate = soundfile.read(path)
            with soundfile.SoundFile(path, "w", rate, 1) as stream:
                stream.comment = comment
                stream.write(wave)
        result = evaluate_run(home, model="first", measures=["signal"], jobs=1)
        return [note for note in result.notes if "conversions" in note]

    now, before = str(Origin(voice, "0" * 16)), str(Origin("1" * 16, "0" * 16))
    assert notes(now, now, "by hand") == []
    assert "2 of 3 conversions are by other weights" in notes(before, now, before)[0]
    assert "made in 2 ways" in notes(now, now, str(Origin(voice, "2" * 16)))[0]


@pytest.mark.parametrize("n_sources", [1, 2])
def test_voices_are_held_to_the_other_recordings_of_their_own_speakers(n_sources):
    """Each speaker has two recordings with orthogonal voices, so the one left out must not count anywhere."""
    axes = np.eye(2 * (1 + n_sources))
    jobs = {}
    for source in range(n_sources):
        for sentence in range(2):
            outcome = scoring.Outcome(f"s{source}/{sentence}", scores={}, ceiling={}, baseline={})
            target, own = axes[sentence], axes[2 + 2 * source + sentence]
            outcome.voices = {"converted": target, "target": target, "source": own}
            name, recording = outcome.utterance_id, Path(f"target/{sentence}")
            job = scoring.Job(
                name, Path("made"), recording, Path(name), (), 0, 0, ("speaker",), True, ResultCache(None)
            )
            jobs[job] = outcome
    evaluate._compare_voices(jobs, {key.utterance_id: key.utterance_id.split("/")[0] for key in jobs})
    for outcome in jobs.values():
        assert outcome.ceiling["SIM"] == outcome.scores["SIM"] == outcome.baseline["SIM_SOURCE"] == 0.0


def test_a_model_from_elsewhere_is_scored_on_the_set_that_is_named_or_was_prepared_last(home, run):
    (run / "data.json").unlink()
    shutil.move(run / "converted", home.results / f"{run.name}_demo" / "converted")
    assert len(evaluate_run(home, model=run, data="demo", measures=["signal"], jobs=1).utterances) == 3
    assert len(evaluate_run(home, model=run, measures=["signal"], jobs=1).utterances) == 3
    (run / "data.json").write_text("[]")
    with pytest.raises(DataError, match="--data"):
        evaluate_run(home, model=run, jobs=1)


@pytest.mark.process
def test_a_killed_worker_costs_its_own_utterance_only(folders, monkeypatch):
    monkeypatch.setattr(evaluate, "score", _die_at_b)
    result = evaluate_folders(*folders, **F0, jobs=2)
    assert ids(result) == ["a", "c"]
    (failure,) = result.failures
    assert failure.utterance_id == "b"
    assert failure.reason.endswith("b.wav ended unexpectedly; try again with --jobs 1")


def _die_at_b(job: scoring.Job) -> scoring.Outcome:
    if job.utterance_id == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return scoring.score(job)


# -- opinions, voices and texts


class Parrot:
    """A recogniser that hears what it is told to, by the length of the recording, and counts how often it is asked."""

    def __init__(self, texts: dict[int, str], version: int = 1) -> None:
        self.texts, self.asked = texts, 0
        self.description = {"engine": "parrot", "model": "anywhere", "version": version}
        self.known_languages = ["de", "en"]

    def recognise(self, wave: np.ndarray, sample_rate: int, language: str) -> str:
        assert sample_rate == RATE
        assert language == "en"
        self.asked += 1
        if len(wave) == 13000:
            raise DataError("cannot hear this")
        return self.texts[len(wave)]

    def languages(self, wave: np.ndarray, sample_rate: int) -> dict[str, float]:
        return {"en": 0.75, "de": 0.25}


@pytest.fixture
def spoken(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two utterances whose recordings differ in length, and what is said in them."""
    for name, length, target_length in (("x/a", 12000, 12100), ("b", 12200, 12300)):
        write_audio(tmp_path / "converted" / f"{name}.wav", pad(180, length), RATE)
        write_audio(tmp_path / "target" / f"{name}.wav", pad(150, target_length), RATE)
    (tmp_path / "text.txt").write_text("a The cat sat.\nb The grey colour fades!\nc nothing\n", encoding="utf-8")
    return tmp_path / "converted", tmp_path / "target", tmp_path / "text.txt"


def pad(frequency: float, length: int) -> np.ndarray:
    return np.resize(buzz(frequency), length)


HEARD = {12000: "the bat sat", 12100: "the cat sat", 12200: "the gray fades away", 12300: "the gray color fades"}
TEXT_ONLY = {"measures": ["text"], "jobs": 1}


def test_error_rates_are_those_of_the_summed_counts_beside_the_targets_own(spoken, home):
    converted, target, text = spoken
    result = evaluate_folders(converted, target, text=text, home=home, recogniser=Parrot(HEARD), **TEXT_ONLY)
    assert result.corpus["WER"].mean == (1 + 2) / (3 + 4)
    assert result.corpus["WER"].counts == sum(
        (u.transcript.counts["WER"] for u in result.utterances), ErrorCounts(0, 0, 0, 0)
    )
    assert result.ceiling["WER"].mean == 0.0
    by_id = {u.utterance_id: u for u in result.utterances}
    assert by_id["x/a"].scores["WER"] == 1 / 3
    assert by_id["x/a"].text == "The cat sat."
    assert [each.utterance_id for each in result.worst("WER", 1)] == ["b"]
    assert (result.f0_range, list(result.corpus)) == (None, ["CER", "WER"])
    tree = result.to_tree()
    assert tree["recogniser"]["language"] == "en"
    entry = next(each for each in tree["utterances"] if each["id"] == "x/a")
    assert entry["transcript"]["edits"] == [
        ["equal", "the", "the"], ["substitute", "cat", "bat"], ["equal", "sat", "sat"],
    ]  # fmt: skip
    assert entry["target_transcript"]["counts"]["CER"]["substitutions"] == 0


def test_a_recording_is_recognised_once_and_again_only_by_another_recogniser(spoken, home):
    converted, target, text = spoken
    first, again, other = Parrot(HEARD), Parrot(HEARD), Parrot(HEARD, version=2)
    results = [
        evaluate_folders(converted, target, text=text, home=home, recogniser=parrot, **TEXT_ONLY)
        for parrot in (first, again, other)
    ]
    assert (first.asked, again.asked, other.asked) == (4, 0, 4)
    note = "recognised as en, by the sound (75% sure); another language: --language CODE"
    assert all(note in each.notes for each in results)
    assert repr(results[0].utterances) == repr(results[1].utterances)


def test_a_recording_that_cannot_be_recognised_is_named_and_left_out(spoken, home):
    converted, target, text = spoken
    write_audio(converted / "b.wav", pad(180, 13000), RATE)
    result = evaluate_folders(converted, target, text=text, home=home, recogniser=Parrot(HEARD), **TEXT_ONLY)
    assert [(f.utterance_id, f.reason) for f in result.failures] == [("b", "recognition: cannot hear this")]
    assert (result.corpus["WER"].n, result.corpus["WER"].n_undefined) == (1, 1)
    assert result.corpus["WER"].mean == 1 / 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no sentences"),
        ("a\n", "no sentences"),
        ("z hello\n", "none of its sentences belongs"),
        (None, "cannot read"),
    ],
)
def test_texts_that_do_not_fit_are_refused(spoken, content, message):
    converted, target, text = spoken
    text.unlink()
    if content is not None:
        text.write_text(content)
    with pytest.raises(AasvcError, match=message) as caught:
        evaluate_folders(converted, target, text=text, recogniser=Parrot(HEARD), **TEXT_ONLY)
    assert str(text) in str(caught.value)


def test_lines_of_a_text_file_that_are_not_read_are_counted_in_a_note(spoken):
    converted, target, text = spoken
    text.write_text("a the cat sat\nb one two three four\nlonely\n\n", encoding="utf-8")
    result = evaluate_folders(converted, target, text=text, recogniser=Parrot(HEARD), **TEXT_ONLY)
    assert f"{text}: 1 lines are not <id> <sentence>: 3" in result.notes


def test_what_cannot_be_computed_is_left_out_with_one_line_that_says_how_to_get_it(spoken, monkeypatch):
    converted, target, _ = spoken
    monkeypatch.setattr(listeners, "PACKAGES", dict.fromkeys(("text", "mos", "speaker"), ("no_such_package",)))
    result = evaluate_folders(converted, target, measures=["all"], **RANGE, jobs=1)
    reasons = {skipped.what: skipped.reason for skipped in result.skipped}
    assert "pip install 'aasvc[mos]'" in reasons["DNSMOS"]
    assert "pip install 'aasvc[mos]'" in reasons["speaker similarity"]
    assert "pip install 'aasvc[asr]'" in reasons["CER, WER"]
    assert not {"SIM", "DNSMOS", "CER"} & set(result.corpus)
    with pytest.raises(DataError, match=r"speaker similarity: not installed: no_such_package"):
        evaluate_folders(converted, target, measures=["sim"], jobs=1)


def test_without_sentences_or_a_recogniser_the_reason_is_said(spoken):
    converted, target, _ = spoken
    missing = "--asr-model" if importlib.util.find_spec("faster_whisper") else "pip install 'aasvc[asr]'"
    for options, reason in (({}, missing), ({"recogniser": Parrot(HEARD)}, "--text FILE")):
        result = evaluate_folders(converted, target, measures=["signal", "cer"], **RANGE, jobs=1, **options)
        assert [skipped.what for skipped in result.skipped] == ["CER, WER"]
        assert reason in result.skipped[0].reason


def test_an_unknown_measure_is_refused_with_the_known_ones(folders):
    with pytest.raises(DataError, match="no measure 'mdc'; there are all, signal, text, mos, speaker, MCD,"):
        evaluate_folders(*folders, measures=["mdc"])


@pytest.mark.parametrize(
    ("asked", "mode", "names", "modes"),
    [
        (["MCD"], "both", ["MCD"], ["published"]),
        (["ddur-corrected", "mcd"], "both", ["MCD", "DDUR_corrected"], ["published", "corrected"]),
        (["rate"], "both", ["RATE"], ["corrected"]),
        (["f0rmse_corrected"], "corrected", ["F0RMSE_corrected"], ["corrected"]),
        (["signal", "MCD"], "published", ["MCD", "F0RMSE", "F0CORR", "DDUR", "GV"], ["published"]),
    ],
)
def test_measures_that_are_named_are_computed_and_shown_alone(folders, asked, mode, names, modes):
    everything = evaluate_folders(*folders, source=folders[1], **F0, jobs=1)
    result = evaluate_folders(*folders, source=folders[1], **{**F0, "measures": asked}, mode=mode, jobs=1)
    assert [measure.name for measure in result.measures] == names
    assert list(result.definitions) == modes
    assert repr(result.corpus) == repr({name: everything.corpus[name] for name in result.corpus})
    assert repr(result.baseline) == repr({name: everything.baseline[name] for name in result.corpus})
    for one, whole in zip(result.utterances, everything.utterances, strict=True):
        assert sorted(one.scores) == sorted(one.baseline) == sorted(names)
        assert repr(one.scores) == repr({name: whole.scores[name] for name in one.scores})


def test_the_table_of_one_measure_has_no_other(folders, aasvc, tmp_path):
    rows = tmp_path / "rows.csv"
    pairs = ["--converted", folders[0], "--target", folders[1], "--f0-min", 90, "--f0-max", 440, "--jobs", 1]
    done = aasvc("evaluate", *pairs, "--measures", "mcd", "--csv", rows)
    assert done.code == 0, done.err
    assert [line.split()[:4] for line in done.out.splitlines() if line.startswith("utterance")] == [
        ["utterance", "MCD", "[dB]"]
    ]
    assert rows.read_text().splitlines()[0] == "system,id,MCD,text,recognised,converted,target"


def test_one_error_rate_is_shown_without_the_others(spoken, home):
    converted, target, text = spoken
    options = {"recogniser": Parrot(HEARD), "measures": ["wer"], "jobs": 1}
    result = evaluate_folders(converted, target, text=text, home=home, **options)
    assert result.corpus["WER"].mean == (1 + 2) / (3 + 4)
    assert list(result.corpus) == list(result.ceiling) == ["WER"]
    assert all(list(u.transcript.counts) == ["WER"] == list(u.scores) for u in result.utterances)


def test_a_measure_that_the_definition_does_not_have_is_refused(folders):
    for name, mode in (("mcd", "corrected"), ("vuv", "published")):
        with pytest.raises(DataError, match=f"measure {name!r} is one of mode .*, not of {mode}"):
            evaluate_folders(*folders, measures=["signal", name], mode=mode)
    with pytest.raises(DataError, match="no measures were asked for"):
        evaluate_folders(*folders, measures=[])
    with pytest.raises(DataError, match="speaker similarity: (no source recordings|not installed)"):
        evaluate_folders(*folders, measures=["sim-source"])


def test_similarity_is_to_the_mean_of_the_other_recordings(folders, monkeypatch, tmp_path):
    """Voices made up from the pitch of the recording, so that the means are known."""

    def voice(wave: np.ndarray, _rate: int) -> np.ndarray | None:
        angle = np.argmax(np.abs(np.fft.rfft(wave, RATE))) / 400.0
        return np.array([np.cos(angle), np.sin(angle)])

    monkeypatch.setattr(listeners, "voice_embedding", voice)
    monkeypatch.setattr(listeners, "missing_for", lambda group: None)
    monkeypatch.setattr(scoring, "_installed", lambda package: package)
    shutil.copytree(folders[0], tmp_path / "source")
    result = evaluate_folders(*folders, source=tmp_path / "source", measures=["speaker"], jobs=1)
    by_id = {u.utterance_id: u for u in result.utterances}
    # the target's other recordings of a are b (200 Hz) and c (220 Hz): their mean is at 210 Hz
    assert by_id["a"].scores["SIM"] == pytest.approx(math.cos((210 - 180) / 400))
    assert by_id["a"].ceiling["SIM"] == pytest.approx(math.cos((210 - 150) / 400))
    assert by_id["a"].scores["SIM_SOURCE"] == pytest.approx(math.cos((205 - 180) / 400))
    assert by_id["a"].baseline["SIM"] == by_id["a"].scores["SIM"]  # the source is the conversion here
    assert result.baseline["SIM"].n == 3


# -- what is kept


def test_a_second_evaluation_analyses_nothing_and_finds_the_same(folders, home, monkeypatch):
    first = evaluate_folders(*folders, **F0, home=home, jobs=1)
    calls: list[int] = []
    real = metrics.analyse
    monkeypatch.setattr(metrics, "analyse", lambda *a, **k: calls.append(1) or real(*a, **k))
    again = evaluate_folders(*folders, **F0, home=home, jobs=1)
    assert not calls
    assert repr(again) == repr(first)
    write_audio(folders[0] / "a.wav", buzz(190), RATE)  # another content: analysed again, in both modes
    changed = evaluate_folders(*folders, **F0, home=home, jobs=1)
    assert len(calls) == 2
    assert changed.utterances[0].scores != first.utterances[0].scores
    evaluate_folders(*folders, f0_min=100.0, f0_max=440.0, measures=["signal"], home=home, jobs=1)
    assert len(calls) == 2 + 12  # another range: everything


def test_damaged_entries_are_made_anew(folders, home):
    first = evaluate_folders(*folders, **F0, home=home, jobs=1)
    kept = [path for path in home.cache.rglob("*") if path.is_file()]
    assert len(kept) == 15  # five contents: pitch, and two modes; the conversions of a and b are the same sound
    for path in kept[::2]:
        path.write_bytes(path.read_bytes()[:100])
    for path in kept[1::2]:  # one bit of one value
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert repr(evaluate_folders(*folders, **F0, home=home, jobs=1)) == repr(first)


# -- two systems


def test_two_systems_are_compared_on_the_utterances_that_both_have(folders, tmp_path):
    converted, target = folders
    better = tmp_path / "better"
    for name, frequency in (("a", 160), ("b", 195)):  # 10 and 5 Hz off; the first system is 30 and 20 Hz off
        write_audio(better / f"{name}.wav", buzz(frequency), RATE)
    options = {"jobs": 1, **F0}
    first, second = evaluate_folders(converted, target, **options), evaluate_folders(better, target, **options)
    comparison = compare_results(first, second)
    found = {each.measure.name: each for each in comparison.differences}["F0RMSE"]
    assert (found.first, found.second, found.difference) == pytest.approx((25, 7.5, -17.5), abs=0.5)
    assert (found.better, found.n) == (2, 2)
    assert (comparison.only_first, comparison.only_second) == (("c",), ())
    tree = json.loads(json.dumps(comparison.to_tree(), allow_nan=False))
    assert [system["name"] for system in tree["systems"]] == [str(converted), str(better)]
    rows = list(comparison.rows())
    assert len(rows) == 1 + 3 + 2
    assert len({len(row) for row in rows}) == 1


def test_a_threshold_on_what_was_not_computed_fails(folders):
    result = evaluate_folders(*folders, **F0, jobs=1)
    lines = crossed(result, [parse_threshold(text) for text in ("f0rmse>15", "f0rmse>25", "cer>0.5")])
    assert re.fullmatch(r"f0rmse>15: F0RMSE is (19|20)\.\d+", lines[0])
    assert lines[1] == "cer>0.5: CER was not computed"
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("condition", "given", "takes"),
    [
        ("cer>0.2", [], "CER would not be computed; it takes --asr-model base --text FILE"),
        ("cer>0.2", ["--text", "text.txt"], "it takes --asr-model base"),
        ("wer>20%", ["--asr-model", "base"], "it takes --text FILE"),
        ("cer>0.2", ["--measures", "signal"], "it takes --measures signal,CER --asr-model base --text FILE"),
        ("dnsmos<3", [], "it takes --measures signal,text,speaker,DNSMOS"),
        ("mcd>7", ["--measures", "text"], "it takes --measures text,MCD"),
        ("f0rmse>9", ["--measures", "mcd"], "it takes --measures mcd,F0RMSE"),
        ("mcd>7", ["--mode", "corrected"], "it takes --mode both"),
        ("vuv>0.1", ["--mode", "published"], "V/UV error would not be computed; it takes --mode both"),
        ("sim_source>0.9", [], "it takes --source DIR"),
        ("kana_cer>0.1", ["--language", "en", "--asr-model", "base", "--text", "t"], "it takes --language ja"),
    ],
)
def test_a_condition_on_what_will_not_be_computed_is_refused_before_any_work(
    folders, aasvc, monkeypatch, condition, given, takes
):
    monkeypatch.setattr(evaluate, "_evaluate", None)  # which would fail
    monkeypatch.setattr(listeners, "Whisper", None)
    done = aasvc("evaluate", "--converted", folders[0], "--target", folders[1], "--fail-if", condition, *given)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"aasvc: error: --fail-if {condition}: ") and takes + " (help" in line


def test_a_condition_on_what_this_machine_cannot_compute_is_refused_before_any_work(folders, run, aasvc, monkeypatch):
    monkeypatch.setattr(evaluate, "score", None)
    monkeypatch.setattr(listeners, "PACKAGES", {"mos": ("no_such_package",), "speaker": ("no_such_package",)})
    pairs = ["--converted", folders[0], "--target", folders[1], "--f0-min", 90, "--f0-max", 440, "--jobs", 1]
    for measures, condition, reason in (
        ("all", "dnsmos<3", "DNSMOS cannot be computed: DNSMOS: not installed: no_such_package; run: pip install"),
        ("signal,speaker", "sim<0.8", "similarity cannot be computed: speaker similarity: not installed"),
    ):
        done = aasvc("evaluate", *pairs, "--measures", measures, "--fail-if", condition)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert reason in done.err
    monkeypatch.setattr(listeners, "Whisper", lambda *_, **__: Parrot(HEARD))  # the run has no sentences
    done = aasvc("evaluate", "--model", "first", "--asr-model", "base", "--fail-if", "cer>0.2", "--jobs", 1)
    assert (done.code, done.out) == (1, "")
    assert "CER cannot be computed: CER, WER: no sentences are known; give them with --text FILE" in done.err


def test_a_language_that_the_recogniser_does_not_know_is_wrong_usage(spoken, aasvc, monkeypatch):
    monkeypatch.setattr(listeners, "Whisper", lambda *_, **__: Parrot(HEARD))
    monkeypatch.setattr(evaluate, "score", None)
    converted, target, text = spoken
    done = aasvc(
        "evaluate", "--converted", converted, "--target", target, "--text", text, "--asr-model", "base",
        "--language", "klingon",
    )  # fmt: skip
    assert (done.code, done.out) == (2, "")
    assert "--language klingon: base does not know it; expected a code such as de, en (help" in done.err


def test_a_condition_on_what_is_computed_is_no_reason_to_refuse(spoken, aasvc, monkeypatch):
    monkeypatch.setattr(listeners, "Whisper", lambda *_, **__: Parrot(HEARD))
    converted, target, text = spoken
    pairs = ["--converted", converted, "--target", target, "--text", text, "--asr-model", "base", *SCORED[2:]]
    done = aasvc("evaluate", *pairs, "--measures", "text,mcd", "--fail-if", "wer>0.4", "--fail-if", "mcd<0")
    assert done.code == 1
    assert done.err.splitlines()[-1] == f"aasvc: error: fails wer>0.4: WER is {3 / 7:.6g}"


def test_two_runs_are_compared_by_their_tags_with_the_test_that_scipy_makes_of_their_scores(home, tmp_path, aasvc):
    from scipy.stats import wilcoxon

    offsets = {"first": [30, 25, 40, 8, 35, 22, 28], "second": [12, 27, 10, 9, 11, 5, 13]}  # Hz from the target
    names = [f"u{number}" for number in range(7)]
    pairs = []
    for number, name in enumerate(names):
        path = tmp_path / "target" / f"{name}.flac"
        write_audio(path, buzz(150 + 7 * number, 0.3), RATE)
        pairs.append(ParallelPair(name, source=path, target=path))
        for tag, off in offsets.items():
            converted = home.exp / f"male_female_{tag}" / "converted" / "eval" / f"{name}.wav"
            write_audio(converted, buzz(150 + 7 * number + off[number], 0.3), RATE)
    (home.exp / "male_female_second" / "converted" / "eval" / "u3.wav").unlink()
    for tag in offsets:
        (home.exp / f"male_female_{tag}" / "data.json").write_text('{"prepared": "demo"}')
    write_manifest(home, Manifest("demo", "male", "female", Config(), {"train": (), "dev": (), "eval": tuple(pairs)}))

    def compared(*systems: str) -> dict:
        out = tmp_path / "out.json"
        done = aasvc(
            "evaluate", *systems, "--measures", "signal", "--jobs", 1, "--json", out, "--csv", tmp_path / "csv"
        )
        assert done.code == 0, done.err
        assert "1 utterance that the other does not have: u3" in done.err
        return json.loads(out.read_text())

    tree = compared("first", "second")
    assert [system["name"] for system in tree["systems"]] == ["male_female_first eval", "male_female_second eval"]
    assert (tree["only_first"], tree["only_second"]) == (["u3"], [])
    scores = [{each["id"]: each["scores"] for each in system["utterances"]} for system in tree["systems"]]
    shared = [name for name in names if name != "u3"]
    checked = 0
    for difference in tree["differences"]:
        a, b = (np.array([side[name][difference["measure"]] for name in shared], dtype=float) for side in scores)
        if not np.isfinite([a, b]).all():
            continue
        assert difference["n"] == 6
        assert difference["difference"] == pytest.approx(np.mean(b - a), abs=1e-12)
        assert difference["low"] <= difference["difference"] <= difference["high"]
        if BY_NAME[difference["measure"]].best in ("low", "high") and (a != b).any():
            expected = wilcoxon(a, b, zero_method="pratt", method="auto").pvalue
            assert difference["p"] == pytest.approx(expected, abs=1e-12)
            checked += 1
    assert checked >= 6
    found = {each["measure"]: each for each in tree["differences"]}["F0RMSE_corrected"]
    assert found["better"] == 2
    assert found["p"] == pytest.approx(2 * 2 / 2**6)  # of 64 signs only two are as rare as one small rank against five
    # the other way round: the same test, the opposite difference
    mirrored = {each["measure"]: each for each in compared("second", "first")["differences"]}["F0RMSE_corrected"]
    assert (mirrored["better"], mirrored["p"]) == (1, found["p"])
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((-found["high"], -found["low"]))
