"""The pages, their scripts and styles, and what the page for conversions requests besides the HTTP interface."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from aasvc_cli import __version__
from aasvc_cli.audio.files import encode_audio, read_audio
from aasvc_cli.conversion.voice import prepared_name
from aasvc_cli.data.corpus import scan_speaker
from aasvc_cli.data.manifest import list_prepared, read_manifest
from aasvc_cli.data.texts import read_texts
from aasvc_cli.report import drawing
from aasvc_cli.report.collect import WIDE_F0_RANGE, take
from aasvc_cli.report.page import data_uri, describe
from aasvc_cli.serve.api import is_longer, save_body, temporary
from aasvc_cli.serve.refusals import Refusal
from aasvc_cli.serve.voices import Voices
from aasvc_cli.storage.home import bundled

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_EXAMPLES = 20
SHOWN_SECONDS = 60.0
"""A longer recording has no picture."""


def routes(voices: Voices) -> list[Route | Mount]:
    """The page to convert, and what belongs to all pages."""

    async def convert(_request: Request) -> Response:
        return page("convert.html.jinja")

    async def style(_request: Request) -> Response:
        return FileResponse(str(resources.files("aasvc_cli") / "report" / "templates" / "page.css"))

    async def picture(request: Request) -> Response:
        with temporary() as path:
            await save_body(request, path)
            shown = await asyncio.to_thread(_picture, path)
            return Response(status_code=204) if shown is None else JSONResponse(shown)

    async def examples(request: Request) -> Response:
        recordings = await asyncio.to_thread(_examples, voices, request.query_params.get("model"))
        return JSONResponse({"examples": [{"name": name, "text": text} for name, text, _, _ in recordings]})

    async def example(request: Request) -> Response:
        recordings = await asyncio.to_thread(_examples, voices, request.query_params.get("model"))
        number = request.path_params["number"]
        if number >= len(recordings):
            raise Refusal(404, "not_found", f"example {number}: this voice has {len(recordings)}")
        path = recordings[number][2 if request.path_params["side"] == "source" else 3]
        return Response(await asyncio.to_thread(as_wav, path), media_type="audio/wav")

    return [
        Route("/", convert),
        Route("/page.css", style),
        Route("/picture", picture, methods=["POST"]),
        Route("/examples", examples),
        Route("/examples/{number:int}/{side}", example),
        Mount("/static", StaticFiles(packages=[("aasvc_cli.serve", "static")])),
    ]


def page(template: str, **content: Any) -> Response:
    """A page made of a template."""
    return HTMLResponse(_environment().get_template(template).render(version=__version__, **content))


def as_wav(path: Path) -> bytes:
    """A recording in the form that every browser plays; raises AudioError."""
    return encode_audio(*read_audio(path))


def _picture(path: Path) -> dict[str, Any] | None:
    """What a recording looks like: its spectrogram as PNG, its F0 as the path of a line, and both in words.

    None for one that is too long to show.
    """
    if is_longer(path, SHOWN_SECONDS):
        return None
    shown = take("source", "", path)
    assert shown.mel is not None
    return {
        "seconds": shown.seconds,
        "image": data_uri(drawing.spectrogram(shown.mel, *drawing.mel_range([shown.mel])), "image/png"),
        "f0": drawing.f0_path(shown.f0, WIDE_F0_RANGE),
        "words": describe(shown).removeprefix("Mel spectrogram of the source, "),
    }


def _examples(voices: Voices, model: str | None) -> list[tuple[str, str, Path, Path]]:
    """Name, sentence, source and target of held-out pairs of a voice; the bundled one has those of the demo corpus."""
    folder = voices.folder(model)
    name = prepared_name(folder)
    if name is not None and name in list_prepared(voices.home):
        sets = read_manifest(voices.home, name).sets
        pairs = [*sets["eval"], *sets["dev"]][:MOST_EXAMPLES]
        return [(pair.utterance_id, pair.text or "", pair.source, pair.target) for pair in pairs]
    if folder != bundled("voice"):
        return []
    speakers = [bundled("demo") / "ja-JP" / speaker for speaker in ("male", "female")]
    texts = read_texts(speakers[1])
    sides = [scan_speaker(speaker).sets["eval"] for speaker in speakers]
    return [(source.stem, texts.get(source.stem, ""), source, target) for source, target in zip(*sides, strict=True)]


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("aasvc_cli.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
