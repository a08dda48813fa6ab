"""From recordings, scores and logs to the data of the page."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.measures.catalogue import BY_NAME
from aasvc_cli.measures.results import Comparison, EvaluateResult, Skipped, UtteranceScores
from aasvc_cli.measures.signal import F0Range
from aasvc_cli.measures.statistics import compare, summarise_scores
from aasvc_cli.measures.transcripts import Transcript, align, count_edits, group_edits
from aasvc_cli.report import collect
from aasvc_cli.report import page as page_module
from aasvc_cli.report.page import render
from tests.pages import RATE, parse, tone

NAMES = ["dev_0660", "dev_0661", "dev_0662", "dev_0663"]
MCD = dict(zip(NAMES, [5.0, 7.0, 6.0, 8.0], strict=True))


def heard(reference: str, recognised: str, words: bool = False) -> Transcript:
    split = (lambda text: text.split()) if words else list  # type: ignore[assignment]
    alignment = align(split(reference), split(recognised))
    name = "WER" if words else "CER"
    return Transcript(
        recognised, reference, recognised, {name: count_edits(alignment)}, group_edits(alignment, " " if words else "")
    )


@pytest.fixture(scope="module")
def result(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    """Made-up scores of the beginnings of real recordings; the target's own pass for conversions."""
    wav = {side: tmp_path_factory.mktemp(side) for side in ("male", "female")}
    for side, folder in wav.items():
        for index, name in enumerate(NAMES):
            wave, rate = read_audio(demo_corpus / side / "wav" / "dev" / f"{name}.ogg")
            write_audio(folder / f"{name}.ogg", wave[: rate + index * rate // 10], rate)
    utterances = tuple(
        UtteranceScores(
            name, wav["female"] / f"{name}.ogg", wav["female"] / f"{name}.ogg", 24000,
            {"MCD": mcd, "MCD_corrected": mcd - 1, "CER": 10.0}, wav["male"] / f"{name}.ogg",
            {"MCD": mcd + 5}, {"CER": 1.0}, f"text of {name}", heard("abcd", "axd"), heard("abcd", "abcd"),
        )
        for name, mcd in MCD.items()
    )  # fmt: skip
    return EvaluateResult(
        name="a run",
        f0_range=F0Range(90.0, 440.0, "given"),
        definitions={"published": "as it was"},
        analysis=(),
        utterances=utterances,
        corpus=summarise_scores([each.scores for each in utterances]),
        baseline=summarise_scores([each.baseline or {} for each in utterances]),
        ceiling=summarise_scores([each.ceiling or {} for each in utterances]),
        skipped=(Skipped("DNSMOS", "not installed; run: pip install"),),
        without_conversion=("dev_0669",),
    )


# --- the page of an evaluation --------------------------------------------------------------------------------------


def test_the_page_of_a_system_has_its_scores_references_and_recordings(result: EvaluateResult):
    page = collect.evaluation_page(result)
    assert [(system.key, system.reference) for system in page.systems] == [
        ("system-1", False), ("source", True), ("target", True),
    ]  # fmt: skip
    assert page.systems[0].means["MCD"].mean == pytest.approx(6.5)
    assert page.systems[1].means["MCD"].mean == pytest.approx(11.5)
    for utterance in page.utterances:
        assert utterance.scores["system-1"]["MCD"] == MCD[utterance.utterance_id]
        assert utterance.text == f"text of {utterance.utterance_id}"
        assert [take.role for take in utterance.takes] == ["source", "conversion", "target"]
    assert any("DNSMOS" in note and "pip install" in note for note in page.notes)
    assert any("dev_0669" in note for note in page.notes)


def test_published_and_corrected_scores_do_not_count_twice_in_the_ranking(result: EvaluateResult):
    ranked = {measure.name for measure in collect.evaluation_page(result, n_utterances=0).measures if measure.ranked}
    assert ranked == {"MCD", "CER"}


def test_two_systems_share_source_and_target_and_differ_in_their_conversions(result: EvaluateResult):
    second = dataclasses.replace(
        result,
        utterances=tuple(
            dataclasses.replace(each, scores={**each.scores, "MCD": each.scores["MCD"] + 1})
            for each in result.utterances
        ),
    )
    values = [[each.scores["MCD"] for each in one.utterances] for one in (result, second)]
    page = collect.evaluation_page(Comparison(result, second, (compare(BY_NAME["MCD"], *values),), (), ()))
    assert [system.name for system in page.judged] == ["a run (1)", "a run (2)"]
    assert [(take.role, take.system) for take in page.utterances[0].takes] == [
        ("source", ""), ("conversion", "system-1"), ("conversion", "system-2"), ("target", ""),
    ]  # fmt: skip
    assert page.differences[0].difference == pytest.approx(1.0)
    assert page.differences[0].better == 1
    assert len(parse(render(page)).find("audio")) == 4 * len(NAMES)


def test_systems_are_called_as_briefly_as_tells_them_apart(result: EvaluateResult, tmp_path: Path):
    def names(*changes: dict[str, object]) -> list[str]:
        systems = [dataclasses.replace(result, **each) for each in changes]  # type: ignore[arg-type]
        page = collect.evaluation_page(Comparison(systems[0], systems[1], (), (), ()), n_utterances=0)
        return [system.name for system in page.judged]

    assert names({"name": "/data/x/one"}, {"name": "/data/y/two"}) == ["one", "two"]
    assert names({"name": "/data/x/one"}, {"name": "/data/y/one"}) == ["/data/x/one", "/data/y/one"]
    run = {"name": "a_b_first eval", "folder": tmp_path / "a_b_first"}
    assert names(run, {"name": "/data/y/two"}) == ["a_b_first", "two"]
    assert names(run, {"name": "a_b_second eval", "folder": tmp_path / "a_b_second"}) == ["first", "second"]
    assert names(run, {**run, "name": "a_b_first dev"}) == ["a_b_first eval", "a_b_first dev"]


def test_the_recogniser_is_named_without_the_folders_of_a_machine(result: EvaluateResult):
    description = {"engine": "whisper", "model": "/somewhere/base", "identity": "123", "language": "ja", "reader": None}
    facts = dict(collect.evaluation_page(dataclasses.replace(result, recogniser=description), n_utterances=0).facts)
    assert facts["Speech recognition"] == "whisper, base, ja"


def test_only_the_wanted_number_of_utterances_can_be_heard_and_the_page_says_so(result: EvaluateResult):
    told: list[tuple[int, int]] = []
    page = collect.evaluation_page(result, n_utterances=2, on_progress=lambda *done: told.append(done))
    assert {u.utterance_id for u in page.utterances if u.takes} == {"dev_0660", "dev_0663"}  # the best and the worst
    assert len(page.utterances) == len(NAMES)
    assert any("2 of 4 utterances" in note for note in page.notes)
    assert told == [(1, 2), (2, 2)]


def test_a_page_never_outgrows_its_size_but_has_one_utterance(result: EvaluateResult, monkeypatch: pytest.MonkeyPatch):
    whole = collect.evaluation_page(result)
    sizes = {u.utterance_id: sum(len(take.sound.data) * 4 // 3 for take in u.takes) for u in whole.utterances}
    assert not any("utterances (" in note for note in whole.notes)
    monkeypatch.setattr(collect, "MAX_SOUND_BYTES", sizes["dev_0663"] + sizes["dev_0661"] + 10)
    page = collect.evaluation_page(result)
    assert [u.utterance_id for u in page.utterances if u.takes] == ["dev_0661", "dev_0663"]  # the worst come first
    assert any("2 of 4 utterances (more would not fit" in note for note in page.notes)
    monkeypatch.setattr(collect, "MAX_SOUND_BYTES", 10)
    assert [u.utterance_id for u in collect.evaluation_page(result).utterances if u.takes] == ["dev_0663"]


def test_a_recording_that_has_gone_is_named_and_the_others_are_there(result: EvaluateResult, tmp_path: Path):
    gone = dataclasses.replace(result.utterances[0], source=tmp_path / "gone.wav")
    page = collect.evaluation_page(dataclasses.replace(result, utterances=(gone, *result.utterances[1:])))
    assert [take.role for take in page.utterances[0].takes] == ["conversion", "target"]
    assert any("gone.wav" in note for note in page.notes)


def test_a_run_shows_its_alignment_and_its_curves(result: EvaluateResult, tmp_path: Path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"kind": "dev", "step": 1, "l1": 0.5}\n', encoding="utf-8")
    run = dataclasses.replace(result, folder=tmp_path, log=log, utterances=result.utterances[:1])
    weights = np.eye(3)
    asked = []
    page = collect.evaluation_page(run, aligners={tmp_path: lambda *pair: asked.append(pair) or (weights, [0, 1, 2])})
    each = result.utterances[0]
    assert asked == [(each.source, each.target)]
    (alignment,) = page.utterances[0].alignments
    assert (alignment.weights is weights, alignment.path) == (True, [0, 1, 2])
    assert [curve.name for curve in page.trainings[0].curves] == ["l1"]
    assert collect.evaluation_page(run).utterances[0].alignments == ()


# --- choice ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 70))
def test_the_choice_is_as_large_as_wanted_unique_and_begins_with_the_worst_and_the_best(n_all: int, count: int):
    names = [f"u{i}" for i in range(n_all)]
    chosen = collect.representative(names, count)
    assert len(chosen) == len(set(chosen)) == min(n_all, count)
    assert set(chosen) <= set(names)
    if 2 <= count < n_all:
        assert chosen[:2] == [names[-1], names[0]]


def test_the_choice_spreads_over_the_middle():
    chosen = collect.representative([str(i) for i in range(100)], 12)
    middle = sorted(int(name) for name in chosen if 4 <= int(name) < 96)
    assert len(middle) == 4
    assert np.diff([4, *middle, 96]).max() <= 2 * 92 / 4


# --- sounds and contours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [8000, 16000, 20000, 24000, 44100, 48000, 96000])
def test_sounds_keep_their_length_and_their_pitch_at_every_rate(sample_rate: int):
    time = np.arange(sample_rate) / sample_rate
    encoded = collect.sound((0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), sample_rate)
    assert encoded.media_type == "audio/mpeg"
    assert len(encoded.data) < 21_000
    wave, rate = soundfile.read(io.BytesIO(encoded.data))
    assert len(wave) / rate == pytest.approx(1.0, abs=0.002)
    peak = np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave))))) * rate / len(wave)
    assert peak == pytest.approx(440.0, abs=1.5)


def test_without_mp3_in_libsndfile_sounds_are_lossless(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"FLAC": "", "WAV": ""})
    wave = tone(0.5, 200)
    encoded = collect.sound(wave, RATE)
    assert encoded.media_type == "audio/flac"
    np.testing.assert_allclose(soundfile.read(io.BytesIO(encoded.data))[0], wave, atol=2**-15)


@pytest.mark.parametrize("f0", [80.0, 150.0, 300.0])
def test_the_contour_of_a_tone_is_its_pitch(f0: float):
    contour = collect.f0_contour(tone(1.0, f0), RATE, (60.0, 500.0))
    assert len(contour) == pytest.approx(200, abs=2)
    assert np.median(contour[contour > 0]) == pytest.approx(f0, rel=0.01)
    assert not collect.f0_contour(np.zeros(RATE, np.float32), RATE, (60.0, 500.0)).any()


def test_the_drawn_range_holds_the_voices_and_has_a_default_for_silence():
    low, high = collect.drawn_range([np.array([0.0, 100.0, 200.0]), np.array([400.0])])
    assert low < 100.0 < 400.0 < high < 600.0
    assert collect.drawn_range([np.zeros(5)]) == collect.WIDE_F0_RANGE


def test_a_silent_or_very_short_recording_has_a_place_on_the_page(tmp_path: Path):
    for name, wave in (("silent", np.zeros(RATE)), ("short", np.full(20, 0.1))):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, wave, RATE)
        take = collect.take("source", name, path)
        assert take.seconds == len(wave) / RATE
        assert take.mel is not None
        assert np.isfinite(take.mel).all()


# --- transcripts and curves -----------------------------------------------------------------------------------------


def test_transcripts_of_characters_join_and_those_of_words_stand_apart():
    characters = page_module._pieces(heard("今日は雨", "今日雨だ"))
    assert "".join(piece.reference for piece in characters) == "今日は雨"
    assert "".join(piece.recognised for piece in characters) == "今日雨だ"
    transcript = heard("the quick brown fox", "the quack brown", words=True)
    words = page_module._pieces(transcript)
    assert "".join(piece.reference for piece in words) == "the quick brown fox"
    assert [piece.to_tree() for piece in words if piece.kind != "equal"] == [
        ["substitute", "quick", "quack"], ["delete", "fox", ""],
    ]  # fmt: skip
    assert page_module._errors(transcript) == "WER 0.500 (1 changed, 1 missing)"


def test_the_curves_of_a_log_are_its_values_and_broken_lines_are_left_out(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    entries = [
        {"kind": "train", "step": 1, "l1": 2.0, "lr": 0.1, "seconds": 3.0},
        {"kind": "dev", "step": 1, "l1": 1.5},
        {"kind": "train", "step": 2, "l1": 1.0, "lr": 0.2, "note": "text"},
    ]
    log.write_text("\n".join(map(json.dumps, entries)) + '\nnot JSON\n[1]\n{"kind": "dev", "st', encoding="utf-8")
    training = collect.training_of(log, "run", 1)
    assert training is not None
    assert [(c.name, list(c.train), list(c.dev)) for c in training.curves] == [
        ("l1", [(1, 2.0), (2, 1.0)], [(1, 1.5)]),
    ]  # fmt: skip
    log.write_text('{"kind": "train", "step": 1, "lr": 0.1}\n', encoding="utf-8")
    training = collect.training_of(log, "run")
    assert training is not None
    assert [curve.name for curve in training.curves] == ["lr"]
    log.write_text(  # a vocoder: losses here, other measures there
        '{"kind": "train", "step": 1, "stage": "pitch", "total": 3.0}\n{"kind": "dev", "step": 1, "log_mel": 0.5}\n',
        encoding="utf-8",
    )
    training = collect.training_of(log, "run")
    assert training is not None
    assert [(curve.name, list(curve.train), list(curve.dev)) for curve in training.curves] == [
        ("total", [(1, 3.0)], []), ("log mel", [], [(1, 0.5)]),
    ]  # fmt: skip
    log.write_text("", encoding="utf-8")
    assert collect.training_of(log, "run") is collect.training_of(tmp_path / "none", "run") is None


def test_the_page_of_a_training_shows_steps_in_order_and_names_recordings_that_have_gone(tmp_path: Path):
    made = {}
    for step in (1000, 20):
        made[step] = tmp_path / f"{step}.wav"
        soundfile.write(made[step], tone(0.3, 200), RATE)
    log = tmp_path / "log.jsonl"
    log.write_text('{"kind": "dev", "step": 20, "l1": 0.5}\n', encoding="utf-8")
    recordings = {"u": (tmp_path / "gone.wav", made[20])}
    page = collect.preview_page("a run", recordings, {"u": made}, {}, log=log, best_step=20)
    assert page.title == "a run, step 1,000"
    assert [take.label for take in page.utterances[0].takes] == ["step 20", "step 1,000", "target"]
    assert "gone.wav" in page.notes[0]
    assert page.trainings[0].best_step == 20
    assert len(parse(render(page)).find("audio")) == 3


def test_a_page_written_to_disk_can_be_read_without_the_recordings(result: EvaluateResult, tmp_path: Path):
    html = render(collect.evaluation_page(result, n_utterances=1))
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    assert str(result.utterances[0].converted.parent) not in re.sub(r"base64,[\w+/=]+", "", path.read_text("utf-8"))
