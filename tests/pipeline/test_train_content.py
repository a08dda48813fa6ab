"""A content encoder from recordings to its folder, with a teacher of a few lines."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from aasvc_cli.audio.f0 import dio
from aasvc_cli.audio.files import write_audio
from aasvc_cli.config.reading import parse_config, to_tree
from aasvc_cli.config.settings import Config
from aasvc_cli.errors import ConfigError, DataError, ModelError
from aasvc_cli.features.content import (
    MELODY_FILE,
    MELODY_MEL,
    PROJECTION_FILE,
    WEIGHTS_FILE,
    content_input,
    encoded,
    load_encoder,
    load_melody_encoder,
)
from aasvc_cli.pipeline import train_content as module
from aasvc_cli.pipeline.train_content import train_content
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.home import Home
from aasvc_cli.training.optimisation import below

RATE = 16000


class Teacher:
    """Three bands of the log-mel at half its frame rate."""

    heard = 0

    def __init__(self, model: str) -> None:
        assert model == "some model"

    def __call__(self, wave: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float32]:
        type(self).heard += 1
        return content_input(wave, sample_rate)[::2, 10:70:20]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(module, "WhisperEncoder", Teacher)
    monkeypatch.setattr(module, "harvest", dio)  # the pitch does not matter here, and this takes a fiftieth of the time
    monkeypatch.setattr(Teacher, "heard", 0)
    return Home(tmp_path / "home")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Four people read two sentences of tones, each at a pitch of their own; one of another group reads alone."""
    random = np.random.default_rng(0)
    for group, speakers in (("several", 4), ("alone", 1)):
        for speaker in range(speakers):
            for sentence in range(2):
                notes = np.random.default_rng(sentence).permutation(6) * 200.0 + 200.0 + 30.0 * speaker
                tones = [np.sin(2 * np.pi * hertz * np.arange(RATE // 8) / RATE) for hertz in notes]
                wave = np.concatenate(tones) * 0.5 + 0.001 * random.standard_normal(len(notes) * (RATE // 8))
                path = tmp_path / "recordings" / group / f"p{speaker}" / f"s{sentence}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_audio(path, wave.astype(np.float32), RATE)
    return tmp_path / "recordings"


def config(max_steps: int = 4) -> Config:
    sizes = {"stem": 8, "width": 8, "hidden": 8, "n_blocks": 1, "kernel": 3, "melody_width": 8, "melody_blocks": 1}
    content = sizes | {"versions": 1, "crop_frames": 16}
    train = {"batch_size": 2, "max_steps": max_steps, "warmup_steps": 1, "lr": 1e-3, "log_every": 1, "eval_every": 2}
    return parse_config({"name": "tiny", "content": content, "train": train | {"precision": "fp32"}}, "test")


def after(calls: int) -> Callable[[], bool]:
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_ends_with_encoders_that_can_be_loaded(home: Home, recordings: Path) -> None:
    reports: list[Any] = []
    result = train_content(home, config(), recordings=recordings, teacher="some model", on_report=reports.append)
    assert (result.step, result.stopped) == (4, False) and result.dev["total"] > 0
    assert result.folder == home.encoders / "tiny"
    encoder = load_encoder(result.folder / WEIGHTS_FILE)
    assert encoded(encoder, np.ones((20, 80), dtype=np.float32)).shape == (10, 3)
    melody = load_melody_encoder(result.folder / MELODY_FILE)
    assert encoded(melody, np.ones((20, MELODY_MEL.n_mels), dtype=np.float32)).shape == (10, 2)
    # what was learnt of the teacher, in one step less
    written, _ = load_checkpoint(result.folder / PROJECTION_FILE)
    kept = below(load_checkpoint(result.folder / "last.safetensors")[0], "projection.")
    frames = torch.randn(5, len(kept["centre"]))
    expected = (frames - kept["centre"]) @ kept["directions"] + kept["offset"]
    torch.testing.assert_close(
        frames @ written["directions"].float() + written["offset"].float(), expected, atol=0.02, rtol=0.01
    )
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert [report.dev is not None for report in reports] == [False, True, False, True]


def test_goes_on_where_it_stopped_with_the_same_result(home: Home, recordings: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"recordings": recordings, "teacher": "some model"}
    # ten recordings are asked about, then two steps
    first = train_content(home, config(), **options, should_stop=after(12))
    assert (first.step, first.stopped) == (2, True) and not (first.folder / WEIGHTS_FILE).exists()
    Teacher.heard = 0
    train_content(home, config(), **options)
    assert Teacher.heard == 0  # what was made is kept
    train_content(Home(tmp_path / "other"), config(), **options)
    stopped, straight = (
        [load_checkpoint(folder / "encoders" / "tiny" / name)[0] for name in (WEIGHTS_FILE, MELODY_FILE)]
        for folder in (home.root, tmp_path / "other")
    )
    for one, other in zip(stopped, straight, strict=True):
        for name, value in other.items():
            np.testing.assert_array_equal(one[name].numpy(), value.numpy())


def test_can_be_stopped_while_it_still_listens(home: Home, recordings: Path) -> None:
    result = train_content(home, config(), recordings=recordings, teacher="some model", should_stop=after(3))
    assert result.stopped and result.step == 0 and Teacher.heard == 3
    assert train_content(home, config(), recordings=recordings, teacher="some model").step == 4
    assert Teacher.heard == 10


def test_other_recordings_are_another_run(home: Home, recordings: Path) -> None:
    train_content(home, config(), recordings=recordings, teacher="some model")
    (recordings / "alone" / "p0" / "s0.wav").unlink()
    with pytest.raises(ConfigError, match="training data"):
        train_content(home, config(), recordings=recordings, teacher="some model")


def test_sentences_that_nobody_shares_are_not_enough(home: Home, recordings: Path) -> None:
    for speaker in sorted((recordings / "several").iterdir())[1:]:
        for path in speaker.iterdir():
            path.unlink()
    with pytest.raises(DataError, match="no sentence is read by several speakers"):
        train_content(home, config(), recordings=recordings, teacher="some model")


def test_an_empty_folder_is_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected .*<group>.<speaker>"):
        train_content(home, config(), recordings=tmp_path, teacher="some model")


def turned_encoders(folder: Path, into: Path) -> Path:
    """The same encoders, whose channels are in another order, of another sign and larger."""
    into.mkdir()
    shutil.copy(folder / MELODY_FILE, into)
    tensors, header = load_checkpoint(folder / WEIGHTS_FILE)
    for name in ("output.weight", "output.bias"):
        tensors[name] = (
            tensors[name][[2, 0, 1]]
            * torch.tensor([-1.0, 1.0, -1.0]).reshape(-1, *[1] * (tensors[name].dim() - 1))
            * 1.5
        )
    save_checkpoint(
        into / WEIGHTS_FILE, {name: tensor.half() for name, tensor in tensors.items()}, {"sizes": header["sizes"]}
    )
    return into


def test_what_is_wanted_is_turned_towards_what_the_encoders_write_that_it_begins_with(
    home: Home, recordings: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"recordings": recordings, "teacher": "some model"}
    first = train_content(home, config(100), **options)
    other = turned_encoders(first.folder, tmp_path / "turned")
    small_step = dataclasses.replace(config(1), train=dataclasses.replace(config(1).train, lr=1e-6))
    again = train_content(home, small_step, **options, init=str(other), tag="again")
    levels = np.random.default_rng(0).uniform(size=(60, 80)).astype(np.float32)
    before, after = (encoded(load_encoder(folder / WEIGHTS_FILE), levels) for folder in (other, again.folder))
    np.testing.assert_allclose(after, before, atol=0.01)
    # one and a half times as large, and otherwise as far from what is wanted as before
    assert again.dev["content"] < 1.2 * 1.5**2 * first.dev["content"]
    train_content(
        home,
        dataclasses.replace(small_step, train=dataclasses.replace(small_step.train, max_steps=2)),
        **options,
        tag="again",
    )  # goes on with what it began with
    with pytest.raises(ConfigError, match="began with .*turned, not with tiny; use another --tag"):
        train_content(home, small_step, **options, init="tiny", tag="again")
    train_content(home, config(1), **options, init="none", tag="from_nothing")


def test_a_run_that_begins_with_others_goes_on_with_the_same_result(home: Home, recordings: Path) -> None:
    options: dict[str, Any] = {"recordings": recordings, "teacher": "some model"}
    train_content(home, config(1), **options)
    straight = train_content(home, config(4), **options, init="tiny", tag="straight").folder
    train_content(home, config(4), **options, init="tiny", tag="stopped", should_stop=after(12))
    stopped = train_content(home, config(4), **options, tag="stopped").folder
    one, other = (load_checkpoint(folder / WEIGHTS_FILE)[0] for folder in (straight, stopped))
    assert all(torch.equal(one[name], value) for name, value in other.items())


def test_encoders_that_cannot_be_begun_with_are_named_before_anything_is_heard_or_lost(
    home: Home, recordings: Path
) -> None:
    options: dict[str, Any] = {"recordings": recordings, "teacher": "some model"}
    with pytest.raises(ModelError, match=r"--init nobody: no content encoder there; expected bundled, the tag"):
        train_content(home, config(), **options, init="nobody")
    with pytest.raises(ModelError, match=r"--init bundled: .* sizes \(content stem 160, expected 8; .*set theirs in"):
        train_content(home, config(), **options, init="bundled")
    assert not Teacher.heard and not home.encoders.exists()
    done = train_content(home, config(1), **options).folder
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="the folder of this training itself; choose another --tag"):
            train_content(home, config(1), **options, init="tiny", overwrite=overwrite)
    assert (done / WEIGHTS_FILE).is_file()


def test_the_command_trains_one(
    aasvc: Callable[..., Any], home: Home, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "tiny.yaml"
    conf.write_text(json.dumps(to_tree(config(2))), encoding="utf-8")
    train_an_encoder = ["--home", home.root, "train", "--kind", "content", "--conf", conf, "--recordings", recordings]
    outcome = aasvc(*train_an_encoder, "--teacher", "some model", "--json", "-")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["step"], Path(told["folder"])) == (2, home.encoders / "tiny")
    assert (home.encoders / "tiny" / WEIGHTS_FILE).is_file()
    outcome = aasvc(*train_an_encoder)
    assert outcome.code == 2 and "--kind content: needs --recordings and --teacher" in outcome.err
    for option, value in (("--patience", 3), ("--time-limit", "2h"), ("--accum", 2), ("--data", "mine")):
        outcome = aasvc(*train_an_encoder, "--teacher", "some model", option, value)
        assert outcome.code == 2 and f"{option}: only for voices" in outcome.err
    monkeypatch.setenv("AASVC_PATIENCE", "3")  # what voices are usually trained with is no fault here
    assert aasvc(*train_an_encoder, "--teacher", "some model").code == 0
