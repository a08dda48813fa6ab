"""The server itself: an address, uvicorn in a thread, and an end that does not wait for anybody."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from aasvc_cli.errors import ServeError
from aasvc_cli.serve.guard import Policy
from aasvc_cli.storage.files import abandon_unfinished

LOOPBACK = "127.0.0.1"
MOST_CONNECTIONS = 64
HEAD_SECONDS = 10.0
"""Longest wait for the head of the first request of a connection."""


@dataclass(frozen=True)
class Address:
    """Where the server is found, and by whom.

    Attributes:
        token: asked of everybody where others can reach the server
    """

    host: str
    port: int
    token: str | None = None

    def url(self, page: str = "") -> str:
        """Of a page, for the browser; holds the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/{page}" + (f"?token={self.token}" if self.token else "")

    @property
    def policy(self) -> Policy:
        """Who is let in."""
        return Policy() if self.token is None else Policy(names=None, token=self.token)


def listen(host: str | None, port: int) -> tuple[socket.socket, Address]:
    """A socket that takes connections; port 0 takes a free one.

    Raises:
        ServeError: the address cannot be used.
    """
    place = host or LOOPBACK
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(place, port, type=socket.SOCK_STREAM)[0]
            listening = stack.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError as error:
            what = f"cannot serve at {place}:{port}"
            if error.errno == errno.EADDRINUSE:
                raise ServeError(f"{what}: in use; choose another --port, or leave it out for a free one") from None
            raise ServeError(f"{what}: {error.strerror or error}; choose another --host or --port") from None
        stack.pop_all()
    token = None if host is None else secrets.token_urlsafe(24)
    return listening, Address(place, listening.getsockname()[1], token)


class _Protocol(H11Protocol):
    """HTTP with somebody who hangs up on those who connect and say nothing."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._latest = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._latest.cancel()
        super().connection_lost(exc)

    def _late(self) -> None:
        asked = cast(object, self.cycle) is not None
        if not asked and not self.transport.is_closing():
            body = b'{"error":{"kind":"slow","message":"no request came"}}'
            head = f"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            self.transport.close()


def http_server(app: ASGIApp) -> uvicorn.Server:
    """What serves an application on a socket."""
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=5,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(app: ASGIApp, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until the user stops it.

    It runs in a thread that ends with the process, so that Ctrl-C waits neither for a conversion nor for a client.

    Raises:
        KeyboardInterrupt: stopped.
        ServeError: it ended by itself.
    """
    server = http_server(app)
    thread = threading.Thread(target=server.run, args=([listening],), name="server", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        on_ready()
        while thread.is_alive():
            thread.join(0.5)
    finally:
        abandon_unfinished()
        with contextlib.suppress(OSError):
            listening.close()
    raise ServeError("the server ended by itself; aasvc --debug serve shows why")
