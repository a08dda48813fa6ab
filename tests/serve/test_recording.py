"""Recording sessions: what is asked for, what is wrong with a reading, and that `prepare` takes what comes of it."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import read_audio
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.errors import DataError
from aasvc_cli.serve.recording import Session, faults, read_lines
from aasvc_cli.storage.home import Home
from tests.serve.clients import asking, message


@pytest.fixture(scope="module")
def speech(demo_corpus: Path) -> tuple[np.ndarray, int]:
    """A sentence with half a second of a quiet room before and after it."""
    wave, rate = read_audio(demo_corpus / "male" / "wav" / "dev" / "dev_0660.ogg")
    generator = np.random.default_rng(0)
    wave = np.pad(wave, rate // 2)
    return (wave + 1e-4 * generator.standard_normal(len(wave))).astype(np.float32), rate


class TestFaults:
    def test_a_sound_reading_has_none(self, speech: tuple[np.ndarray, int], demo_corpus: Path):
        assert faults(*speech) == []
        assert faults(*speech, demo_corpus / "female" / "wav" / "dev" / "dev_0660.ogg") == []

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda wave, rate: np.zeros_like(wave), "Nothing can be heard"),
            (lambda wave, rate: 1e-5 * wave, "Nothing can be heard"),
            (lambda wave, rate: np.clip(8 * wave, -0.5, 0.5), "Too loud"),
            (lambda wave, rate: 0.02 * wave, "Too quiet"),
            (lambda wave, rate: wave + 0.02 * np.random.default_rng(1).standard_normal(len(wave)), "Noisy"),
            (lambda wave, rate: wave[rate // 2 + rate // 5 :], "first word may be cut off"),
            (lambda wave, rate: wave[: len(wave) - rate // 2 - rate // 4], "last word may be cut off"),
            (lambda wave, rate: np.concatenate([np.tile(wave[: rate // 4], 10), wave]), "s of silence"),
        ],
    )
    def test_each_fault_is_named(self, speech: tuple[np.ndarray, int], spoil: Callable[..., Any], says: str):
        wave, rate = speech
        found = faults(spoil(wave, rate).astype(np.float32), rate)
        assert any(says in fault for fault in found), found

    def test_another_sentence_is_noticed_by_its_length(self, speech: tuple[np.ndarray, int], tmp_path: Path):
        wave, rate = speech
        inner = wave[rate // 2 : -rate // 2]
        soundfile.write(tmp_path / "target.wav", np.tile(inner, 3), rate)
        (fault,) = faults(wave, rate, tmp_path / "target.wav")
        assert "Is it the same sentence?" in fault


class TestPlan:
    def test_lines_are_numbered_unless_they_begin_with_an_id(self, tmp_path: Path):
        path = tmp_path / "lines.txt"
        path.write_text("The first one.\n\nおはよう。\n", encoding="utf-8")
        assert read_lines(path) == {"0001": "The first one.", "0002": "おはよう。"}
        path.write_text("a_01 The first one.\na_02 おはよう。\n", encoding="utf-8")
        assert read_lines(path) == {"a_01": "The first one.", "a_02": "おはよう。"}
        path.write_text("\n")
        with pytest.raises(DataError, match="no sentences"):
            read_lines(path)

    def test_the_sentences_of_a_target_keep_their_sets_and_texts(self, demo_corpus: Path, tmp_path: Path):
        session = Session.plan(tmp_path, None, demo_corpus / "female")
        assert len(session.sentences) == 100
        (known,) = [each for each in session.sentences if each.name == "eval_0680"]
        assert (known.set, known.text) == ("eval", "病院では、星がたくさん見えます。")

    def test_the_command_that_follows_can_be_pasted_into_a_shell(self, demo_corpus: Path, tmp_path: Path):
        lines = tmp_path / "lines.txt"
        lines.write_text("The first one.\n")
        session = Session.plan(tmp_path / "my voice", lines, None)
        source = str(tmp_path / "my voice" / "source")
        assert shlex.split(session.command)[2:] == ["--source", source, "--target", "DIR"]
        (tmp_path / "target").mkdir()
        shutil.copy(demo_corpus / "female" / "wav" / "eval" / "eval_0680.ogg", tmp_path / "target")
        session = Session.plan(tmp_path / "my voice", None, tmp_path / "target")
        assert shlex.split(session.command)[2:] == [str(tmp_path / "my voice")]

    def test_without_anything_to_read_it_says_what_to_give(self, tmp_path: Path):
        with pytest.raises(DataError, match=r"--sentences FILE.*--target DIR"):
            Session.plan(tmp_path, None, None)
        with pytest.raises(DataError, match="no recordings of the target"):
            Session.plan(tmp_path, None, tmp_path)


@pytest.fixture
def session(demo_corpus: Path, tmp_path: Path) -> Session:
    """Five sentences of a target without a layout."""
    folder = tmp_path / "target recordings"
    folder.mkdir()
    for path in sorted((demo_corpus / "female" / "wav" / "train_parallel").iterdir())[:5]:
        shutil.copy(path, folder)
    return Session.plan(tmp_path / "mine", None, folder)


def reading(demo_corpus: Path, name: str) -> bytes:
    wave, rate = read_audio(demo_corpus / "male" / "wav" / "train_parallel" / f"{name}.ogg")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.pad(wave, rate // 2), rate, format="WAV")
    return buffer.getvalue()


def test_what_was_recorded_is_prepared_without_options(
    home: Home, session: Session, demo_corpus: Path, aasvc: Callable[..., Any], tiny_conf: Path
):
    async def work(opened: httpx.AsyncClient) -> list[dict[str, Any]]:
        for number, sentence in enumerate(session.sentences):
            answer = await opened.post(f"/record/{number}", content=reading(demo_corpus, sentence.name))
            assert answer.json()["kept"], answer.json()
            assert (await opened.get(f"/record/{number}/target")).status_code == 200
            assert (await opened.get(f"/record/{number}/own")).content == session.path(sentence).read_bytes()
        return (await opened.get("/record/state")).json()["sentences"]

    assert all(each["done"] for each in asking(home, work, session=session))
    outcome = aasvc("prepare", session.folder, "--conf", tiny_conf, "--jobs", "1")
    assert outcome.code == 0, outcome.err
    manifest = read_manifest(home)
    assert (manifest.source_speaker, manifest.target_speaker) == ("source", "target")
    assert {name: len(pairs) for name, pairs in manifest.sets.items()} == {"train": 3, "dev": 1, "eval": 1}
    assert session.command == f"aasvc prepare {session.folder}"


def test_a_faulty_reading_is_kept_only_if_the_reader_insists(home: Home, session: Session):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(16000), 16000, format="WAV")

    async def work(opened: httpx.AsyncClient) -> list[bool]:
        kept = []
        for query in ("", "?anyway=1"):
            answer = (await opened.post(f"/record/0{query}", content=buffer.getvalue())).json()
            assert answer["faults"]
            kept.append((answer["kept"], session.path(session.sentences[0]).exists()))
        return kept

    assert asking(home, work, session=session) == [(False, False), (True, True)]


def test_a_reading_of_more_than_a_minute_is_refused_with_what_to_do(home: Home, session: Session):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(61_000), 1000, format="WAV")
    content = buffer.getvalue()
    response = asking(home, lambda opened: opened.post("/record/0", content=content), session=session)
    assert response.status_code == 422
    assert message(response).endswith("longer than 60 s; record this sentence alone")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/record/99", 404),
        ("GET", "/record/0/own", 404),
        ("POST", "/record/0", 422),
        ("GET", "/record/-1/own", 404),
    ],
)
def test_what_is_no_reading_is_refused(home: Home, session: Session, method: str, path: str, status: int):
    response = asking(home, lambda opened: opened.request(method, path, content=b"no sound"), session=session)
    assert response.status_code == status
    assert message(response)


def test_without_a_session_the_pages_say_how_to_begin(home: Home):
    async def work(opened: httpx.AsyncClient) -> tuple[str, str]:
        return (await opened.get("/record")).text, (await opened.get("/listen")).text

    record, listen = asking(home, work)
    record, listen = (re.sub("</?span>", "", page) for page in (record, listen))  # which hold an option together
    assert "aasvc serve --record FOLDER --target DIR" in record
    assert "aasvc serve --listen DIR --listen DIR" in listen
