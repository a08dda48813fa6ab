"""The page to listen: a blind test of two or more folders, whose answers go to a file."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aasvc_cli.audio.files import encode_audio, read_audio
from aasvc_cli.audio.quality import Wave
from aasvc_cli.data.counterparts import recordings_below
from aasvc_cli.data.texts import decoded
from aasvc_cli.errors import DataError
from aasvc_cli.measures.listening import (
    ANCHOR,
    ANCHOR_HZ,
    CHOICES,
    Answer,
    Question,
    Trial,
    from_csv,
    plan,
    to_csv,
    verdicts,
    verdicts_csv,
)
from aasvc_cli.serve.api import parsed
from aasvc_cli.serve.pages import as_wav, page
from aasvc_cli.serve.refusals import Refusal
from aasvc_cli.storage.files import write_text

MOST_LISTENERS = 1000
"""Files of answers grow no further."""


class Reply(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    answer: Annotated[str, Field(max_length=20)]
    seconds: Annotated[float, Field(ge=0, le=86400)]


@dataclass
class BlindTest:
    """A blind test under way.

    Attributes:
        systems: recordings by utterance, by the name of the system
        path: the file of answers
    """

    systems: Mapping[str, Mapping[str, Path]]
    question: Question
    seed: int
    path: Path
    answers: list[Answer] = field(default_factory=list)
    writing: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, folders: Sequence[Path], question: Question, seed: int, path: Path) -> BlindTest:
        """A test of some folders; goes on with the answers that are in the file.

        Raises:
            DataError: fewer than two folders for a preference, of the same name, or without common recordings; two
                recordings of a folder that differ in their suffix only; or the file holds something else.
        """
        if len(folders) < 2:
            raise DataError("a listening test compares folders: give --listen DIR twice or more")
        systems = {
            folder.name or str(folder): recordings_below(folder, "compared") for folder in map(Path.absolute, folders)
        }
        if len(systems) < len(folders) or ANCHOR in systems:
            raise DataError(f"--listen: folders of different names are expected, and none named {ANCHOR}; rename them")
        shared = set.intersection(*map(set, systems.values()))
        if not shared:
            counts = ", ".join(f"{name} ({len(recordings)})" for name, recordings in systems.items())
            raise DataError(f"--listen: no recording has the same name in all folders: {counts}")
        answers = from_csv(decoded(path), str(path)) if path.exists() else []
        return cls(systems, question, seed, path, answers)

    def trials(self, listener: str) -> list[Trial]:
        """All questions of a listener."""
        shared = sorted(set.intersection(*map(set, self.systems.values())))
        return plan(shared, sorted(self.systems), self.question, self.seed, listener)

    def answered(self, listener: str) -> set[int]:
        """Numbers of the questions that a listener has answered; the file may hold answers of other tests, too."""
        trials = self.trials(listener)
        return {each.trial for each in self.answers if each.listener == listener and self._asks(each, trials)}

    def _asks(self, answer: Answer, trials: Sequence[Trial]) -> bool:
        """Whether an answer is to a question of this test."""
        if (answer.question, answer.seed) != (self.question, self.seed) or answer.trial >= len(trials):
            return False
        trial = trials[answer.trial]
        return (answer.utterance, answer.first, answer.second) == (trial.utterance, trial.first, trial.second)

    def add(self, answer: Answer) -> None:
        """Keep an answer, in place of an older one to the same question; raises StorageError."""
        with self.writing:
            same = replace(answer, answer="", seconds=0.0)
            kept = [each for each in self.answers if replace(each, answer="", seconds=0.0) != same]
            if len({each.listener for each in kept} - {answer.listener}) >= MOST_LISTENERS:
                raise Refusal(403, "listeners", f"{MOST_LISTENERS} people have taken part; that is enough")
            write_text(self.path, to_csv([*kept, answer]))
            self.answers = [*kept, answer]

    def sound(self, trial: Trial, side: str) -> bytes:
        """What is heard, as WAV; raises AudioError."""
        system = trial.first if side == "first" else trial.second
        if system == ANCHOR:
            wave, sample_rate = read_audio(self.systems[trial.origin][trial.utterance])
            return encode_audio(muffled(wave, sample_rate), sample_rate)
        return as_wav(self.systems[system][trial.utterance])


def muffled(wave: Wave, sample_rate: int) -> Wave:
    """Only what lies below the frequency of anchors."""
    from scipy.signal import butter, sosfiltfilt

    if sample_rate <= 2 * ANCHOR_HZ:
        return wave
    low_pass = butter(8, ANCHOR_HZ, fs=sample_rate, output="sos")
    return np.asarray(sosfiltfilt(low_pass, wave), dtype=np.float32)


def routes(test: BlindTest | None) -> list[Route]:
    """The page of a test; without one, it says how to begin."""

    async def listen(_request: Request) -> Response:
        return page("listen.html.jinja", test=test)

    if test is None:
        return [Route("/listen", listen)]

    def who(request: Request) -> str:
        name = str(request.path_params["listener"])
        if not re.fullmatch(r"[\w-]{1,40}", name):
            raise Refusal(422, "listener", "a listener is called by 1 to 40 letters and digits")
        return name

    def asked(request: Request) -> tuple[str, int, Trial]:
        listener, number = who(request), request.path_params["number"]
        trials = test.trials(listener)
        if number >= len(trials):
            raise Refusal(404, "not_found", f"question {number}: there are {len(trials)}")
        return listener, number, trials[number]

    async def state(request: Request) -> Response:
        listener = who(request)
        return JSONResponse({"count": len(test.trials(listener)), "answered": sorted(test.answered(listener))})

    async def sound(request: Request) -> Response:
        _, _, trial = asked(request)
        side = request.path_params["side"]
        if side not in ("first", "second") or (side == "second" and not trial.second):
            raise Refusal(404, "not_found", f"{side:.20}: no such sound")
        return Response(await asyncio.to_thread(test.sound, trial, side), media_type="audio/wav")

    async def answer(request: Request) -> Response:
        listener, number, trial = asked(request)
        reply = parsed(Reply, await json_body(request))
        if reply.answer not in CHOICES[test.question]:
            raise Refusal(422, "answer", f"{reply.answer}: expected one of {', '.join(CHOICES[test.question])}")
        kept = Answer(
            listener, test.question, test.seed, number, trial.utterance, trial.first, trial.second, reply.answer,
            round(reply.seconds, 2),
        )  # fmt: skip
        await asyncio.to_thread(test.add, kept)
        return JSONResponse({"answered": sorted(test.answered(listener))})

    async def results(_request: Request) -> Response:
        headers = {"Content-Disposition": "attachment; filename=listening-results.csv"}
        return Response(verdicts_csv(verdicts(test.answers)), media_type="text/csv", headers=headers)

    return [
        Route("/listen", listen),
        Route("/listen/results.csv", results),
        Route("/listen/{listener}", state),
        Route("/listen/{listener}/{number:int}", answer, methods=["POST"]),
        Route("/listen/{listener}/{number:int}/{side}", sound),
    ]


async def json_body(request: Request) -> object:
    """What a request brings as JSON; raises Refusal."""
    try:
        return await request.json()
    except (ValueError, RecursionError):  # thousands of brackets in each other
        raise Refusal(422, "json", "expected JSON") from None
