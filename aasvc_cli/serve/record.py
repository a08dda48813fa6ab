"""The page to record."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from aasvc_cli.audio.files import decode_audio
from aasvc_cli.errors import AudioError
from aasvc_cli.serve.api import NAME, is_longer, save_body, temporary
from aasvc_cli.serve.pages import as_wav, page
from aasvc_cli.serve.recording import Sentence, Session, faults
from aasvc_cli.serve.refusals import Refusal

MOST_SECONDS = 60.0
"""Of one reading."""


def routes(session: Session | None) -> list[Route]:
    """The page to record a session; without one, it says how to begin."""

    async def record(_request: Request) -> Response:
        return page("record.html.jinja", session=session)

    if session is None:
        return [Route("/record", record)]

    def chosen(request: Request) -> Sentence:
        number = request.path_params["number"]
        if number >= len(session.sentences):
            are = "is" if len(session.sentences) == 1 else "are"
            raise Refusal(404, "not_found", f"sentence {number}: there {are} {len(session.sentences)}")
        return session.sentences[number]

    async def state(_request: Request) -> Response:
        return JSONResponse({"sentences": [_tree(session, each) for each in session.sentences]})

    async def target(request: Request) -> Response:
        sentence = chosen(request)
        if sentence.target is None:
            raise Refusal(404, "not_found", f"{sentence.name}: the target has not read it")
        return Response(await asyncio.to_thread(as_wav, sentence.target), media_type="audio/wav")

    async def own(request: Request) -> Response:
        path = session.path(chosen(request))
        if not path.is_file():
            raise Refusal(404, "not_found", f"{path.stem}: not recorded yet")
        return FileResponse(path, media_type="audio/wav")

    async def take(request: Request) -> Response:
        sentence, anyway = chosen(request), request.query_params.get("anyway") == "1"
        with temporary() as path:
            await save_body(request, path)

            def judged() -> dict[str, Any]:
                if is_longer(path, MOST_SECONDS):
                    raise AudioError(f"{NAME}: longer than {MOST_SECONDS:g} s; record this sentence alone")
                wave, sample_rate = decode_audio(path, str(NAME))
                wrong = faults(wave, sample_rate, sentence.target)
                if not wrong or anyway:
                    session.keep(sentence, wave, sample_rate)
                return {"kept": not wrong or anyway, "faults": wrong, "seconds": len(wave) / sample_rate}

            return JSONResponse(await asyncio.to_thread(judged))

    return [
        Route("/record", record),
        Route("/record/state", state),
        Route("/record/{number:int}", take, methods=["POST"]),
        Route("/record/{number:int}/target", target),
        Route("/record/{number:int}/own", own),
    ]


def _tree(session: Session, sentence: Sentence) -> dict[str, Any]:
    return {
        "name": sentence.name, "text": sentence.text, "target": sentence.target is not None,
        "done": session.path(sentence).is_file(),
    }  # fmt: skip
