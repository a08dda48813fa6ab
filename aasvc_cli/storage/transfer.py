"""One file from the network: resumed where it stopped, retried where that helps, checked before it gets its name.

A file that is on its way is ``<name>.part``; beside it, ``<name>.part.json`` says which version on the server its bytes
belong to. Two versions are never glued together, and a file under its final name is whole. Bytes that arrived are kept,
whether the connection, the process or the user stopped the transfer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from aasvc_cli.errors import DownloadError
from aasvc_cli.storage.files import file_sha256, make_folder, remove_file, storage_error, write_all, write_json
from aasvc_cli.storage.http import Http, RemoteFacts, Transient, check_answer, facts_of, shown

if TYPE_CHECKING:
    import requests

STATE_SUFFIX = ".part.json"
_BLOCK = 1 << 18

OnBytes = Callable[[str, int, int | None], None]
"""Called with what is being done to which file, bytes so far, and bytes in all or None."""
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """A whole file.

    Attributes:
        facts: of the version that was fetched
        sha256: of its bytes
        n_received: bytes that came over the network for it this time
    """

    path: Path
    size: int
    sha256: str
    facts: RemoteFacts
    n_received: int


def fetch(
    http: Http,
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    on_bytes: OnBytes | None = None,
    on_message: OnMessage | None = None,
) -> Fetched:
    """Fetch a file, going on from what an earlier call left behind.

    Args:
        sha256, size: of the right file, where they are known
        on_bytes: called with the progress
        on_message: called with a sentence on what went wrong and is tried again

    Raises:
        DownloadError: the server does not give the file, or not the right one. What arrived is kept.
        StorageError: no permission, no space.
    """
    from urllib3.exceptions import MaxRetryError

    make_folder(path.parent)
    part = _Part(path)
    transfer = _Transfer(http, url, part, sha256, size, on_bytes or _ignore, on_message or _ignore)
    most, retry = part.size(), http.policy.retry()
    while True:
        try:
            transfer.attempt()
            return transfer.finish()
        except Transient as error:
            # a server that sends another file each time does not get beyond its first bytes
            if part.size() > most:
                most, retry = part.size(), http.policy.retry()
            try:
                retry = retry.increment("GET", url, error=error)
            except MaxRetryError:
                state = "nothing has arrived, try again later or give another --mirror"
                if part.size():
                    state = f"{part.size()} bytes are kept in {part.file.name}, the same command goes on from there"
                times = len(retry.history) + 1
                raise DownloadError(f"{path.name}: {error}, {times} times in a row; {state}") from None
            wait = 0.0 if error.wait == 0 else max(error.wait or 0.0, retry.get_backoff_time())
            if wait > http.policy.longest_wait_seconds:
                raise DownloadError(
                    f"{path.name}: {error} and asks to come back in {wait:.0f} s; run the same command then"
                ) from None
            when = f"in {wait:.0f} s" if wait >= 1 else "now"
            transfer.on_message(f"{path.name}: {error}; trying again {when}")
            if wait:
                http.policy.sleep(wait)


@dataclass(frozen=True)
class _Part:
    """The bytes that are here so far, and the version that they are part of."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def state_file(self) -> Path:
        return self.path.with_name(self.path.name + STATE_SUFFIX)

    def size(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    def state(self) -> RemoteFacts | None:
        """The version that the bytes belong to; None if that is not known."""
        try:
            facts = RemoteFacts(**json.loads(self.state_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        texts = (facts.etag, facts.last_modified, facts.sha256)
        sound = isinstance(facts.size, int | None) and all(isinstance(text, str | None) for text in texts)
        return facts if sound else None

    def remember(self, facts: RemoteFacts) -> None:
        if self.state() != facts:
            write_json(self.state_file, dataclasses.asdict(facts))

    def forget(self) -> None:
        """Keep the bytes, but as of unknown origin: they are compared with what comes."""
        remove_file(self.state_file)

    def open(self) -> BinaryIO:
        try:
            # unbuffered: what has arrived is kept even if the process is killed
            return open(os.open(self.file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", 0)
        except OSError as error:
            raise storage_error("write", self.file, error) from None


@dataclass
class _Transfer:
    """One file on its way.

    Attributes:
        ranges: whether the server can be asked for the rest of a file
        corrupt: all bytes were here once, and they were wrong
    """

    http: Http
    url: str
    part: _Part
    sha256: str | None
    size: int | None
    on_bytes: OnBytes
    on_message: OnMessage
    n_received: int = 0
    facts: RemoteFacts = field(default_factory=RemoteFacts)
    ranges: bool = True
    corrupt: bool = False

    def attempt(self) -> None:
        """Ask for what is missing and write it; raises Transient unless the file is complete then."""
        here, known = self.part.size(), self.part.state()
        if here and known is not None and known.size is not None and here >= known.size:
            if here == known.size:
                self.facts = known
                return
            self.part.forget()
            known = None
        headers = {}
        if self.ranges and here and known is not None and (known.validator or known.sha256 or self.sha256):
            headers = {"Range": f"bytes={here}-"} | ({"If-Range": known.validator} if known.validator else {})
        timeout = (self.http.policy.connect_seconds, self.http.policy.read_seconds)
        with self.http.open("GET", self.url, headers, timeout) as response:
            if response.status_code == 416 and headers:
                self.part.forget()
                raise Transient("the server has a shorter file than before", wait=0)
            check_answer(self.url, response, bool(headers), self.http.policy)
            if response.status_code == 206:
                self._write(response, here, *self._rest(response, known or RemoteFacts(), here))
            else:
                self._write(response, 0, *self._whole(response, known, here))

    def finish(self) -> Fetched:
        """Check the bytes and give the file its name."""
        path, size = self.part.path, self.part.size()
        digest = file_sha256(self.part.file, lambda done: self.on_bytes(f"checking {path.name}", done, size))
        expected = [each for each in (self.size, self.sha256, self.facts.sha256) if each not in (None, size, digest)]
        if expected:
            self.part.forget()
            fault = f"has {size} bytes with the SHA-256 {digest}, expected {expected[0]}"
            if self.corrupt:
                raise DownloadError(f"{path.name}: {fault}, twice; {shown(self.url)} is the wrong file, use --mirror")
            self.corrupt = True
            raise Transient(fault, wait=0)
        try:
            with self.part.open() as stream:
                os.fsync(stream.fileno())
            os.replace(self.part.file, path)
        except OSError as error:
            raise storage_error("write", path, error) from None
        self.part.forget()
        return Fetched(path, size, digest, self.facts, self.n_received)

    def _rest(self, response: requests.Response, known: RemoteFacts, here: int) -> tuple[RemoteFacts, int]:
        """Check that a partial answer follows what is here; returns the file's facts and where the answer ends."""
        answer = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
        if answer is None or int(answer[1]) != here or int(answer[2]) < here:
            self.ranges = False
            raise Transient("the server sent another part than the one asked for", wait=0)
        now = dataclasses.replace(facts_of(response), size=int(answer[3]))
        if known.differs(now):
            self.part.forget()
            raise Transient("the file has changed on the server, starting over", wait=0)
        return dataclasses.replace(known, size=now.size, sha256=known.sha256 or now.sha256), int(answer[2]) + 1

    def _whole(
        self, response: requests.Response, known: RemoteFacts | None, here: int
    ) -> tuple[RemoteFacts, int | None]:
        """Check an answer with the whole file; returns its facts and its size."""
        now = facts_of(response)
        size = now.size if now.size is not None else self.size
        if self.size is not None and size != self.size:
            raise DownloadError(f"{shown(self.url)}: has {size} bytes, expected {self.size}; give another --mirror")
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if size is None and not chunked and not (self.sha256 or now.sha256):
            raise DownloadError(f"{shown(self.url)}: the server does not say how long the file is; use --mirror")
        if here and known is not None and known.differs(now):
            self.on_message(f"{self.part.path.name}: the file has changed on the server, starting over")
        if known is not None and not known.same_version(now):
            self.part.forget()
        return now, size

    def _write(self, response: requests.Response, start: int, facts: RemoteFacts, end: int | None) -> None:
        """Write an answer from ``start`` on; bytes that are here already are kept as far as they are the same."""
        self.facts, compared_at = facts, self.part.size()
        with self.part.open() as stream:
            if not compared_at:
                self.part.remember(facts)
            done = stream.seek(start)
            for block in self._blocks(response, None if end is None else end - start):
                same = _put(stream, block, self.part.file)
                done += len(block)
                if compared_at and (done >= compared_at or not same):  # all bytes are of this version now
                    self.part.remember(facts)
                    compared_at = 0
                self.on_bytes(self.part.path.name, done, facts.size if facts.size is not None else self.size)
            if end is not None and done < end:
                raise Transient(f"the connection ended after {done} of {end} bytes")
            stream.truncate()
        self.part.remember(facts)
        if facts.size is not None and done < facts.size:
            raise Transient(f"the server sent {done} of {facts.size} bytes", wait=0)

    def _blocks(self, response: requests.Response, n_bytes: int | None) -> Iterator[bytes]:
        """The body as it comes in, at most ``n_bytes`` of it."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        while n_bytes is None or n_bytes > 0:
            try:
                block = response.raw.read1(_BLOCK if n_bytes is None else min(_BLOCK, n_bytes), decode_content=False)
            except ReadTimeoutError:
                raise Transient(f"the server was silent for {self.http.policy.read_seconds:g} s") from None
            except (HTTPError, OSError, ValueError):
                raise Transient("the connection broke") from None
            if not block:
                return
            self.n_received += len(block)
            n_bytes = None if n_bytes is None else n_bytes - len(block)
            yield block


def _put(stream: BinaryIO, block: bytes, path: Path) -> bool:
    """Write a block where a file stands; returns False if other bytes were there, which go with all that follow."""
    try:
        position = stream.tell()
        before = stream.read(len(block))
        if before == block:
            return True
        stream.seek(position)
        if not block.startswith(before):
            stream.truncate()
        write_all(stream, block)
        return block.startswith(before)
    except OSError as error:
        raise storage_error("write", path, error) from None


def distrust(path: Path) -> None:
    """Turn a whole file back into a part that the next fetch compares byte by byte with what the server has."""
    part = _Part(path)
    part.forget()
    try:
        os.replace(path, part.file)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error("write", part.file, error) from None


def _ignore(*_: Any) -> None:
    """Default callback."""
