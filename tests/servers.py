"""A real HTTP server on loopback that serves files and misbehaves as told."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import io
import re
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aasvc_cli.audio.files import encode_audio, read_audio

LONG_AGO = 1_700_000_000


@dataclass
class Resource:
    """A file on the server, and how well the server describes it."""

    data: bytes
    etag: bool = True
    modified: int | None = LONG_AGO
    ranges: bool = True
    if_range: bool = True
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def validators(self) -> dict[str, str]:
        found = {}
        if self.etag:
            found["ETag"] = f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'
        if self.modified is not None:
            found["Last-Modified"] = email.utils.formatdate(self.modified, usegmt=True)
        return found


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


Fault = Callable[["Handler", Resource], None]


class Server:
    """Files by path; each GET of a file takes the next fault in the queue, or is served as it should be."""

    def __init__(self) -> None:
        self.files: dict[str, Resource] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.sent = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.owner = self  # type: ignore[attr-defined]
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def put(self, path: str, data: bytes, **how: Any) -> str:
        self.files[path] = Resource(data, **how)
        return self.url + path

    def gets(self, path: str | None = None) -> list[Request]:
        return [each for each in self.requests if each.method == "GET" and path in (None, each.path)]

    def close(self) -> None:
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> Server:
        return self.server.owner  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = urlsplit(self.path)
        # a proxy is asked for whole addresses
        path = parts.netloc + parts.path if parts.netloc else parts.path
        with self.owner.lock:
            self.owner.requests.append(Request(self.command, path, dict(self.headers)))
            resource = self.owner.files.get(path)
            fault = self.owner.faults.pop(0) if body and resource is not None and self.owner.faults else None
        if resource is None:
            self.status(404)
        elif fault is not None:
            fault(self, resource)
        else:
            self.serve(resource, body=body)

    def wanted(self, resource: Resource) -> int | None:
        """First byte of the part that is asked for and allowed; None for the whole."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or not resource.ranges:
            return None
        condition = self.headers.get("If-Range")
        if condition and resource.if_range and condition not in resource.validators().values():
            return None
        return int(match[1])

    def serve(self, resource: Resource, *, body: bool = True, cut: int | None = None, reset: bool = False) -> None:
        """As it should be, or only ``cut`` bytes of the body."""
        first, total = self.wanted(resource) if body else None, len(resource.data)
        if first is not None and first >= total:
            self.status(416, {"Content-Range": f"bytes */{total}"})
            return
        data = resource.data[first or 0 :]
        headers = {**resource.validators(), **resource.headers}
        if first is not None:
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        if resource.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(data))
        self.head(206 if first is not None else 200, headers)
        if not body:
            return
        sent = data if cut is None else data[:cut]
        for start in range(0, len(sent), 1 << 14):
            block = sent[start : start + (1 << 14)]
            self.write(f"{len(block):x}\r\n".encode() + block + b"\r\n" if resource.chunked else block)
            self.owner.sent += len(block)
        if cut is not None:
            self.hang_up(reset)
        elif resource.chunked:
            self.write(b"0\r\n\r\n")

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def status(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"no") -> None:
        self.head(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.write(body)

    def write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def hang_up(self, reset: bool = False) -> None:
        self.close_connection = True
        if reset:  # a reset in place of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)


# --- faults ---------------------------------------------------------------------------------------------------------


def as_it_is(handler: Handler, resource: Resource) -> None:
    """No fault."""
    handler.serve(resource)


def drop(n: int, reset: bool = False) -> Fault:
    """The connection ends after n bytes of the body."""
    return lambda handler, resource: handler.serve(resource, cut=n, reset=reset)


def refuse(handler: Handler, resource: Resource) -> None:
    """The connection ends before a word is said."""
    handler.hang_up(reset=True)


def status(code: int, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, resource: handler.status(code, named)


def ignore_range(handler: Handler, resource: Resource) -> None:
    handler.head(200, {**resource.validators(), "Content-Length": str(len(resource.data))})
    handler.write(resource.data)


def wrong_range(handler: Handler, resource: Resource) -> None:
    """Another part than the one asked for."""
    first = max(0, (handler.wanted(resource) or 0) - 7)
    total = len(resource.data)
    content_range = f"bytes {first}-{total - 1}/{total}"
    handler.head(206, {**resource.validators(), "Content-Range": content_range, "Content-Length": str(total - first)})
    handler.write(resource.data[first:])


def long_body(n: int) -> Fault:
    """More bytes than announced."""

    def fault(handler: Handler, resource: Resource) -> None:
        handler.serve(resource)
        handler.write(b"x" * n)
        handler.hang_up()

    return fault


def change(data: bytes, then: Fault | None = None) -> Fault:
    """Another file under the same name, from now on."""

    def fault(handler: Handler, resource: Resource) -> None:
        resource.data = data
        if resource.modified is not None:
            resource.modified += 60
        (then or Handler.serve)(handler, resource)

    return fault


def stall(n: int, seconds: float) -> Fault:
    """Silence after n bytes of the body, with the line open."""

    def fault(handler: Handler, resource: Resource) -> None:
        handler.head(200, {**resource.validators(), "Content-Length": str(len(resource.data))})
        handler.write(resource.data[:n])
        handler.owner.sent += n
        handler.owner.stopping.wait(seconds)
        handler.hang_up()

    return fault


def drip(pause: float, block: int = 1 << 14) -> Fault:
    """The whole, slowly."""

    def fault(handler: Handler, resource: Resource) -> None:
        first = handler.wanted(resource) or 0
        total = len(resource.data)
        headers = {**resource.validators(), "Content-Length": str(total - first)}
        if first:
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        handler.head(206 if first else 200, headers)
        for start in range(first, total, block):
            handler.write(resource.data[start : start + block])
            handler.owner.sent += len(resource.data[start : start + block])
            time.sleep(pause)

    return fault


def pause(n: int, event: threading.Event) -> Fault:
    """The whole, with a rest after n bytes until something has happened."""

    def fault(handler: Handler, resource: Resource) -> None:
        handler.head(200, {**resource.validators(), "Content-Length": str(len(resource.data))})
        handler.write(resource.data[:n])
        handler.owner.sent += n
        event.wait(60)
        handler.write(resource.data[n:])

    return fault


def redirect(where: str, **headers: str) -> Fault:
    return status(302, Location=where, **headers)


# --- what the real servers have -------------------------------------------------------------------------------------

HUB = "/unilight/hificaptain-vc/resolve/main"
CAPTAIN = "/release/hi-fi-captain"


def put_published(server: Server, data: Path) -> dict[str, bytes]:
    """A small model in the published layout under the names of the published one, and a vocoder's files; by path."""
    model = data / "aasvc-stochastic"
    vocoder = data / "vocoder-pwg"
    content = {
        f"{HUB}/male_female_aas_vc_mel_pretrained/{name}": path.read_bytes()
        for name, path in (
            ("checkpoint-50000steps.pkl", model / "checkpoint-10steps.pkl"),
            ("config.yml", model / "config.yml"),
            ("stats.h5", model / "stats.h5"),
        )
    }
    for name in ("checkpoint-400000steps.pkl", "config.yml", "stats.h5"):
        found = next(vocoder.glob(name.replace("400000", "*")), None)
        content[f"{HUB}/pwg_jp_female/{name}"] = found.read_bytes() if found else name.encode() * 1000
    for path, each in content.items():
        server.put(path, each)
    return content


def captain_zip(demo_corpus: Path, speaker: str, n_train: int) -> bytes:
    """A zip with the inner layout of Hi-Fi-CAPTAIN's, and with what else such zips hold."""
    buffer = io.BytesIO()
    root = f"hi-fi-captain/ja-JP/{speaker}"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(zipfile.ZipInfo(f"{root}/wav/dev/"), b"")
        for name, count in (("train_parallel", n_train), ("dev", 1), ("eval", 1)):
            for path in sorted((demo_corpus / speaker / "wav" / name).iterdir())[:count]:
                wave, sample_rate = read_audio(path)
                archive.writestr(f"{root}/wav/{name}/{path.stem}.wav", encode_audio(wave, sample_rate))
            archive.write(demo_corpus / speaker / "text" / f"{name}.txt", f"{root}/text/{name}.txt")
        archive.writestr(f"{root}/wav/train_non_parallel/x.wav", encode_audio(wave[:8000], sample_rate))
        archive.writestr("hi-fi-captain/LICENSE.txt", "CC BY-NC-SA 4.0")
        archive.writestr(f"{root}/wav/dev/.DS_Store", "x")
        archive.writestr(f"__MACOSX/{root}/wav/dev/._x.wav", "x")
    return buffer.getvalue()


def put_captain(server: Server, zips: dict[str, bytes]) -> None:
    for speaker, letter in (("male", "M"), ("female", "F")):
        server.put(f"{CAPTAIN}/hfc_ja-JP_{letter}.zip", zips[speaker])
