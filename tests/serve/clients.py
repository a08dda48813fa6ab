"""Clients that ask the application directly, without a socket, and a small voice for it to speak with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import numpy as np

from aasvc_cli.audio.files import encode_audio
from aasvc_cli.serve.app import build
from aasvc_cli.serve.guard import Policy
from aasvc_cli.serve.listen import BlindTest
from aasvc_cli.serve.recording import Session
from aasvc_cli.serve.voices import Voices
from aasvc_cli.storage.home import Home
from tests.voices import tiny_config, write_voice

RATE = 16000
OPEN = Policy()
ADDRESS = "http://127.0.0.1:8000"


def recording(seconds: float = 0.3, format_name: str = "WAV") -> bytes:
    """A buzz that rises and falls."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.2 * np.sin(2 * np.pi * 150 * time) * np.sin(np.pi * time / seconds)
    return encode_audio(wave.astype(np.float32), RATE, format_name)


def voices(home: Home) -> Voices:
    """Voices of a data folder with one that is called tiny."""
    write_voice(home.exp / "a_b_tiny", tiny_config())
    return Voices(home, model="tiny", vocoder="griffin-lim", device="cpu")


@contextlib.asynccontextmanager
async def client(app: Any, **rest: Any) -> AsyncIterator[httpx.AsyncClient]:
    """What a program on this machine has."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS, **rest) as opened:
        yield opened


def asking(
    home: Home,
    work: Callable[[httpx.AsyncClient], Awaitable[Any]],
    policy: Policy = OPEN,
    *,
    known: Voices | None = None,
    session: Session | None = None,
    test: BlindTest | None = None,
) -> Any:
    """The result of some work with a client of an application."""

    async def run() -> Any:
        app = build(known or voices(home), policy, session, test)
        async with client(app) as opened:
            return await work(opened)

    return asyncio.run(run())


def answer(home: Home, method: str, path: str, policy: Policy = OPEN, **rest: Any) -> httpx.Response:
    """The response to one request."""
    return asking(home, lambda opened: opened.request(method, path, **rest), policy)


def message(response: httpx.Response) -> str:
    """The sentence with which a request was refused."""
    error = response.json()["error"]
    assert set(error) == {"kind", "message"} and "\n" not in error["message"]
    return error["message"]
