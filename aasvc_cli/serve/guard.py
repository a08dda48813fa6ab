"""Who may ask, how much and how slowly: what every request passes before anything looks at it.

A page of somebody else's must not reach a server on this machine. Its requests carry its own address (``Origin``,
``Sec-Fetch-Site``), or, where its name was made to lead here, that name (``Host``); all of those are refused.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aasvc_cli.serve.refusals import Refusal
from aasvc_cli.storage.files import byte_size

COOKIE = "aasvc-token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of every response."""
MOST_PATH = 200
"""Characters of a path. What there is has shorter ones; Python reads no number of thousands of digits."""
_LINGER_SECONDS = 5.0
"""So long what a refused client still sends is read, as it would not read the answer before."""
_MOST_DIGITS = 20
"""Of a number of bytes, leading zeros included."""


@dataclass(frozen=True)
class Policy:
    """What is let in.

    Attributes:
        names: host names that the server is called by, beside addresses of this machine; None for any, as a token
            stands guard
        token: what everybody has to show; None on a machine of one's own
        max_bytes: most that a request may hold
        silence_seconds, body_seconds: longest wait for the next bytes of a request, and for all of it
    """

    names: frozenset[str] | None = frozenset({"localhost"})
    token: str | None = None
    max_bytes: int = 64 << 20
    silence_seconds: float = 10.0
    body_seconds: float = 120.0


class Guard:
    """Lets requests of :class:`Policy` through to an application, and puts :data:`HEADERS` on every response."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app, self.policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, self.policy)
        answer = _Answer(send, body)
        try:
            admitted = self._admit(Request(scope))
        except Refusal as refusal:
            admitted = refusal.response()
        await (admitted or self.app)(scope, body.receive, answer.send)

    def _admit(self, request: Request) -> Response | None:
        """None for a request that may go on; raises Refusal."""
        if len(request.scope["path"]) > MOST_PATH:
            raise Refusal(414, "path", f"a path of more than {MOST_PATH} characters: there is no such page")
        self._check_host(request)
        _check_origin(request)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal():
            raise Refusal(400, "length", f"Content-Length {length!r:.100}: expected a number of bytes")
        if len(length) > _MOST_DIGITS or int(length) > self.policy.max_bytes:
            raise _too_large(self.policy)
        return self._check_token(request) if self.policy.token is not None else None

    def _check_host(self, request: Request) -> None:
        host = _split(f"//{request.headers.get('host', '')}", "Host").hostname or ""
        if self.policy.names is not None and host not in self.policy.names and not _is_loopback(host):
            raise Refusal(421, "host", f"{host or 'no host'!s:.100}: expected the address that aasvc serve has shown")

    def _check_token(self, request: Request) -> Response | None:
        token = self.policy.token or ""
        asked = request.query_params.get("token")
        if asked is not None and request.method == "GET" and _same(asked, token):
            # out of the address bar and of the history
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(COOKIE, token, httponly=True, samesite="lax")
            return response
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(shown.strip(), token):
            return None
        if _same(request.cookies.get(COOKIE, ""), token):
            return None
        raise Refusal(
            401, "token", "no token, or the wrong one; open the address that aasvc serve has shown, or send the header "
            "Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(address: str, header: str) -> SplitResult:
    """The parts of an address that a header brings; raises Refusal for what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        raise Refusal(400, header.lower(), f"{header} {address.removeprefix('//')!r:.100}: is no address") from None


def _check_origin(request: Request) -> None:
    """Raise Refusal for what a page from elsewhere asks for; a link from one may lead here."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    follows_link = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    strange = origin is not None and _split(origin, "Origin").netloc != request.headers.get("host")
    if strange or (site not in ("same-origin", "none") and not follows_link):
        raise Refusal(403, "origin", f"{origin or 'another site'!s:.100}: pages of other sites are not served")


def _too_large(policy: Policy) -> Refusal:
    return Refusal(
        413, "size", f"larger than {byte_size(policy.max_bytes)}; aasvc convert takes recordings of any size"
    )


class _Body:
    """What a client sends, counted and timed."""

    def __init__(self, receive: Receive, policy: Policy) -> None:
        self._receive, self._policy = receive, policy
        self._n_bytes, self._ended = 0, False
        self._latest = asyncio.get_running_loop().time() + policy.body_seconds

    async def receive(self) -> Message:
        if self._ended:  # what comes now is that the client leaves
            return await self._receive()
        left = self._latest - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(self._policy.silence_seconds, left)):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, "slow", "the recording comes too slowly; send it again") from None
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self._policy.max_bytes:
            raise _too_large(self._policy)
        return message

    async def drain(self) -> None:
        """Read what is still coming, for a while."""
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._ended:
                    message = await self._receive()
                    self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        except TimeoutError:
            pass


class _Answer:
    """A response on its way, with :data:`HEADERS`."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body = send, body
        self._refused = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            self._refused = message["status"] >= 400
        elif self._refused and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._body.drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)
