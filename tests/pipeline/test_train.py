"""``train`` on a prepared corpus: files, exact resume, interruptions, refusals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.reading import override, parse_config, read_preset, to_tree
from aasvc_cli.config.settings import Config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.conversion.voice import read_voice
from aasvc_cli.data.dataset import Batch
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.errors import AasvcError, ConfigError, DataError, ModelError, TrainingError
from aasvc_cli.features.kinds import KINDS, FeatureKind, with_widths
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.pipeline.train import base_layers, beginning, train
from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.home import Home
from aasvc_cli.training.batch_size import Fit
from aasvc_cli.training.progress import TrainingReport
from aasvc_cli.training.rehearsal import Plan
from aasvc_cli.training.voice_run import TrainResult
from aasvc_cli.training.voice_trainer import LOSS_NAMES, Trainer
from tests.pages import parse


def _config(home: Home, **changes: object) -> Config:
    config = read_manifest(home).config
    settings = {"max_steps": 4, "eval_every": 2, "save_every": 3, "log_every": 1, "ema_decay": 0.9, **changes}
    return override(config, {f"train.{key}": value for key, value in settings.items()})


def read_conf(path: Path) -> Config:
    return parse_config(read_config_file(path), str(path))


def _log(folder: Path) -> list[dict[str, float]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def test_a_run_that_reached_its_end_ranks_its_pairs_by_how_badly_they_align(trained: Home):
    result = train(trained, _config(trained, max_steps=2), tag="ranked")
    names, *rows = [line.split("\t") for line in (result.folder / "ranking.tsv").read_text().splitlines()]
    assert names == ["pair", "alignment_loss", "verdict"]
    assert {row[0] for row in rows} == {pair.utterance_id for pair in read_manifest(trained).sets["train"]}
    losses = [float(row[1]) for row in rows]
    assert losses == sorted(losses, reverse=True) and min(losses) > 0
    stopped = train(trained, _config(trained, max_steps=2), tag="stopped", should_stop=lambda: True)
    assert not (stopped.folder / "ranking.tsv").exists()


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.safetensors")[0]


def test_a_run_leaves_a_model_folder_with_log_and_checkpoints(trained: Home):
    reports: list[TrainingReport] = []
    result = train(trained, _config(trained), tag="whole", on_report=reports.append)
    assert isinstance(result, TrainResult) and result.step == 4 and not result.stopped
    assert result.folder == trained.exp / "male_female_whole"
    assert {path.name for path in result.folder.iterdir()} >= {
        "config.yaml",
        "data.json",
        "stats.json",
        "log.jsonl",
        "last.safetensors",
        "best.safetensors",
        "checkpoints.json",
        "ranking.tsv",
    }
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert [report.step for report in reports if report.dev] == [2, 4]
    first, best = (report for report in reports if report.dev)
    assert first.dev and best.dev and best.dev["l1"] < 1.02 * first.dev["l1"]
    assert result.best_step == best.step and result.best_dev == best.dev
    assert load_checkpoint(result.folder / "best.safetensors")[1]["step"] == best.step
    told = json.loads((result.folder / "checkpoints.json").read_text())
    assert (told["last"]["step"], told["best"]["step"], told["best"]["dev"]) == (4, best.step, best.dev)


def test_a_run_interrupted_again_and_again_ends_with_the_same_bits_as_an_uninterrupted_one(trained: Home):
    config = _config(trained, accum=2)
    whole = train(trained, config, tag="whole")
    messages: list[str] = []
    seen: list[int] = []
    for stop_at in (1, 2, 3):  # before, at and after a measurement, and at a checkpoint
        stopped = train(
            trained,
            config,
            tag="parts",
            on_message=messages.append,
            on_report=lambda report: seen.append(report.step),
            should_stop=lambda stop_at=stop_at: seen[-1:] == [stop_at],  # type: ignore[misc]
        )
        assert stopped.stopped and stopped.step == stop_at
    resumed = train(trained, config, tag="parts", on_message=messages.append)
    assert messages == [f"resuming {resumed.folder} at step {step}" for step in (1, 2, 3)]
    assert _log(resumed.folder) == _log(whole.folder)
    expected, found = _tensors(whole.folder), _tensors(resumed.folder)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert (resumed.best_step, resumed.best_dev) == (whole.best_step, whole.best_dev)


def test_log_lines_from_behind_the_last_checkpoint_are_dropped(trained: Home):
    config = _config(trained)
    whole = train(trained, config, tag="whole")
    expected = _log(whole.folder)

    def crash(report: TrainingReport) -> None:
        if report.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(trained, config, tag="crash", on_report=crash)
    folder = trained.exp / "male_female_crash"
    assert load_checkpoint(folder / "last.safetensors")[1]["step"] == 3
    train(trained, config, tag="crash")
    assert _log(folder) == expected


def test_a_longer_run_continues_a_shorter_one(trained: Home):
    train(trained, _config(trained, max_steps=2), tag="grow")
    told: list[str] = []
    assert train(trained, _config(trained, max_steps=4), tag="grow", on_message=told.append).step == 4
    assert not any("nothing to do" in message for message in told)
    assert train(trained, _config(trained, max_steps=3), tag="grow", on_message=told.append).step == 4
    assert told[-1] == "nothing to do: the run is at step 4 of 3; a larger --max-steps trains on"


def test_a_run_with_other_settings_is_not_overwritten_unless_asked(trained: Home):
    first = train(trained, _config(trained, max_steps=2), tag="mine")
    before = _tensors(first.folder)
    with pytest.raises(ConfigError, match=r"train\.lr: 0\.001 there, 0\.01 now.*--tag, or --overwrite"):
        train(trained, _config(trained, max_steps=2, lr=0.01), tag="mine")
    assert all(torch.equal(before[name], tensor) for name, tensor in _tensors(first.folder).items())
    train(trained, _config(trained, max_steps=2, lr=0.01), tag="mine", overwrite=True)
    assert not torch.equal(before["model.output.weight"], _tensors(first.folder)["model.output.weight"])


def test_overwrite_does_not_delete_a_folder_that_is_no_run(trained: Home):
    folder = trained.exp / "male_female_mine"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="not a training run"):
            train(trained, _config(trained), tag="mine", overwrite=overwrite)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_damaged_checkpoint_is_named_and_kept(trained: Home):
    folder = train(trained, _config(trained, max_steps=2), tag="cut").folder
    path = folder / "last.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="expected a complete safetensors file"):
        train(trained, _config(trained, max_steps=4), tag="cut")
    assert path.stat().st_size == len(data) // 2


def test_missing_statistics_and_features_say_what_to_run(trained: Home):
    with pytest.raises(DataError, match="aasvc stats --data male_female"):
        train(trained, _config(trained), norm_name="other")
    other = override(_config(trained), {"features.mel.n_fft": 1024})
    with pytest.raises(DataError, match="aasvc prepare with the same --conf"):
        train(trained, other)
    with pytest.raises(AasvcError, match="nope"):
        train(trained, _config(trained), data="nope")


def test_an_impossible_device_is_named(trained: Home):
    with pytest.raises(AasvcError, match="nonsense"):
        train(trained, _config(trained, device="nonsense"), tag="device")


def test_previews_are_pictures_and_sounds(trained: Home):
    result = train(trained, _config(trained, max_steps=2, preview_every=2, n_previews=1), tag="seen")
    names = sorted(path.name for path in (result.folder / "previews").iterdir())
    assert [name.split("-", 3)[-1].rsplit("-", 1)[-1] for name in names if name.endswith(".png")] == [
        "alignment.png",
        "mel.png",
    ]
    assert sum(name.endswith(".wav") for name in names) == 1
    for name in names:
        if name.endswith(".png"):
            assert (result.folder / "previews" / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_of_previews_has_the_last_steps_beside_source_and_target(
    trained: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("aasvc_cli.report.collect.PREVIEW_STEPS", 2)
    result = train(trained, _config(trained, max_steps=3, preview_every=1, n_previews=1), tag="seen")
    pages = result.folder / "previews"
    assert len(list(pages.glob("*.wav"))) == 3
    document = parse((pages / "index.html").read_text(encoding="utf-8"))
    assert [take.find("strong")[0].text for take in document.find("div", class_="take")] == [
        "source", "step 2", "step 3", "target",
    ]  # fmt: skip
    assert document.find("h1")[0].text == f"{result.folder.name}, step 3"
    assert {"l1", "total"} <= {caption.find("strong")[0].text for caption in document.find("figcaption")}
    assert len(document.find("div", class_="matrix")) == 1


@pytest.mark.parametrize("tag", ["a/b", "../up"])
def test_a_tag_that_is_no_name_is_refused(trained: Home, tag: str):
    with pytest.raises(ConfigError, match="--tag"):
        train(trained, _config(trained), tag=tag)


def test_without_a_tag_the_configuration_gives_the_name(trained: Home):
    config = override(_config(trained, max_steps=1), {"name": "my first/try"})
    assert train(trained, config).folder.name == "male_female_my-first-try"


@pytest.mark.process
def test_loading_in_worker_processes_changes_nothing(trained: Home):
    alone = train(trained, _config(trained, max_steps=3), tag="alone")
    helped = train(trained, _config(trained, max_steps=3, n_workers=1), tag="helped")
    assert _log(alone.folder) == _log(helped.folder)


def test_the_log_for_tensorboard_holds_the_losses(trained: Home):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(trained, _config(trained, max_steps=2), tag="board", tensorboard=True)
    resumed = train(trained, _config(trained, max_steps=4), tag="board", tensorboard=True)
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    expected = [entry for entry in _log(resumed.folder) if entry["kind"] == "train"]
    found = events.Scalars("train/l1")
    assert [event.step for event in found] == [entry["step"] for entry in expected] == [1, 2, 3, 4]
    assert [event.value for event in found] == pytest.approx([entry["l1"] for entry in expected], rel=1e-6)


def test_two_trainings_in_one_folder_are_refused(trained: Home):
    refused: list[str] = []

    def second(_: TrainingReport) -> None:
        with pytest.raises(TrainingError, match="another process is training here") as caught:
            train(trained, _config(trained), tag="busy")
        refused.append(str(caught.value))

    train(trained, _config(trained, max_steps=1), tag="busy", on_report=second)
    assert refused
    assert train(trained, _config(trained, max_steps=2), tag="busy").step == 2


def test_a_pair_that_cannot_be_aligned_is_refused_by_name(trained: Home):
    config = override(_config(trained), {"model.frames_per_token": 1})
    with pytest.raises(DataError, match=r"pair \w+: \d+ source tokens do not fit into \d+ target frames; raise"):
        train(trained, config, tag="tight")
    assert not (trained.exp / "male_female_tight").exists()


def _kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_latest_checkpoints_are_kept_and_each_is_a_state_to_go_on_from(trained: Home):
    config = _config(trained, save_every=1)
    whole = train(trained, config, tag="whole")
    assert not (whole.folder / "checkpoints").exists()
    result = train(trained, _config(trained, save_every=1, keep=3), tag="kept")
    assert _kept(result.folder) == ["step-2.safetensors", "step-3.safetensors", "step-4.safetensors"]
    (result.folder / "checkpoints" / "step-2.safetensors").replace(result.folder / "last.safetensors")
    train(trained, config, tag="kept")
    expected, found = _tensors(whole.folder), _tensors(result.folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_took_no_step_is_no_voice_yet(trained: Home):
    folder = train(trained, _config(trained), tag="early", should_stop=lambda: True).folder
    with pytest.raises(ModelError, match=r"male_female_early: was stopped before its first step of training"):
        read_voice(folder)
    assert train(trained, _config(trained), tag="early").step == 4
    assert read_voice(folder).weights


def test_a_time_limit_saves_and_ends_before_it_is_over(trained: Home, monkeypatch: pytest.MonkeyPatch):
    seen: list[float] = []

    def monotonic() -> float:
        """A clock on which every look takes a tenth of a second."""
        seen.append(len(seen) / 10)
        return seen[-1]

    monkeypatch.setattr("aasvc_cli.training.voice_run.time", SimpleNamespace(monotonic=monotonic))
    result = train(trained, _config(trained, time_limit="1.5s", max_steps=100000, eval_every=50), tag="limit")
    assert 1.0 < seen[-1] < 1.5
    assert result.stopped and result.out_of_time
    assert 0 < result.step < 100000
    assert load_checkpoint(result.folder / "last.safetensors")[1]["step"] == result.step
    messages: list[str] = []
    more = train(
        trained, _config(trained, max_steps=result.step + 1, eval_every=50), tag="limit", on_message=messages.append
    )
    assert more.step == result.step + 1 and not more.stopped
    assert f"at step {result.step}" in messages[0]


def test_batch_size_and_accumulation_fit_the_memory_and_belong_to_the_run(
    trained: Home, monkeypatch: pytest.MonkeyPatch
):
    tried: list[int] = []

    def largest_batch(config: Config, device: object, longest: Callable[[int], Batch], limit: int, most: int) -> Fit:
        batch = longest(most)
        pairs = read_manifest(trained).sets["train"]
        lengths = sorted((pair.source_frames + pair.target_frames for pair in pairs), reverse=True)
        assert [int(s + t) for s, t in zip(batch.source_lengths, batch.target_lengths, strict=True)] == lengths[:most]
        tried.append(limit)
        return Fit(min(3, most), 1, False)

    monkeypatch.setattr("aasvc_cli.training.batch_size.largest_batch", largest_batch)
    settings = {"auto_batch": "keep", "memory": "2GB", "batch_size": 2, "accum": 3, "max_steps": 1}
    messages: list[str] = []
    result = train(trained, _config(trained, **settings), tag="auto", on_message=messages.append)
    assert tried == [2_000_000_000]
    assert messages[0].startswith("3 utterances at once, 2 times per step: 3 of the longest fit into 2.0 GB")
    there = parse_config(read_config_file(result.folder / "config.yaml"), "test").train
    assert (there.batch_size, there.accum, there.auto_batch) == (3, 2, "off")
    train(trained, _config(trained, **{**settings, "max_steps": 2}), tag="auto")
    assert len(tried) == 1, "a run that goes on keeps its batches"
    train(trained, _config(trained, **{**settings, "auto_batch": "fill"}), tag="fill")
    filled = parse_config(read_config_file(trained.exp / "male_female_fill" / "config.yaml"), "test").train
    assert (filled.batch_size, filled.accum) == (3, 3)


def test_training_on_changed_sources_resumes_as_if_never_stopped_and_measures_unchanged_ones(trained: Home):
    def changing(**changes: object) -> Config:
        config = override(_config(trained, lr=1e-9, ema_decay=0.0, **changes), {"augment.share": 1.0})
        return override(config, {f"model.{name}_dropout": 0.0 for name in ("encoder", "decoder", "postnet", "flow")})

    whole = train(trained, changing(), tag="whole")
    train(trained, changing(max_steps=2), tag="parts")
    assert _log(train(trained, changing(), tag="parts").folder) == _log(whole.folder)
    plain = train(trained, override(changing(), {"augment.share": 0.0}), tag="plain")
    assert [e for e in _log(plain.folder) if e["kind"] == "train"] != [
        e for e in _log(whole.folder) if e["kind"] == "train"
    ]
    one, other = (next(e["l1"] for e in _log(run.folder) if e["kind"] == "dev") for run in (plain, whole))
    # nothing but running statistics was learnt, so the dev set, which is not changed, says about the same
    assert one == pytest.approx(other, rel=1e-3)


def test_sources_that_cannot_be_varied_are_taken_as_they_are_and_that_is_said(
    small_corpus: Path, tiny_conf: Path, home: Home
):
    conf = read_conf(tiny_conf)
    conf = override(conf, {"augment.share": 1.0, "features.source": "mcep"})
    conf = override(conf, {"train.max_steps": 1})
    prepare(home, conf, PrepareOptions(corpus=small_corpus, jobs=1))
    compute_stats(home)
    said: list[str] = []
    assert train(home, conf, tag="mcep", on_message=said.append).step == 1
    assert [message for message in said if "not varied" in message]


def test_a_new_kind_of_feature_is_one_entry_and_a_model_trains_on_it(
    small_corpus: Path, tiny_conf: Path, home: Home, monkeypatch: pytest.MonkeyPatch
):
    loudness = FeatureKind(
        extract=lambda wave, config: log_mel(wave, config.mel).mean(axis=1, keepdims=True),
        width=lambda config: 1,
        settings=lambda config: {"mel": to_tree(config.mel)},
    )
    monkeypatch.setitem(KINDS, "loudness", loudness)
    conf = override(read_conf(tiny_conf), {"features.source": "loudness", "train.max_steps": 1})
    prepare(home, conf, PrepareOptions(corpus=small_corpus, jobs=1))
    compute_stats(home)
    result = train(home, conf, tag="loudness")
    assert read_voice(result.folder).config.model.source_dim == 1


def test_training_by_frames_resumes_as_if_never_stopped(trained: Home):
    lengths = [max(pair.source_frames, pair.target_frames) for pair in read_manifest(trained).sets["train"]]
    bound = 2 * max(lengths)
    assert sum(lengths) > bound, "one batch would hold everything"
    config = _config(trained, max_frames=bound, bucket=True)
    whole = train(trained, config, tag="whole")
    train(trained, _config(trained, max_frames=bound, bucket=True, max_steps=3), tag="parts")
    resumed = train(trained, config, tag="parts")
    assert [entry for entry in _log(resumed.folder) if entry["kind"] == "train"] == [
        entry for entry in _log(whole.folder) if entry["kind"] == "train"
    ]


def test_a_pair_that_is_longer_than_a_batch_may_be_is_refused_by_name_before_a_folder_is_made(trained: Home):
    pairs = [pair for name in ("train", "dev") for pair in read_manifest(trained).sets[name]]
    longest = max(pairs, key=lambda pair: max(pair.source_frames, pair.target_frames))
    frames = max(longest.source_frames, longest.target_frames)
    with pytest.raises(DataError, match=rf"pair {longest.utterance_id} .* has {frames} frames.*allows {frames - 1} at"):
        train(trained, _config(trained, max_frames=frames - 1), tag="bounded")
    assert not (trained.exp / "male_female_bounded").exists()
    assert train(trained, _config(trained, max_frames=frames, max_steps=1), tag="bounded").step == 1


def test_what_a_training_will_take_is_told_before_the_first_step_and_changes_nothing(trained: Home):
    plain = train(trained, _config(trained), tag="plain")
    told: list[object] = []
    train(trained, _config(trained, max_steps=2), tag="planned", on_plan=told.append)
    planned = train(trained, _config(trained), tag="planned", on_plan=told.append, on_report=told.append)
    plans = [each for each in told if isinstance(each, Plan)]
    assert plans == told[:2]
    assert [plan.steps for plan in plans] == [2, 2]
    assert all(plan.seconds > 0 and plan.batch_seconds and plan.memory for plan in plans)
    expected, found = _tensors(plain.folder), _tensors(planned.folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_of_states_with_about_the_lowest_loss_the_latest_is_kept(trained: Home, monkeypatch: pytest.MonkeyPatch):
    losses = {1: 3.0, 2: 2.0, 3: 2.03, 4: 2.05, 5: 2.04, 6: 2.5}  # step 4 is more than 2 % above step 2

    def evaluate(trainer: Trainer, batches: object) -> dict[str, float]:
        return dict.fromkeys(LOSS_NAMES, losses[trainer.step])

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    kept = [train(trained, _config(trained, max_steps=n, eval_every=1), tag="near").best_step for n in range(1, 7)]
    assert kept == [1, 2, 3, 3, 5, 5]  # each run goes on with the one before
    assert load_checkpoint(trained.exp / "male_female_near" / "best.safetensors")[1]["dev"]["l1"] == 2.04


class TestPatience:
    """Training ends when the dev set no longer gets better."""

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.4, 5: 2.3, 6: 1.0}

        def evaluate(trainer: Trainer, batches: object) -> dict[str, float]:
            return dict.fromkeys(LOSS_NAMES, losses[trainer.step])

        monkeypatch.setattr(Trainer, "evaluate", evaluate)

    @pytest.mark.usefixtures("measured")
    def test_it_ends_after_so_many_measurements_without_a_better_one_and_goes_on_with_more_patience(
        self, trained: Home
    ):
        result = train(trained, _config(trained, max_steps=6, eval_every=1, patience=2), tag="patient")
        assert (result.step, result.best_step, result.out_of_patience, result.stopped) == (4, 2, True, False)
        assert load_checkpoint(result.folder / "best.safetensors")[1]["step"] == 2
        again = train(trained, _config(trained, max_steps=6, eval_every=1, patience=2), tag="patient")
        assert (again.step, again.out_of_patience) == (4, True)
        more = train(trained, _config(trained, max_steps=6, eval_every=1, patience=4), tag="patient")
        assert (more.step, more.best_step, more.out_of_patience) == (6, 6, False)

    @pytest.mark.usefixtures("measured")
    def test_a_run_that_was_stopped_meanwhile_ends_at_the_same_step(self, trained: Home):
        seen: list[int] = []
        stop = {"on_report": lambda report: seen.append(report.step), "should_stop": lambda: len(seen) == 3}
        train(trained, _config(trained, max_steps=6, eval_every=1, patience=2), tag="parts", **stop)
        assert train(trained, _config(trained, max_steps=6, eval_every=1, patience=2), tag="parts").step == 4

    @pytest.mark.usefixtures("measured")
    def test_without_patience_it_goes_on_to_the_end(self, trained: Home):
        assert train(trained, _config(trained, max_steps=6, eval_every=1), tag="on").step == 6


class TestFreeze:
    """Parts that keep the weights of the model that training begins with."""

    def test_frozen_parts_keep_weights_and_running_statistics_and_the_others_learn(self, trained: Home):
        config = _config(trained, freeze="encoder, postnet", lr=1e-2)
        result = train(trained, config, tag="half", init="tiny")
        before, _ = load_checkpoint(trained.exp / "male_female_tiny" / "best.safetensors")
        after = _tensors(result.folder)
        changed = {name.split(".")[1] for name, tensor in before.items() if not torch.equal(after[name], tensor)}
        assert changed >= {"aligner", "decoder", "output", "duration_predictor"}
        assert not changed & {"encoder", "postnet"}
        stopped = train(trained, override(config, {"train.max_steps": 2}), tag="parts", init="tiny")
        assert stopped.step == 2
        resumed = _tensors(train(trained, config, tag="parts").folder)
        assert all(torch.equal(after[name], resumed[name]) for name in after)

    @pytest.mark.parametrize(
        ("names", "fault"),
        [
            ("encoder,ear", "ear: the network has no such part; it has: encoder, "),
            ("encoder,duration_branch,duration_predictor,aligner,decoder,output,postnet", "leaves nothing to train"),
        ],
    )
    def test_names_that_make_no_sense_are_refused(self, trained: Home, names: str, fault: str):
        with pytest.raises(ConfigError, match=fault):
            train(trained, _config(trained, freeze=names), tag="frozen", init="tiny")
        assert not (trained.exp / "male_female_frozen").exists()

    def test_random_weights_are_not_frozen(self, trained: Home):
        with pytest.raises(ConfigError, match="--init"):
            train(trained, _config(trained, freeze="encoder"), tag="frozen")


def test_smaller_pieces_are_reported_logged_and_remembered(trained: Home, monkeypatch: pytest.MonkeyPatch):
    forward, failures = Trainer.forward, []

    def tight(trainer: Trainer, batch: Batch, *arguments: object, **options: object) -> object:
        if len(batch.utterance_ids) > 1 and trainer.model.training:
            failures.append(trainer.step)
            raise MemoryError
        return forward(trainer, batch, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "forward", tight)
    messages: list[str] = []
    result = train(trained, _config(trained, max_steps=2), tag="tight", on_message=messages.append)
    assert len(messages) == 1 and messages[0].startswith("out of memory at step 1: from now on 1 of 2 utterances")
    notes = [entry for entry in _log(result.folder) if entry["kind"] == "note"]
    assert [(entry["step"], entry["message"]) for entry in notes] == [(1, messages[0])]
    train(trained, _config(trained, max_steps=4), tag="tight", on_message=messages.append)
    assert failures == [0]
    assert messages[1:] == [f"resuming {result.folder} at step 2"]


class TestBeginning:
    """What a run begins with where nothing is said."""

    @staticmethod
    def begun(trained: Home, changes: dict[str, object] | None = None, **options: Any) -> str | None:
        return beginning(trained, read_manifest(trained), override(read_preset("small"), changes or {}), **options)

    def test_the_bundled_voice_where_its_features_and_sizes_fit(self, trained: Home):
        assert self.begun(trained) == "bundled"
        manifest = dataclasses.replace(read_manifest(trained), config=read_preset("small"))
        *_, sizes, steps = base_layers(trained, manifest, None, "bundled")
        assert sizes.values["model.width"] == manifest.config.model.width
        assert (steps.values["train.max_steps"], steps.values["train.dropout_start_step"]) == (324, 0)  # six pairs
        assert steps.values["model.pitch_predictor"]
        more = dataclasses.replace(manifest, extra=manifest.sets["train"][:5] * 4)
        *_, steps = base_layers(trained, more, None, "bundled")
        assert steps.values["train.max_steps"] == 344
        *_, steps = base_layers(trained, read_manifest(trained), None, "bundled")
        assert not steps.values["model.pitch_predictor"]  # from such mels it cannot be read

    def test_the_bundled_voice_where_another_writes_the_channels_that_it_reads(self, trained: Home):
        assert self.begun(trained, {"features.source": "whisper_f0", "features.duration": "whisper_f0"}) == "bundled"
        assert self.begun(trained, {"features.source": "content", "features.duration": "content"}) is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"features.source": "mel"},
            {"features.mel.sample_rate": 16000},
            {"features.mel.n_mels": 64},
            {"model.width": 64},
            {"model.frames_per_token": 2},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_random_weights_where_they_do_not(self, trained: Home, changes: dict[str, object]):
        assert self.begun(trained, changes) is None

    def test_a_run_goes_on_with_what_it_began_with(self, trained: Home):
        train(trained, _config(trained, max_steps=1), tag="fine", init="tiny")
        assert self.begun(trained, tag="fine") == "tiny"
        assert self.begun(trained, tag="tiny") is None
        assert self.begun(trained, tag="tiny", overwrite=True) == "bundled"

    @pytest.mark.slow
    def test_the_first_training_of_a_newcomer_begins_with_it_and_goes_on(
        self, small_corpus: Path, home: Home, aasvc: Callable[..., Any]
    ):
        prepared = aasvc("prepare", small_corpus, "--sample-rate", 24000, "--jobs", 1)
        assert prepared.code == 0, prepared.err
        command = ["train", "--tag", "first", "--eval-every", 1, "--threads", 1, "--device", "cpu"]
        first = aasvc(*command, "--max-steps", 1)
        assert first.code == 0 and "begins with the weights of" in first.err, first.err
        told = json.loads((home.exp / "male_female_first" / "init.json").read_text())
        assert told["model"] == "bundled" and told["left_over"] == []
        assert {name.split(".")[0] for name in told["new"]} == {"pitch_predictor"}
        second = aasvc(*command, "--max-steps", 2)
        assert second.code == 0 and "resuming" in second.err, second.err
        other = aasvc(*command, "--max-steps", 2, "--init", "none")
        assert other.code == 1 and "use another --tag, or --overwrite" in other.err, other.err


class TestInit:
    """A run that begins with the weights of another model."""

    def test_its_first_weights_are_those_of_the_model(self, trained: Home):
        said: list[str] = []
        config = _config(trained, max_steps=1, lr=0.0)
        result = train(trained, config, tag="fine", init="tiny", on_message=said.append)
        expected, _ = load_checkpoint(trained.exp / "male_female_tiny" / "best.safetensors")
        found = _tensors(result.folder)
        learnt = [name for name, tensor in expected.items() if "running_" not in name and tensor.is_floating_point()]
        assert learnt and all(torch.equal(found[f"{name}"], expected[name]) for name in learnt)
        assert said[0].startswith("begins with the weights of") and said[0].endswith(f"of {len(expected)} tensors")
        told = json.loads((result.folder / "init.json").read_text())
        assert (told["model"], told["taken"], told["new"], told["left_over"]) == ("tiny", len(expected), [], [])

    def test_a_run_that_goes_on_has_its_own_weights(self, trained: Home):
        whole = train(trained, _config(trained), tag="whole", init="tiny")
        seen: list[int] = []
        stop = {"on_report": lambda report: seen.append(report.step), "should_stop": lambda: len(seen) == 3}
        train(trained, _config(trained), tag="parts", init="tiny", **stop)
        said: list[str] = []
        resumed = train(trained, _config(trained), tag="parts", init="tiny", on_message=said.append)
        assert said == [f"resuming {resumed.folder} at step 3"]
        expected, found = _tensors(whole.folder), _tensors(resumed.folder)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert train(trained, _config(trained), tag="parts").step == 4

    def test_what_is_new_and_what_is_left_over_is_listed(self, trained: Home):
        config = override(
            _config(trained, max_steps=1), {"model.postnet_layers": 2, "model.duration_predictor": "deterministic"}
        )
        said: list[str] = []
        result = train(trained, config, tag="other", init="tiny", on_message=said.append)
        told = json.loads((result.folder / "init.json").read_text())
        there = set(load_checkpoint(trained.exp / "male_female_tiny" / "best.safetensors")[0])
        found = {name for name in _tensors(result.folder) if name.startswith("model.")}
        assert {f"model.{name}" for name in told["left_over"]} == there - found
        new = {f"model.{name.split(' ')[0]}" for name in told["new"]}
        assert new >= found - there
        reshaped = new - (found - there)
        assert reshaped and all(f"{name.removeprefix('model.')} (" in " ".join(told["new"]) for name in reshaped)
        assert any(line.startswith("new, random: ") for line in said)
        assert any(line.startswith("left over, not used: ") for line in said)

    def test_a_model_on_other_features_gives_all_sizes_but_their_widths(self, trained: Home):
        manifest = read_manifest(trained)
        heard = {"features.source": "content", "features.duration": "content"}
        config = override(manifest.config, {**heard, "model.source_dim": 96, "model.duration_dim": 96})
        manifest = dataclasses.replace(manifest, config=with_widths(config))
        *_, sizes = base_layers(trained, manifest, None, "tiny")
        begun = read_voice(trained.exp / "male_female_tiny", weights=False).config.model
        known = {f"model.{name}": value for name, value in to_tree(begun).items()}
        assert sizes.values == known | {"model.source_dim": 96, "model.duration_dim": 96}

    def test_a_model_of_other_sizes_is_refused_and_nothing_is_left_behind(self, trained: Home):
        config = override(_config(trained), {"model.width": 20})
        with pytest.raises(ModelError, match=r"--init tiny: only \d+ of \d+ tensors fit"):
            train(trained, config, tag="other", init="tiny")
        assert not (trained.exp / "male_female_other").exists()
        with pytest.raises(ModelError, match="no such model"):
            train(trained, _config(trained), tag="other", init="nobody")
        assert not (trained.exp / "male_female_other").exists()
        assert train(trained, _config(trained, max_steps=1), tag="other", init="tiny").step == 1

    def test_another_beginning_than_that_of_the_run_is_refused(self, trained: Home):
        train(trained, _config(trained, max_steps=1), tag="fine", init="tiny")
        with pytest.raises(ConfigError, match="began with tiny, not with male_female_tiny"):
            train(trained, _config(trained), tag="fine", init="male_female_tiny")
        with pytest.raises(ConfigError, match="began with random weights, not with fine"):
            train(trained, override(read_manifest(trained).config, {"train.max_steps": 9}), tag="tiny", init="fine")
        (trained.exp / "male_female_fine" / "last.safetensors").unlink()
        with pytest.raises(ConfigError, match="begun with --init tiny and has no checkpoint yet"):
            train(trained, _config(trained), tag="fine")

    def test_random_weights_are_asked_for_by_none(self, trained: Home):
        train(trained, _config(trained, max_steps=1), tag="fine", init="tiny")
        with pytest.raises(ConfigError, match="began with tiny, not with none"):
            train(trained, _config(trained), tag="fine", init="none")
        random = train(trained, _config(trained, max_steps=1), tag="random", init="none").folder
        plain = train(trained, _config(trained, max_steps=1), tag="plain").folder
        expected, found = _tensors(plain), _tensors(random)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert train(trained, _config(trained, max_steps=1), tag="plain", init="none").step == 1

    def test_a_run_killed_before_its_first_file_can_be_begun_again(self, trained: Home):
        config = _config(trained, max_steps=1)
        folder = train(trained, config, tag="fine", init="tiny").folder
        for path in [path for path in folder.iterdir() if path.name != "init.json"]:
            path.unlink()
        assert train(trained, config, tag="fine", init="tiny").step == 1

    def test_a_published_model_can_be_trained_further_with_its_own_sizes(
        self, small_corpus: Path, data: Path, home: Home, aasvc: Callable[..., Any]
    ):
        model = data / "aasvc-stochastic"
        assert aasvc("prepare", small_corpus, "--conf", model / "config.yml", "--jobs", 1).code == 0
        outcome = aasvc(
            "train", "--init", model, "--tag", "fine", "--max-steps", 1, "--batch-size", 1, "--accum", 1,
            "--eval-every", 1, "--device", "cpu",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        assert "begins with the weights of" in outcome.err and "left over" not in outcome.err
        run = home.exp / "male_female_fine"
        told = json.loads((run / "init.json").read_text())
        assert told["new"] == [] and told["card"]["step"] == 10
        before, after = read_voice(model).weights["output.weight"], read_voice(run).weights["output.weight"]
        assert float((before - after).abs().max()) < 1e-3
