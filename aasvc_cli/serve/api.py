"""The HTTP interface: ``POST /v1/convert``, ``GET /v1/models``, and the document that describes them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import IO, Any, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from aasvc_cli import __version__
from aasvc_cli.audio.streams import RAW_ENCODINGS, AudioFile, RawAudio
from aasvc_cli.conversion.converter import DEFAULT_SEED, MOST_SEED, ConvertOptions
from aasvc_cli.conversion.plan import Job
from aasvc_cli.errors import AudioError
from aasvc_cli.pipeline.convert import FailedFile
from aasvc_cli.pipeline.models import known_models
from aasvc_cli.serve.refusals import Refusal
from aasvc_cli.serve.voices import Voices
from aasvc_cli.storage.files import storage_error, temporary_file

MOST_SECONDS = 600.0
"""A longer recording would keep everybody else waiting."""
NAME = Path("the recording")
"""How messages call what came in; names that clients give are not used for anything."""
MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg"}
_OTHER_NAMES = {"audio/x-wav": "wav", "audio/wave": "wav", "audio/vnd.wave": "wav", "audio/x-flac": "flac"}
WARNINGS = "Aasvc-Warnings"
"""Header with what one should know about a result, as in the URL encoding of UTF-8."""

_Model = TypeVar("_Model", bound=BaseModel)


class ConvertQuery(BaseModel):
    """The options of ``aasvc convert`` that make sense from afar."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str | None = Field(None, description="A voice of GET /v1/models; without it, the server's own.")
    vocoder: str | None = Field(None, description="A vocoder of the data folder, universal, bundled, or griffin-lim.")
    format: Literal["wav", "flac", "ogg"] | None = Field(None, description="Of the result; without it, Accept decides.")
    seed: int = Field(
        DEFAULT_SEED,
        ge=0,
        le=MOST_SEED,
        description="Of the rhythm, where the model draws it, and of the vocoder's noise.",
    )
    noise_scale: float | None = Field(
        None, ge=0, description="Freedom of the rhythm, where the model draws it; 0 is the most likely one."
    )
    speed: float = Field(1.0, ge=0.1, le=10, description="2 speaks twice as fast.")
    raw_format: str | None = Field(
        None, description=f"The body is samples without a header: {', '.join(RAW_ENCODINGS)}."
    )
    raw_rate: int | None = Field(None, ge=1, description="Their sample rate in Hz.")
    raw_channels: int = Field(1, ge=1, description="Their channels, interleaved.")

    @property
    def raw(self) -> RawAudio | None:
        """What the body is if it has no header; raises Refusal or DataError."""
        if (self.raw_format is None) != (self.raw_rate is None):
            raise Refusal(422, "option", "raw_format and raw_rate go together")
        if self.raw_format is None or self.raw_rate is None:
            return None
        return RawAudio(self.raw_format, self.raw_rate, self.raw_channels)


def parsed(kind: type[_Model], values: Any) -> _Model:
    """Values from outside, checked; raises Refusal that names each that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Refusal(422, "option", "; ".join(_fault(each) for each in error.errors()[:5])) from None


def _fault(error: Any) -> str:
    name = ".".join(map(str, error["loc"]))[:50]
    if error["type"] == "extra_forbidden":
        return f"{name}: no such option"
    return f"{name} {error['input']!r:.50}: {error['msg'].replace('Input should be', 'expected')}"


def routes(voices: Voices) -> list[Route]:
    """The interface to some voices."""

    async def models(_request: Request) -> Response:
        known = await asyncio.to_thread(known_models, voices.home)
        default = voices.folder(None)
        listed = [{"name": m.name, "kind": m.kind, "about": m.about, "card": m.card} for m in known.models]
        name = next((m.name for m in known.models if m.folder == default), voices.model)
        return JSONResponse({"models": listed, "default": name})

    async def convert(request: Request) -> Response:
        query = parsed(ConvertQuery, dict(request.query_params))
        chosen = query.format or accepted(request.headers.get("accept", "*/*"))
        options, raw = ConvertOptions(query.seed, query.noise_scale, query.speed), query.raw
        with contextlib.ExitStack() as files:
            source, output = files.enter_context(temporary()), files.enter_context(temporary())
            await save_body(request, source)
            await asyncio.to_thread(_check_length, source, raw)
            job = Job(NAME, output, chosen, raw=raw, content=source)
            outcome = await voices.convert(query.model, query.vocoder, job, options)
            if isinstance(outcome, FailedFile):
                raise outcome.error
            warnings = "; ".join(getattr(outcome, "warnings", ()))
            headers = {WARNINGS: quote(warnings, safe=" ,;:()")} if warnings else {}
            return _Result(output, files.pop_all(), media_type=MEDIA_TYPES[chosen], headers=headers)

    async def document(_request: Request) -> Response:
        return JSONResponse(openapi())

    return [
        Route("/v1/models", models),
        Route("/v1/convert", convert, methods=["POST"]),
        Route("/openapi.json", document),
    ]


class _Result(FileResponse):
    """A file that goes when it has been sent."""

    def __init__(self, path: Path, files: contextlib.ExitStack, **rest: Any) -> None:
        super().__init__(path, **rest)
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._files:
            await super().__call__(scope, receive, send)


@contextlib.contextmanager
def temporary() -> Any:
    """A file with a name of ours; raises StorageError."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(temporary_file())
        except OSError as error:
            raise storage_error("write", Path("a temporary file"), error) from None
        yield path


async def save_body(request: Request, path: Path) -> None:
    """Everything that a request brings; raises AudioError if that is nothing, Refusal for a form, and StorageError."""
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        message = "a form, expected the recording itself as the body, as curl --data-binary @in.wav sends it"
        raise Refusal(415, "form", message)
    n_bytes = 0
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                n_bytes += len(chunk)
                await asyncio.to_thread(_write, file, chunk)
    except OSError as error:
        raise storage_error("write", Path("a temporary file"), error) from None
    if not n_bytes:
        raise AudioError(f"{NAME}: nothing came in, expected a recording", "empty")


def _write(file: IO[bytes], chunk: bytes) -> None:
    file.write(chunk)


def is_longer(path: Path, seconds: float, raw: RawAudio | None = None) -> bool:
    """Whether a recording is longer than that; raises AudioError for what is none."""
    sound = AudioFile(path, str(NAME), raw)
    n_samples = 0
    for block in sound.blocks():
        n_samples += len(block)
        if n_samples > seconds * sound.sample_rate:
            return True
    return False


def _check_length(path: Path, raw: RawAudio | None) -> None:
    """Raise AudioError for what is no recording, and for one that is too long."""
    if is_longer(path, MOST_SECONDS, raw):
        raise AudioError(
            f"{NAME}: longer than {MOST_SECONDS:g} s; cut it, or use aasvc convert, which takes any length"
        )


def accepted(header: str) -> str:
    """The format that a client wants most of those that can be written; raises Refusal."""
    wanted = []
    for place, entry in enumerate(header.split(",")):
        media_type, *parameters = [part.strip().lower() for part in entry.split(";")]
        quality = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        with contextlib.suppress(ValueError):
            if float(quality) > 0:
                wanted.append((-float(quality), place, media_type))
    for _, _, media_type in sorted(wanted):
        if media_type in ("*/*", "audio/*", ""):
            return "wav"
        for name, own in (*MEDIA_TYPES.items(), *((name, other) for other, name in _OTHER_NAMES.items())):
            if media_type == own:
                return name
    raise Refusal(406, "format", f"Accept: {header:.100}: can be {', '.join(MEDIA_TYPES.values())}")


def openapi() -> dict[str, Any]:
    """The interface as an OpenAPI 3.1 document."""
    error = {"$ref": "#/components/schemas/Error"}
    refused = {"description": "Refused; the message says why.", "content": {"application/json": {"schema": error}}}
    properties = ConvertQuery.model_json_schema()["properties"]
    parameters = [
        {
            "name": name, "in": "query", "description": schema.pop("description", ""),
            "schema": {key: value for key, value in schema.items() if key != "title"},
        }
        for name, schema in properties.items()
    ]  # fmt: skip
    sound = {"schema": {"type": "string", "format": "binary"}}
    text = {"type": "string"}
    voice = {"type": "object", "properties": {"name": text, "kind": text, "about": text, "card": {"type": "object"}}}
    models = {"type": "object", "properties": {"models": {"type": "array", "items": voice}, "default": text}}
    convert = {
        "operationId": "convert",
        "summary": "Convert a recording to the target voice",
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "description": f"The recording (WAV, FLAC, Ogg, MP3, ...), of at most {MOST_SECONDS:g} s",
            "content": {"application/octet-stream": sound},
        },
        "responses": {
            "200": {"description": "The result", "content": dict.fromkeys(MEDIA_TYPES.values(), sound)},
            "default": refused,
        },
    }
    listing = {
        "operationId": "models",
        "summary": "The voices that are here",
        "responses": {
            "200": {"description": "All of them", "content": {"application/json": {"schema": models}}},
            "default": refused,
        },
    }
    failure = {"type": "object", "properties": {"kind": text, "message": text}, "required": ["kind", "message"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "aasvc", "version": __version__},
        "paths": {"/v1/convert": {"post": convert}, "/v1/models": {"get": listing}},
        "components": {
            "schemas": {"Error": {"type": "object", "properties": {"error": failure}, "required": ["error"]}},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
