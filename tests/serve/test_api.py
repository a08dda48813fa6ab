"""The HTTP interface: what it converts, what it says of itself, and the words with which it refuses."""

from __future__ import annotations

import asyncio
import io
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import jsonschema
import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import encode_audio
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.serve import voices as voices_module
from aasvc_cli.serve.api import WARNINGS, accepted, openapi
from aasvc_cli.serve.app import build
from aasvc_cli.serve.guard import Policy
from aasvc_cli.serve.refusals import Refusal
from aasvc_cli.storage.files import write_json
from aasvc_cli.storage.home import Home
from tests.serve.clients import RATE, answer, asking, client, message, recording, voices

CONVERT = "/v1/convert"


def sound(response: httpx.Response) -> tuple[np.ndarray, int]:
    assert response.status_code == 200, response.text
    return soundfile.read(io.BytesIO(response.content), dtype="float32")


def temporary_files() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("aasvc-*"))


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


class TestConvert:
    @pytest.mark.parametrize("format_name", ["WAV", "FLAC", "OGG"])
    def test_a_recording_becomes_what_the_library_makes_of_it(self, home: Home, format_name: str):
        content = recording(format_name=format_name)
        wave, rate = sound(answer(home, "POST", CONVERT, content=content))
        converter = Converter.load(home.exp / "a_b_tiny", vocoder="griffin-lim", device="cpu")
        source, source_rate = soundfile.read(io.BytesIO(content), dtype="float32")
        expected = converter.convert(source, source_rate)
        assert rate == expected.sample_rate
        np.testing.assert_allclose(wave, expected.wave, atol=1 / 32768)
        assert temporary_files() == set()

    def test_the_options_are_those_of_the_command(self, home: Home):
        async def work(opened: httpx.AsyncClient) -> list[int]:
            content = recording(1.0)
            asked = [await opened.post(CONVERT, content=content, params={"speed": s, "seed": 1}) for s in (1, 2)]
            return [len(sound(each)[0]) for each in asked]

        slow, fast = asking(home, work)
        assert fast < slow

    @pytest.mark.parametrize(
        ("accept", "query", "expected"),
        [
            ("*/*", "", "WAV"), ("audio/flac", "", "FLAC"), ("audio/ogg;q=0.2, audio/flac;q=0.9", "", "FLAC"),
            ("text/html, audio/*;q=0.5", "", "WAV"), ("audio/flac", "?format=ogg", "OGG"), ("audio/x-wav", "", "WAV"),
        ],
    )  # fmt: skip
    def test_the_result_has_the_format_that_is_asked_for(self, home: Home, accept: str, query: str, expected: str):
        response = answer(home, "POST", CONVERT + query, content=recording(), headers={"Accept": accept})
        assert soundfile.info(io.BytesIO(response.content)).format == expected
        assert response.headers["content-type"] == f"audio/{expected.lower()}"

    def test_samples_without_a_header_are_described_by_the_query(self, home: Home):
        wave, _ = soundfile.read(io.BytesIO(recording()), dtype="int16")

        async def work(opened: httpx.AsyncClient) -> list[bytes]:
            raw = {"raw_format": "s16le", "raw_rate": RATE}
            asked = [
                await opened.post(CONVERT, content=recording()),
                await opened.post(CONVERT, content=wave.tobytes(), params=raw),
            ]
            return [sound(each)[0].tobytes() for each in asked]

        with_header, without = asking(home, work)
        assert with_header == without

    def test_a_silent_recording_comes_with_the_warning_of_the_command(self, home: Home):
        silence = np.zeros(RATE, dtype=np.float32)
        buffer = io.BytesIO()
        soundfile.write(buffer, silence, RATE, format="WAV")
        response = answer(home, "POST", CONVERT, content=buffer.getvalue())
        assert unquote(response.headers[WARNINGS]) == "the recording: holds no speech, so the result is silent"
        assert not sound(response)[0].any()


# what is there and what is not is refused in the same words; pyproject.toml lies where the server runs
NO_NAMES = ("nobody", "..", ".", "/etc", "/etc/passwd", "/etc/nothing", "../../exp/a_b_tiny", "~", "pyproject.toml")
REFUSED = [
    ("", b"", 422, "nothing came in"),
    ("", b"no sound at all", 422, "expected wav, flac, ogg or mp3"),
    ("", recording(0.004), 422, "too short"),
    ("?speed=0", recording(), 422, "speed '0': expected greater than or equal to 0.1"),
    ("?speed=nan", recording(), 422, "speed"),
    ("?speed=fast", recording(), 422, "speed"),
    ("?seed=-1", recording(), 422, "seed"),
    ("?noise_scale=-1", recording(), 422, "noise_scale"),
    ("?format=mp3", recording(), 422, "format"),
    ("?name=../../etc/passwd", recording(), 422, "name: no such option"),
    ("?raw_rate=16000", recording(), 422, "raw_format and raw_rate go together"),
    ("?raw_format=mp3&raw_rate=16000", recording(), 422, "raw format mp3: expected one of s8"),
    ("?raw_format=s16le&raw_rate=1", recording(), 422, "1 Hz"),
    *((f"?model={name}", recording(), 422, f"{name}: no such voice here") for name in NO_NAMES),
    *((f"?vocoder={name}", recording(), 422, f"{name}: no such vocoder here") for name in NO_NAMES),
]


@pytest.mark.parametrize(("query", "content", "status", "says"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_cannot_be_converted_is_refused_in_one_sentence(
    home: Home, query: str, content: bytes, status: int, says: str
):
    response = answer(home, "POST", CONVERT + query, content=content)
    assert response.status_code == status
    assert says in message(response)
    assert temporary_files() == set()


def test_a_form_is_refused_with_what_to_send_instead(home: Home):
    response = answer(home, "POST", CONVERT, files={"file": ("in.wav", recording())})
    assert response.status_code == 415
    assert message(response) == (
        "a form, expected the recording itself as the body, as curl --data-binary @in.wav sends it"
    )


def test_a_recording_that_would_keep_others_waiting_is_refused(home: Home):
    response = answer(home, "POST", f"{CONVERT}?raw_format=u8&raw_rate=1000", content=bytes(601_000))
    assert response.status_code == 422
    assert "longer than 600 s" in message(response)


def test_a_recording_has_a_picture_unless_it_is_too_long_to_show(home: Home):
    shown = answer(home, "POST", "/picture", content=recording()).json()
    assert shown["seconds"] == pytest.approx(0.3) and shown["image"].startswith("data:image/png;base64,")
    long = encode_audio(np.zeros(61_000, np.float32), 1000, "WAV")
    response = answer(home, "POST", "/picture", content=long)
    assert (response.status_code, response.content) == (204, b"")
    response = answer(home, "POST", "/picture", content=b"no sound at all")
    assert response.status_code == 422


def test_a_voice_whose_prepared_set_is_not_here_has_no_examples(home: Home):
    known = voices(home)
    write_json(home.exp / "a_b_tiny" / "data.json", {"prepared": "elsewhere"})
    response = asking(home, lambda opened: opened.get("/examples?model=tiny"), known=known)
    assert (response.status_code, response.json()) == (200, {"examples": []})


def test_the_texts_are_those_of_the_command_line(home: Home, aasvc: Any, tmp_path: Path):
    path = tmp_path / "broken.wav"
    path.write_bytes(b"no sound at all")
    voices(home)
    said = aasvc("convert", path, "-o", tmp_path / "out.wav", "--model", "tiny").err
    refused = message(answer(home, "POST", CONVERT, content=path.read_bytes()))
    reason = refused.removeprefix("the recording: ").partition("ffmpeg")[0]
    assert f"{path}: {reason}" in said


class TestModels:
    def test_the_voices_of_the_data_folder_are_listed_without_their_places(self, home: Home):
        listed = answer(home, "GET", "/v1/models").json()
        assert [(each["name"], each["kind"]) for each in listed["models"]] == [
            ("bundled", "bundled"), ("a_b_tiny", "run")
        ]  # fmt: skip
        assert listed["default"] == "a_b_tiny"
        assert str(home.root) not in str(listed)

    def test_no_more_voices_stay_in_memory_than_may(self, home: Home, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(voices_module, "MOST_LOADED", 1)
        several = voices(home)

        async def work(opened: httpx.AsyncClient) -> None:
            for seed, vocoder in enumerate(["griffin-lim", "", "griffin-lim"]):
                params = {"vocoder": vocoder, "seed": seed, "model": "tiny"}
                assert (await opened.post(CONVERT, content=recording(), params=params)).status_code == 200

        asking(home, work, known=several)
        assert len(several._lanes) == 1


class TestDocument:
    def test_it_describes_every_option(self, home: Home):
        document = answer(home, "GET", "/openapi.json").json()
        assert document == openapi()
        names = {each["name"] for each in document["paths"][CONVERT]["post"]["parameters"]}
        assert names == {
            "model", "vocoder", "format", "seed", "noise_scale", "speed", "raw_format", "raw_rate", "raw_channels"
        }  # fmt: skip

    def test_its_schemas_hold_for_the_answers(self, home: Home):
        document = openapi()
        models = document["paths"]["/v1/models"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer(home, "GET", "/v1/models").json(), models)
        refused = answer(home, "POST", CONVERT, content=b"").json()
        jsonschema.validate(refused, document["components"]["schemas"]["Error"])


class TestQueue:
    def test_one_conversion_runs_at_a_time_and_all_are_answered(self, home: Home, monkeypatch: pytest.MonkeyPatch):
        running, most = 0, 0
        lock, real = threading.Lock(), voices_module.convert_one

        def counted(*arguments: Any) -> Any:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            try:
                return real(*arguments)
            finally:
                with lock:
                    running -= 1

        monkeypatch.setattr(voices_module, "convert_one", counted)

        async def work(opened: httpx.AsyncClient) -> list[int]:
            asked = [opened.post(CONVERT, content=recording(0.1)) for _ in range(8)]
            return [each.status_code for each in await asyncio.gather(*asked)]

        assert asking(home, work) == [200] * 8
        assert most == 1

    def test_who_would_wait_behind_too_many_is_told_to_come_again(self, home: Home, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(voices_module, "MOST_WAITING", 1)
        go, real = threading.Event(), voices_module.convert_one
        monkeypatch.setattr(voices_module, "convert_one", lambda *rest: (go.wait(20), real(*rest))[1])

        async def work(opened: httpx.AsyncClient) -> list[httpx.Response]:
            asked = [asyncio.create_task(opened.post(CONVERT, content=recording(0.1))) for _ in range(3)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            go.set()
            return await asyncio.gather(*asked)

        answers = asking(home, work)
        assert sorted(each.status_code for each in answers) == [200, 200, 503]
        (busy,) = [each for each in answers if each.status_code == 503]
        assert "try again" in message(busy) and busy.headers["retry-after"] == "5"

    @pytest.mark.slow
    def test_two_hundred_requests_of_eight_clients_are_all_answered_in_bounded_memory(self, home: Home):
        resource = pytest.importorskip("resource")
        content, peaks = recording(0.2), []

        async def run() -> list[bytes]:
            app = build(voices(home), Policy())
            results: list[bytes] = []

            async def one() -> None:
                async with client(app, timeout=None) as opened:
                    for _ in range(25):
                        response = await opened.post(CONVERT, content=content)
                        assert response.status_code == 200, response.text
                        results.append(response.content)
                        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

            await asyncio.gather(*[one() for _ in range(8)])
            return results

        results = asyncio.run(run())
        assert len(results) == 200
        assert len(set(results)) == 1, "the same recording gives the same result"
        assert peaks[-1] - peaks[40] < 50_000, "kilobytes after the first 40"
        assert temporary_files() == set()


def test_the_format_that_is_wanted_most_is_chosen_or_none():
    assert accepted("audio/ogg, audio/flac;q=0.5") == "ogg"
    assert accepted("audio/ogg;q=0, */*;q=0.1") == "wav"
    with pytest.raises(Refusal, match="audio/mpeg"):
        accepted("audio/mpeg, text/html;q=0.9")
