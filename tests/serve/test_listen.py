"""The blind test: folders, sounds without names, answers that are kept."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import write_audio
from aasvc_cli.errors import DataError
from aasvc_cli.measures.listening import ANCHOR, from_csv
from aasvc_cli.serve.listen import BlindTest, muffled
from aasvc_cli.storage.home import Home
from tests.serve.clients import asking, message

RATE = 16000


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two systems; every recording is a noise of its own."""
    generator = np.random.default_rng(0)
    for system in ("first", "second"):
        for number in range(6):
            wave = (0.1 * generator.standard_normal(RATE // 4)).astype(np.float32)
            write_audio(tmp_path / system / "in" / f"u{number}.wav", wave, RATE)
    return [tmp_path / "first", tmp_path / "second"]


def blind(folders: list[Path], question: str = "preference", **rest: object) -> BlindTest:
    return BlindTest.of(folders, question, 1, folders[0].parent / "answers.csv", **rest)  # type: ignore[arg-type]


def test_a_listener_answers_every_question_and_the_file_says_what_was_compared(home: Home, folders: list[Path]):
    test = blind(folders)

    async def work(opened: httpx.AsyncClient) -> str:
        state = (await opened.get("/listen/me")).json()
        assert state == {"count": 8, "answered": []}  # six pairs and two anchors
        for number in range(8):
            for side in ("first", "second"):
                response = await opened.get(f"/listen/me/{number}/{side}")
                trial = test.trials("me")[number]
                system = getattr(trial, side)
                wave, _ = soundfile.read(io.BytesIO(response.content), dtype="float32")
                original, _ = soundfile.read(
                    test.systems[trial.origin if system == ANCHOR else system][trial.utterance], dtype="float32"
                )
                expected = muffled(original, RATE) if system == ANCHOR else original
                np.testing.assert_allclose(wave, expected, atol=1 / 32768)
                assert not any(name in str(response.headers) for name in ("u0", "anchor", "in/"))
            reply = {"answer": "first", "seconds": 1.234}
            assert (await opened.post(f"/listen/me/{number}", json=reply)).json()["answered"] == list(range(number + 1))
        return (await opened.get("/listen/results.csv")).text

    results = asking(home, work, test=test)
    answers = from_csv((folders[0].parent / "answers.csv").read_text(), "answers")
    assert [(a.first, a.second) for a in answers] == [(t.first, t.second) for t in test.trials("me")]
    assert "preference,first,second," in results and f",{ANCHOR}," in results
    # the next server goes on where this one has ended
    assert blind(folders).answered("me") == set(range(8))


def test_an_answer_can_be_given_anew(home: Home, folders: list[Path]):
    test = blind(folders, "mos")

    async def work(opened: httpx.AsyncClient) -> None:
        for said in ("1", "5"):
            await opened.post("/listen/me/3", json={"answer": said, "seconds": 1})

    asking(home, work, test=test)
    assert [each.answer for each in test.answers] == ["5"]


def test_when_enough_have_taken_part_they_go_on_and_nobody_else_begins(
    home: Home, folders: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("aasvc_cli.serve.listen.MOST_LISTENERS", 2)
    test, codes = blind(folders, "mos"), []

    async def work(opened: httpx.AsyncClient) -> None:
        for listener, question in (("p", 0), ("q", 0), ("p", 1), ("r", 0)):
            path = f"/listen/{listener}/{question}"
            codes.append((await opened.post(path, json={"answer": "3", "seconds": 1})).status_code)

    asking(home, work, test=test)
    assert [code < 300 for code in codes] == [True, True, True, False]
    assert codes[-1] == 403


def test_answers_of_another_test_in_the_same_file_stay_and_answer_nothing_here(
    home: Home, folders: list[Path], tmp_path: Path
):
    others = [folder.rename(tmp_path / name) for folder, name in zip(folders, ("third", "fourth"), strict=True)]

    def answer_all(test: BlindTest, said: str) -> None:
        assert test.answered("me") == set()

        async def work(opened: httpx.AsyncClient) -> None:
            for number in range(len(test.trials("me"))):
                await opened.post(f"/listen/me/{number}", json={"answer": said, "seconds": 1})

        asking(home, work, test=test)
        assert test.answered("me") == set(range(len(test.trials("me"))))

    answer_all(blind(others), "first")
    answer_all(blind(others, "mos"), "4")
    for other, folder in zip(others, folders, strict=True):
        other.rename(folder)
    answer_all(blind(folders), "second")
    assert len(blind(folders).answers) == 8 + 14 + 8


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/listen/..%2f", None, 404, "no such page"),
        ("GET", "/listen/a%20b", None, 422, "letters and digits"),
        ("GET", "/listen/me/99/first", None, 404, "there are 8"),
        ("GET", "/listen/me/0/third", None, 404, "no such sound"),
        ("POST", "/listen/me/0", {"answer": "one", "seconds": 1}, 422, "expected one of first"),
        ("POST", "/listen/me/0", {"answer": "first", "seconds": -1}, 422, "seconds"),
        ("POST", "/listen/me/0", {"answer": "first", "seconds": 1, "path": "/x"}, 422, "path: no such option"),
        ("POST", "/listen/me/0", "no object", 422, "expected"),
        ("POST", "/listen/me/0", b"[" * 100_000, 422, "expected JSON"),
        ("POST", "/listen/me/0", b'{"answer": "first", "seconds": ' + b"9" * 5000 + b"}", 422, "expected JSON"),
    ],
)
def test_what_is_no_answer_is_refused(
    home: Home, folders: list[Path], method: str, path: str, body: object, status: int, says: str
):
    test = blind(folders)
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = asking(home, lambda opened: opened.request(method, path, **sent), test=test)
    assert response.status_code == status
    assert says in message(response)
    assert not test.path.exists()


def test_folders_that_cannot_be_compared_are_refused(folders: list[Path], tmp_path: Path):
    for given, says in (
        (folders[:1], "twice or more"),
        ([folders[0], folders[0]], "different names"),
        ([folders[0], tmp_path], "no recording has the same name"),
    ):
        with pytest.raises(DataError, match=says):
            blind(given)
    (tmp_path / "answers.csv").write_text("mine")
    with pytest.raises(DataError, match="no answers of a listening test"):
        blind(folders)


def test_recordings_of_one_name_in_two_subfolders_are_both_asked_about(folders: list[Path]):
    for folder in folders:
        (folder / "out").mkdir()
        (folder / "in" / "u5.wav").rename(folder / "out" / "u0.wav")
    asked = {trial.utterance for trial in blind(folders).trials("me")}
    assert asked == {"out/u0", *(f"in/u{number}" for number in range(5))}


def test_two_recordings_that_differ_in_their_suffix_only_are_named(folders: list[Path]):
    write_audio(folders[1] / "in" / "u3.flac", np.zeros(RATE, dtype=np.float32), RATE)
    with pytest.raises(DataError) as caught:
        blind(folders)
    expected = f"{folders[1]}: u3.flac and u3.wav are the same utterance; remove one of them"
    assert str(caught.value) == expected


def test_an_anchor_keeps_what_is_low_and_loses_what_is_high():
    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (1000, 6000))
    middle = slice(RATE // 4, 3 * RATE // 4)
    assert muffled(low, RATE)[middle] == pytest.approx(low[middle], abs=0.01)
    assert np.abs(muffled(high, RATE)[middle]).max() < 0.01
