"""Who is let in: hostile requests, each of which gets a clear refusal and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aasvc_cli.serve.guard import COOKIE, HEADERS, Policy
from aasvc_cli.serve.voices import Voices
from aasvc_cli.storage.home import Home
from tests.serve.clients import answer, asking, message, recording

CONVERT = "/v1/convert"
SECRET = Policy(names=None, token="a secret")
SMALL = Policy(max_bytes=1000, silence_seconds=0.1, body_seconds=0.3)
STRANGE_HOSTS = ("evil.example", "evil.example:8000", "localhost.evil.example", "192.168.1.7", "127.0.0.1.nip.io", "")
BROKEN_HOSTS = ("[::1", "::1]", "a]b:80", "[" * 5000)
STRANGE_ORIGINS = (
    "http://evil.example", "https://evil.example", "http://127.0.0.1:9999", "http://localhost:8000", "null", "file://",
    "http://127.0.0.1:8000.evil.example", "chrome-extension://abcdef",
)  # fmt: skip
STRANGE_PATHS = (
    "/../etc/passwd", "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
    "/static/%2fetc%2fpasswd", "/static/..%5c..%5capp.py", "/examples/0/../../x", "/v1/", "/v1/convert/x",
    "/.git/config", "/docs", "/%00", "/static/%00", "/static", "/static/", "/picture/x", "/v2/convert",
)  # fmt: skip
WRONG_TOKENS: tuple[dict[str, Any], ...] = (
    {},
    {"headers": {"Authorization": "Bearer wrong"}},
    {"headers": {"Authorization": "Basic YTphIHNlY3JldA=="}},
    {"headers": {"Authorization": "a secret"}},
    {"headers": {"Authorization": "Bearer "}},
    {"headers": {"Cookie": f"{COOKIE}=wrong"}},
    {"params": {"token": "wrong"}},
    {"params": {"token": ""}},
    {"params": {"token": "ä secret"}},
)
METHODS = ("GET", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND")


async def slowly(block: bytes, pause: float, count: int = 1000) -> AsyncIterator[bytes]:
    """A body that takes its time, or never ends."""
    for _ in range(count):
        yield block
        await asyncio.sleep(pause)


def hostile() -> list[Any]:
    """Policy, status, method, path and the rest of each request."""
    rows: list[Any] = []
    rows += [(Policy(), 421, "POST", CONVERT, {"headers": {"Host": host}}) for host in STRANGE_HOSTS]
    rows += [(Policy(), 403, "POST", CONVERT, {"headers": {"Origin": origin}}) for origin in STRANGE_ORIGINS]
    rows += [
        (Policy(), 403, method, CONVERT, {"headers": {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}})
        for site in ("cross-site", "same-site")
        for method, mode in (("POST", "cors"), ("POST", "navigate"), ("GET", "no-cors"))
    ]
    rows += [(Policy(), 404, "GET", path, {}) for path in STRANGE_PATHS]
    rows += [(SECRET, 401, "POST", CONVERT, rest) for rest in WRONG_TOKENS]
    rows += [(Policy(), 405, method, CONVERT, {}) for method in METHODS]
    rows += [
        (SMALL, 413, "POST", path, {"content": content})
        for path in (CONVERT, "/picture")
        for content in (bytes(1001), [b"x" * 600, b"y" * 600], "endless")
    ]
    rows += [(SMALL, 408, "POST", path, {"content": c}) for path in (CONVERT, "/picture") for c in ("silent", "slow")]
    rows += [(SMALL, 413, "POST", CONVERT, {"headers": {"Content-Length": n}}) for n in ("1001", "9" * 30, "9" * 5000)]
    rows += [(SMALL, 400, "POST", CONVERT, {"headers": {"Content-Length": n}}) for n in ("-1", "1e9", "", "x" * 5000)]
    rows += [
        (policy, 400, "GET", "/", {"headers": {name: beginning + host}})
        for policy in (Policy(), SECRET)
        for name, beginning in (("Host", ""), ("Origin", "http://"))
        for host in BROKEN_HOSTS
    ]
    rows += [
        (Policy(), 414, method, path.format("9" * 5000), {})
        for method, path in (
            ("GET", "/examples/{}/source"), ("GET", "/listen/me/{}/first"), ("POST", "/record/{}"), ("GET", "/{}"),
        )
    ]  # fmt: skip
    rows += [
        (Policy(), 422, "POST", f"{CONVERT}?{option}={'9' * 5000}", {"content": b"x"})
        for option in ("seed", "raw_rate", "speed", "noise_scale")
    ]
    return rows


BODIES = {"endless": (b"x" * 100, 0.0), "silent": (b"x", 60.0), "slow": (b"x", 0.05)}


def name_of(row: Any) -> str:
    _, status, method, path, rest = row
    return f"{status} {method} {path} {str(rest)[:60]}"


def test_there_are_sixty_of_them():
    assert len(hostile()) >= 60


@pytest.mark.parametrize("row", hostile(), ids=name_of)
def test_a_hostile_request_gets_a_clear_refusal(home: Home, row: Any):
    policy, status, method, path, rest = row
    rest = dict(rest)
    content = rest.get("content")
    if isinstance(content, str):
        rest["content"] = slowly(*BODIES[content])
    elif isinstance(content, list):

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in content:
                yield chunk

        rest["content"] = chunks()

    async def work(opened: httpx.AsyncClient) -> httpx.Response:
        async with asyncio.timeout(8):
            return await opened.request(method, path, **rest)

    response = asking(home, work, policy, known=Voices(home))
    assert response.status_code == status
    assert 10 < len(message(response)) < 300
    assert {name: response.headers.get(name) for name in HEADERS} == HEADERS


def test_every_response_keeps_the_browser_from_loading_anything_from_elsewhere(home: Home):
    for path in ("/", "/v1/models", "/static/common.js", "/page.css", "/nothing"):
        policy = answer(home, "GET", path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_a_link_from_elsewhere_may_lead_to_the_page(home: Home):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert answer(home, "GET", "/", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "127.8.8.8:1"])
def test_names_of_this_machine_are_known(home: Home, host: str):
    assert answer(home, "GET", "/", headers={"Host": host}).status_code == 200


class TestToken:
    def test_the_address_with_the_token_leads_in_and_takes_it_out_of_sight(self, home: Home):
        async def work(opened: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
            first = await opened.get("/", params={"token": "a secret"})
            return first, await opened.get("/")

        first, second = asking(home, work, SECRET)
        assert (first.status_code, first.headers["location"]) == (303, "/")
        assert "HttpOnly" in first.headers["set-cookie"] and "SameSite=lax" in first.headers["set-cookie"]
        assert second.status_code == 200

    def test_programs_show_it_in_a_header(self, home: Home):
        headers = {"Authorization": "Bearer a secret"}
        response = answer(home, "POST", CONVERT, SECRET, content=recording(), headers=headers)
        assert response.status_code == 200

    def test_whoever_has_it_may_come_by_any_name(self, home: Home):
        headers = {"Authorization": "Bearer a secret", "Host": "studio.example"}
        assert answer(home, "GET", "/", SECRET, headers=headers).status_code == 200


def test_a_client_that_leaves_is_no_error(home: Home):
    async def broken() -> AsyncIterator[bytes]:
        yield b"RIFF"
        raise ConnectionError

    async def work(opened: httpx.AsyncClient) -> int:
        with contextlib.suppress(ConnectionError):
            await opened.post(CONVERT, content=broken())
        return (await opened.post(CONVERT, content=recording())).status_code

    assert asking(home, work) == 200
