"""One file from the network: resumed where it stopped, retried where that helps, checked before it gets its name.

A file that is on its way is ``<name>.part``; beside it, ``<name>.part.json`` says which version on the server its bytes
belong to. Two versions are never glued together, and a file under its final name is whole. Bytes that arrived are kept,
whether the connection, the process or the user stopped the transfer.
"""

from __future__ import annotations

import dataclasses
import email.utils
import functools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Self
from urllib.parse import urljoin, urlsplit

from aasvc_cli.errors import DownloadError
from aasvc_cli.storage.files import file_sha256, make_folder, remove_file, storage_error, write_json

if TYPE_CHECKING:
    import requests
    from urllib3.util import Retry

STATE_SUFFIX = ".part.json"
MAX_REDIRECTS = 10
_BLOCK = 1 << 18
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524})
_ADVICE = {
    401: "permission is needed; put your Hugging Face token into HF_TOKEN",
    403: "permission is needed; put your Hugging Face token into HF_TOKEN, or give another --mirror",
    404: "not found; give another --mirror, or use a newer version of this program",
    407: "the proxy needs a name and a password; put them into HTTPS_PROXY",
    410: "the file is gone; give another --mirror",
}

OnBytes = Callable[[str, int, int | None], None]
"""Called with what is being done to which file, bytes so far, and bytes in all or None."""
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class HttpPolicy:
    """Timeouts and retries.

    Attributes:
        retries: attempts in a row that may fail without a single new byte
        backoff_seconds, jitter_seconds: of :class:`urllib3.util.Retry`; the first retry is at once
        longest_wait_seconds: longest ``Retry-After`` that is waited for
        connect_seconds: timeout of a connection
        read_seconds: longest silence within a transfer
        sleep: for tests
    """

    retries: int = 5
    backoff_seconds: float = 1.0
    jitter_seconds: float = 1.0
    longest_wait_seconds: float = 600.0
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def retry(self) -> Retry:
        """How often to try again, and how long to wait before."""
        from urllib3.util import Retry

        return Retry(
            self.retries, backoff_factor=self.backoff_seconds, backoff_max=60, backoff_jitter=self.jitter_seconds
        )


@dataclass(frozen=True)
class RemoteFacts:
    """What a server says about a file.

    Attributes:
        size: in bytes
        etag: a strong entity tag; weak ones say nothing about bytes
        last_modified: date of the last change
        settled: whether that date, which counts whole seconds, is old enough to identify a version (RFC 9110, 8.8.2.2)
        sha256: as Hugging Face gives it for large files
    """

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    settled: bool = False
    sha256: str | None = None

    @property
    def validator(self) -> str | None:
        """The value of ``If-Range``."""
        return self.etag or (self.last_modified if self.settled else None)

    def same_version(self, other: RemoteFacts) -> bool:
        """Whether both certainly describe the same bytes."""
        shared = {self.sha256, self.validator} & {other.sha256, other.validator} - {None}
        return bool(shared) and not self.differs(other)

    def differs(self, other: RemoteFacts) -> bool:
        """Whether both certainly describe different bytes."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("size", "etag", "last_modified", "sha256")]
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)


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


class _Transient(Exception):
    """An attempt failed in a way that another one may not; ``wait`` as the server asks, 0 for at once."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class Http:
    """Connections to servers; a context manager.

    Proxies and certificates come from the environment, as ``requests`` has it (``HTTPS_PROXY``, ``NO_PROXY``,
    ``REQUESTS_CA_BUNDLE``).

    Attributes:
        tokens: secrets by origin (``https://host``); sent to no other, not even after a redirect
    """

    user_agent: str
    policy: HttpPolicy = field(default_factory=HttpPolicy)
    tokens: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "_session" in vars(self):
            vars(self).pop("_session").close()

    @functools.cached_property
    def _session(self) -> requests.Session:
        import requests

        session = requests.Session()
        session.max_redirects = MAX_REDIRECTS
        # compressed transfers have other lengths and ranges than the file
        session.headers.update({"User-Agent": self.user_agent, "Accept-Encoding": "identity"})
        session.hooks["response"].append(_check_redirect)
        return session

    def open(
        self, method: str, url: str, headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> requests.Response:
        """Send a request and follow redirects; the body is not read yet."""
        token = self.tokens.get(origin(url))
        return self._session.request(
            method, url, headers={**headers}, auth=_Bearer(token) if token else None, timeout=timeout, stream=True,
            allow_redirects=True,
        )  # fmt: skip

    def probe(self, url: str, seconds: float = 5.0) -> RemoteFacts | None:
        """Ask for size and version of a file, once; None without an answer."""
        import requests

        try:
            with self.open("HEAD", url, {}, (seconds, seconds)) as response:
                return _facts(response) if response.status_code == 200 else None
        except (requests.RequestException, DownloadError, ValueError):
            return None

    def fetch(
        self,
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
        transfer = _Transfer(self, url, part, sha256, size, on_bytes or _ignore, on_message or _ignore)
        most, retry = part.size(), self.policy.retry()
        while True:
            try:
                transfer.attempt()
                return transfer.finish()
            except _Transient as error:
                # a server that sends another file each time does not get beyond its first bytes
                if part.size() > most:
                    most, retry = part.size(), self.policy.retry()
                try:
                    retry = retry.increment("GET", url, error=error)
                except MaxRetryError:
                    state = "nothing has arrived, try again later or give another --mirror"
                    if part.size():
                        state = f"{part.size()} bytes are kept in {part.file.name}, the same command goes on from there"
                    times = len(retry.history) + 1
                    raise DownloadError(f"{path.name}: {error}, {times} times in a row; {state}") from None
                wait = 0.0 if error.wait == 0 else max(error.wait or 0.0, retry.get_backoff_time())
                if wait > self.policy.longest_wait_seconds:
                    raise DownloadError(
                        f"{path.name}: {error} and asks to come back in {wait:.0f} s; run the same command then"
                    ) from None
                when = f"in {wait:.0f} s" if wait >= 1 else "now"
                transfer.on_message(f"{path.name}: {error}; trying again {when}")
                if wait:
                    self.policy.sleep(wait)


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
        """Ask for what is missing and write it; raises _Transient unless the file is complete then."""
        import requests

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
        try:
            response = self.http.open("GET", self.url, headers, timeout)
        except requests.RequestException as error:
            self._no_answer(error)
        with response:
            self._check_answer(response, bool(headers))
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
                raise DownloadError(f"{path.name}: {fault}, twice; {_shown(self.url)} is the wrong file, use --mirror")
            self.corrupt = True
            raise _Transient(fault, wait=0)
        try:
            with self.part.open() as stream:
                os.fsync(stream.fileno())
            os.replace(self.part.file, path)
        except OSError as error:
            raise storage_error("write", path, error) from None
        self.part.forget()
        return Fetched(path, size, digest, self.facts, self.n_received)

    def _no_answer(self, error: requests.RequestException) -> NoReturn:
        from requests import exceptions

        host = urlsplit(self.url).netloc.rpartition("@")[2]
        if isinstance(error, exceptions.InvalidURL | exceptions.MissingSchema | exceptions.InvalidSchema):
            raise DownloadError(f"{self.url}: not a web address; expected http://... or https://...") from None
        if isinstance(error, exceptions.TooManyRedirects):
            raise DownloadError(f"{_shown(self.url)}: more than {MAX_REDIRECTS} redirects; use --mirror") from None
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise DownloadError(
                f"{self.part.path.name}: the certificate of {host} cannot be verified; behind a proxy that replaces "
                "certificates, set REQUESTS_CA_BUNDLE to its own"
            ) from None
        if isinstance(error, exceptions.ProxyError):
            raise _Transient(f"the proxy does not lead to {host}") from None
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise _Transient(f"no connection to {host} ({getattr(cause, 'strerror', None) or cause})") from None

    def _check_answer(self, response: requests.Response, asked_for_range: bool) -> None:
        from urllib3.exceptions import InvalidHeader

        status = response.status_code
        if status == 416 and asked_for_range:
            self.part.forget()
            raise _Transient("the server has a shorter file than before", wait=0)
        answer = f"the server answered {status} {response.reason or ''}".rstrip()
        if status in _TRANSIENT_STATUS:
            try:
                wait = self.http.policy.retry().get_retry_after(response.raw)
            except InvalidHeader:
                wait = None
            raise _Transient(answer, wait or None)
        if status != 200 and not (status == 206 and asked_for_range):
            advice = _ADVICE.get(status, "give another --mirror, or try later")
            raise DownloadError(f"{_shown(self.url)}: {answer}: {advice}")
        if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise DownloadError(f"{_shown(self.url)}: sent compressed, which was not asked for; use --mirror")
        if status == 200 and response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise DownloadError(
                f"{_shown(self.url)}: answered with a web page instead of the file; does this network need a login?"
            )

    def _rest(self, response: requests.Response, known: RemoteFacts, here: int) -> tuple[RemoteFacts, int]:
        """Check that a partial answer follows what is here; returns the file's facts and where the answer ends."""
        answer = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
        if answer is None or int(answer[1]) != here or int(answer[2]) < here:
            self.ranges = False
            raise _Transient("the server sent another part than the one asked for", wait=0)
        now = dataclasses.replace(_facts(response), size=int(answer[3]))
        if known.differs(now):
            self.part.forget()
            raise _Transient("the file has changed on the server, starting over", wait=0)
        return dataclasses.replace(known, size=now.size, sha256=known.sha256 or now.sha256), int(answer[2]) + 1

    def _whole(
        self, response: requests.Response, known: RemoteFacts | None, here: int
    ) -> tuple[RemoteFacts, int | None]:
        """Check an answer with the whole file; returns its facts and its size."""
        now = _facts(response)
        size = now.size if now.size is not None else self.size
        if self.size is not None and size != self.size:
            raise DownloadError(f"{_shown(self.url)}: has {size} bytes, expected {self.size}; give another --mirror")
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if size is None and not chunked and not (self.sha256 or now.sha256):
            raise DownloadError(f"{_shown(self.url)}: the server does not say how long the file is; use --mirror")
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
                raise _Transient(f"the connection ended after {done} of {end} bytes")
            stream.truncate()
        self.part.remember(facts)
        if facts.size is not None and done < facts.size:
            raise _Transient(f"the server sent {done} of {facts.size} bytes", wait=0)

    def _blocks(self, response: requests.Response, n_bytes: int | None) -> Iterator[bytes]:
        """The body as it comes in, at most ``n_bytes`` of it."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        while n_bytes is None or n_bytes > 0:
            try:
                block = response.raw.read1(_BLOCK if n_bytes is None else min(_BLOCK, n_bytes), decode_content=False)
            except ReadTimeoutError:
                raise _Transient(f"the server was silent for {self.http.policy.read_seconds:g} s") from None
            except (HTTPError, OSError, ValueError):
                raise _Transient("the connection broke") from None
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
        view = memoryview(block)
        while view:
            view = view[stream.write(view) :]
        return block.startswith(before)
    except OSError as error:
        raise storage_error("write", path, error) from None


@dataclass(frozen=True)
class _Bearer:
    """A token as ``requests`` wants it: a plain header would be replaced by what a .netrc says."""

    token: str = field(repr=False)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def _check_redirect(response: requests.Response, **_: Any) -> None:
    if response.is_redirect:
        target = urljoin(response.url, response.headers["Location"])
        schemes = urlsplit(response.url).scheme, urlsplit(target).scheme
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            response.close()
            kind = "an unencrypted address" if schemes[1] == "http" else "no web address"
            raise DownloadError(f"{_shown(response.url)}: redirects to {_shown(target)}, {kind}; refused")


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


def origin(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def _facts(response: requests.Response) -> RemoteFacts:
    headers = response.headers
    length, etag = headers.get("Content-Length", ""), headers.get("ETag", "")
    changed, now = _date(headers.get("Last-Modified")), _date(headers.get("Date"))
    # Hugging Face gives the checksum of a large file where it redirects to the storage
    stated = [each.headers.get("X-Linked-ETag", "").strip('"').lower() for each in (*response.history, response)]
    return RemoteFacts(
        size=int(length) if length.isdigit() else None,
        etag=etag if etag.strip('"') and not etag.startswith("W/") else None,
        last_modified=headers.get("Last-Modified"),
        settled=changed is not None and now is not None and now - changed >= 1,
        sha256=next((text for text in stated if re.fullmatch(r"[0-9a-f]{64}", text)), None),
    )


def _date(text: str | None) -> float | None:
    """Seconds since 1970 of a date in a header; None without a valid one."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(url: str) -> str:
    """An address without passwords and signatures."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _ignore(*_: Any) -> None:
    """Default callback."""
