"""``aasvc serve`` as a program: its address, its token, its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from aasvc_cli.serve import server
from aasvc_cli.serve.app import build
from aasvc_cli.serve.guard import Policy
from aasvc_cli.storage.home import Home
from tests.serve.clients import recording, voices
from tests.serve.conftest import served


@pytest.fixture
def not_served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command ends when it would begin to serve; the pages that a browser was sent to."""
    pages: list[str] = []
    monkeypatch.setattr(server, "serve", lambda _app, listening, on_ready: (on_ready(), listening.close()))
    monkeypatch.setattr(typer, "launch", lambda url: pages.append(url))
    return pages


class TestAddress:
    def test_it_is_on_this_machine_and_opens_the_browser(self, aasvc: Callable[..., Any], not_served: list[str]):
        outcome = aasvc("serve")
        assert outcome.code == 0, outcome.err
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", outcome.out)
        assert not_served == [outcome.out.strip()]

    def test_another_address_has_a_token_that_is_shown_once(self, aasvc: Callable[..., Any], not_served: list[str]):
        shown = [aasvc("serve", "--host", "127.0.0.1", "--no-browser") for _ in range(2)]
        tokens = [re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=([\w-]{32})\n", each.out) for each in shown]
        assert all(tokens) and tokens[0][1] != tokens[1][1]  # type: ignore[index]
        assert not_served == [] and not any(token[1] in each.err for token, each in zip(tokens, shown, strict=True))  # type: ignore[index]

    def test_a_port_that_is_taken_is_named(self, aasvc: Callable[..., Any], not_served: list[str]):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            outcome = aasvc("serve", "--port", port)
        assert outcome.code == 1
        assert f"127.0.0.1:{port}: in use; choose another --port" in outcome.err

    def test_a_session_opens_its_page(self, aasvc: Callable[..., Any], not_served: list[str], tmp_path: Path):
        (tmp_path / "lines.txt").write_text("One.\nTwo.\n")
        outcome = aasvc("serve", "--record", tmp_path / "mine", "--sentences", tmp_path / "lines.txt")
        assert outcome.out.strip().endswith("/record") and not_served == [outcome.out.strip()]


def test_a_missing_extra_is_one_line_with_its_command(aasvc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    outcome = aasvc("serve")
    assert outcome.code == 1
    assert outcome.err == "aasvc: error: aasvc serve needs a web server; install it: pip install 'aasvc[serve]'\n"


@pytest.fixture
def address(home: Home) -> Iterator[str]:
    with served(build(voices(home), Policy())) as url:
        yield url


def test_who_connects_and_says_nothing_is_told_and_hung_up_on(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    with served(build(voices(home), Policy())) as url:
        port = httpx.URL(url).port
        for sent in (b"", b"POST /v1/convert HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow"):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
                line.sendall(sent)
                said = b""
                while block := line.recv(4096):
                    said += block
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ") and json.loads(body)["error"]["message"]


def test_a_client_with_too_much_reads_why_although_it_still_sends(address: str):
    with socket.create_connection(("127.0.0.1", httpx.URL(address).port), timeout=10) as line:
        line.sendall(b"POST /v1/convert HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(20):
                line.sendall(bytes(1 << 16))
        assert line.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="sends a signal of POSIX")
def test_ctrl_c_ends_it_at_once_in_the_middle_of_a_conversion(home: Home, tmp_path: Path):
    voices(home)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    running = subprocess.Popen(
        [sys.executable, "-m", "aasvc_cli", "serve", "--no-browser", "--model", "tiny", "--vocoder", "griffin-lim"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert running.stdout is not None and running.stderr is not None
    with running:
        url = running.stdout.readline().strip()
        with contextlib.suppress(httpx.TimeoutException):
            httpx.post(f"{url}v1/convert", content=recording(300), timeout=2.0)
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert time.monotonic() - began < 2.0
        assert running.stderr.read().endswith("aasvc: interrupted\n")
    assert list(temporary.glob("aasvc-*")) == []
