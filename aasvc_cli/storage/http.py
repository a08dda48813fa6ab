"""One file from the network: resumed where it stopped, tried again where that helps, checked before it gets its name.

While a file is on its way it is ``<name>.part``, and beside it ``<name>.part.json`` says which version of the file on
the server these bytes belong to. What never happens: bytes of two versions glued together, or a file under its final
name that is not whole. What is never lost: bytes that arrived, whether the connection, the process or the user stopped
the transfer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import urljoin, urlsplit

from aasvc_cli import __version__
from aasvc_cli.errors import DownloadError
from aasvc_cli.storage.files import file_sha256, make_folder, remove_file, storage_error, write_json

if TYPE_CHECKING:
    import requests

PART_SUFFIX = ".part"
STATE_SUFFIX = ".part.json"
MOST_REDIRECTS = 10
_BLOCK = 1 << 18
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524})
_SHA256 = re.compile(r"[0-9a-f]{64}")

OnBytes = Callable[[str, int, int | None], None]
"""Told (what is done with which file, bytes so far, bytes in all or None)."""
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class HttpPolicy:
    """How patient transfers are.

    Attributes:
        retries: attempts in a row that may fail without a single new byte
        backoff_seconds: wait before the first of them is repeated; doubled each time, up to ``longest_backoff_seconds``
        longest_wait_seconds: the longest wait that a server may ask for
        connect_seconds: until the server answers the phone
        read_seconds: of silence within a transfer
        sleep, jitter: for tests; ``jitter`` draws from 0 to 1
    """

    retries: int = 5
    backoff_seconds: float = 1.0
    longest_backoff_seconds: float = 60.0
    longest_wait_seconds: float = 600.0
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: exponential, and shaken so that clients do not march."""
        longest = min(self.longest_backoff_seconds, self.backoff_seconds * 2.0 ** (failures - 1))
        return longest * (0.5 + 0.5 * self.jitter())


@dataclass(frozen=True)
class RemoteFacts:
    """What a server says about a file.

    Attributes:
        size: in bytes
        etag: a strong entity tag; weak ones say nothing about bytes
        last_modified: date of the last change
        settled: whether that date is old enough to be a proof: it counts whole seconds (RFC 9110, 8.8.2.2)
        sha256: Hugging Face tells it for large files
    """

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    settled: bool = False
    sha256: str | None = None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may hold."""
        return self.etag or (self.last_modified if self.settled else None)

    def same_version(self, other: RemoteFacts) -> bool:
        """Whether both certainly describe the same bytes."""
        if self.size is not None and other.size is not None and self.size != other.size:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        if self.etag or other.etag:
            return self.etag == other.etag
        return self.settled and self.last_modified == other.last_modified

    def differs(self, other: RemoteFacts) -> bool:
        """Whether both certainly describe different bytes."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("size", "etag", "last_modified", "sha256")]
        return any(ours is not None and theirs is not None and ours != theirs for ours, theirs in pairs)


@dataclass(frozen=True)
class Fetched:
    """A file that is there, whole.

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
    """An attempt failed in a way that another one may not."""

    def __init__(self, reason: str, *, wait: float | None = None, at_once: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.at_once = at_once


class _Corrupt(_Transient):
    """All bytes are there, and they are wrong."""


@dataclass
class Http:
    """Connections to servers; a context manager.

    Proxies and certificates come from the environment, as ``requests`` has it (``HTTPS_PROXY``, ``NO_PROXY``,
    ``REQUESTS_CA_BUNDLE``).

    Attributes:
        tokens: secrets by origin (``https://host``); sent there and nowhere else, whatever redirects say
    """

    policy: HttpPolicy = field(default_factory=HttpPolicy)
    tokens: Mapping[str, str] = field(default_factory=dict)
    _session: requests.Session | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def probe(self, url: str, seconds: float = 5.0) -> RemoteFacts | None:
        """Ask for size and version of a file, once; None if there is no answer."""
        import requests

        try:
            with self._open("HEAD", url, {}, (seconds, seconds)) as (response, linked):
                return _facts(response, linked) if response.status_code == 200 else None
        except (requests.RequestException, _Transient, DownloadError, ValueError):
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
            on_bytes: told what happens, with bytes
            on_message: told what went wrong and is tried again, in a sentence

        Raises:
            DownloadError: it could not be had, or is not what it should be. What arrived is kept.
            StorageError: no permission, no space.
        """
        part = _Part(path)
        make_folder(path.parent)
        transfer = _Transfer(self, url, part, sha256, size, on_bytes or _ignore, on_message or _ignore)
        most, failures, corrupt = part.size(), 0, 0
        while True:
            try:
                transfer.attempt()
                return transfer.finish()
            except _Transient as error:
                # a server that sends another file each time does not get beyond its first bytes
                grown = part.size() > most
                most = max(most, part.size())
                corrupt += isinstance(error, _Corrupt)
                failures = 1 if grown and not isinstance(error, _Corrupt) else failures + 1
                if failures > self.policy.retries or corrupt > 1:
                    raise DownloadError(_given_up(path, part, url, str(error), failures, corrupt)) from None
                if error.wait is not None and error.wait > self.policy.longest_wait_seconds:
                    raise DownloadError(
                        f"{path.name}: {error} and asks to come back in {error.wait:.0f} s; run the same command then"
                    ) from None
                wait = 0.0 if error.at_once else max(error.wait or 0.0, self.policy.backoff(failures))
                again = f"in {wait:.0f} s" if wait >= 1 else "now"
                transfer.on_message(f"{path.name}: {error}; trying again {again}")
                if wait:
                    self.policy.sleep(wait)

    @contextlib.contextmanager
    def _open(
        self, method: str, url: str, headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> Iterator[tuple[requests.Response, Mapping[str, str]]]:
        """Send a request and follow redirects; gives the last response, unread, and what the redirects said.

        Redirects are followed here and not by ``requests``, so that a token goes to its own origin only.
        """
        linked: dict[str, str] = {}
        for _ in range(MOST_REDIRECTS):
            response = self._send(method, url, headers, timeout)
            try:
                if "X-Linked-ETag" in response.headers:
                    linked["X-Linked-ETag"] = response.headers["X-Linked-ETag"]
                if response.status_code not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                    yield response, linked
                    return
                there = urljoin(url, response.headers["Location"])
            finally:
                response.close()
            if urlsplit(there).scheme not in ("http", "https"):
                raise DownloadError(f"{_shown(url)}: redirects to {_shown(there)}, which is no web address")
            if urlsplit(url).scheme == "https" and urlsplit(there).scheme == "http":
                raise DownloadError(f"{_shown(url)}: redirects to an unencrypted address, {_shown(there)}; refused")
            url = there
        raise DownloadError(f"{_shown(url)}: redirects more than {MOST_REDIRECTS} times; give another --mirror")

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> requests.Response:
        import requests

        if self._session is None:
            self._session = requests.Session()
        # compressed transfers have other lengths and ranges than the file
        sent = {"User-Agent": f"aasvc/{__version__}", "Accept-Encoding": "identity", "Accept": "*/*", **headers}
        token = self.tokens.get(origin(url))
        # a function, as requests would let a .netrc replace a plain header
        auth = _Bearer(token) if token else None
        return self._session.request(
            method, url, headers=sent, auth=auth, timeout=timeout, stream=True, allow_redirects=False
        )


@dataclass
class _Part:
    """The bytes that are here so far, and what they are part of."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path.with_name(self.path.name + PART_SUFFIX)

    @property
    def state_file(self) -> Path:
        return self.path.with_name(self.path.name + STATE_SUFFIX)

    def size(self) -> int:
        try:
            return self.file.stat().st_size
        except OSError:
            return 0

    def state(self) -> RemoteFacts | None:
        """The version that the bytes belong to; None if that is not known."""
        try:
            tree = json.loads(self.state_file.read_text(encoding="utf-8"))
            facts = RemoteFacts(**{each.name: tree[each.name] for each in dataclasses.fields(RemoteFacts)})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        texts = (facts.etag, facts.last_modified, facts.sha256)
        sound = all(text is None or isinstance(text, str) for text in texts)
        return facts if sound and (facts.size is None or isinstance(facts.size, int)) else None

    def remember(self, facts: RemoteFacts) -> None:
        if self.state() != facts:
            write_json(self.state_file, dataclasses.asdict(facts))

    def forget(self) -> None:
        """Keep the bytes, but trust them no longer: they are compared with what comes."""
        remove_file(self.state_file)

    def open(self) -> BinaryIO:
        try:
            # unbuffered: what has arrived is kept even if the process is killed
            return open(os.open(self.file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", 0)
        except OSError as error:
            raise storage_error("write", self.file, error) from None


@dataclass
class _Transfer:
    """One file on its way."""

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

    def attempt(self) -> None:
        """Ask for what is missing and write it down; raises _Transient unless all of it is there then."""
        import requests

        policy = self.http.policy
        there, known = self.part.size(), self.part.state()
        if known is not None and known.size is not None and there > known.size:
            self.part.forget()
            known = None
        if known is not None and there and there == known.size:
            self.facts = known
            return
        headers = {}
        if self.ranges and known is not None and there and (known.validator or self.sha256 or known.sha256):
            headers["Range"] = f"bytes={there}-"
            if known.validator:
                headers["If-Range"] = known.validator
        host = urlsplit(self.url).netloc.rpartition("@")[2]
        try:
            with self.http._open("GET", self.url, headers, (policy.connect_seconds, policy.read_seconds)) as opened:
                response, linked = opened
                self._check_status(response, bool(headers))
                if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
                    raise DownloadError(f"{_shown(self.url)}: sent compressed, which was not asked for; use --mirror")
                if response.status_code == 206:
                    self._append(response, linked, known or RemoteFacts(), there)
                else:
                    self._whole(response, linked, known, there)
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DownloadError(
                    f"{self.part.path.name}: the certificate of {host} cannot be verified; behind a proxy that "
                    "replaces certificates, name its own one in REQUESTS_CA_BUNDLE"
                ) from None
            raise _Transient(f"the encrypted connection to {host} failed") from None
        except requests.exceptions.ProxyError:
            raise _Transient(f"the proxy does not lead to {host}") from None
        except requests.exceptions.ConnectTimeout:
            raise _Transient(f"{host} did not answer within {policy.connect_seconds:g} s") from None
        except requests.exceptions.Timeout:
            raise _Transient(f"{host} was silent for {policy.read_seconds:g} s") from None
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.MissingSchema,
            requests.exceptions.InvalidSchema,
        ):
            raise DownloadError(f"{self.url}: not a web address; expected http://... or https://...") from None
        except requests.exceptions.RequestException as error:
            raise _Transient(f"no connection to {host} ({_reason(error)})") from None

    def finish(self) -> Fetched:
        """Check the bytes and give the file its name."""
        path, size = self.part.path, self.part.size()
        if self.size is not None and size != self.size:
            self.part.forget()
            raise _Corrupt(f"has {size} bytes, expected {self.size}", at_once=True)
        digest = file_sha256(self.part.file, lambda done: self.on_bytes(f"checking {path.name}", done, size))
        for expected in (self.sha256, self.facts.sha256):
            if expected is not None and digest != expected:
                self.part.forget()
                raise _Corrupt(f"has the SHA-256 {digest}, expected {expected}", at_once=True)
        try:
            with self.part.open() as stream:
                os.fsync(stream.fileno())
            os.replace(self.part.file, path)
        except OSError as error:
            raise storage_error("write", path, error) from None
        self.part.forget()
        return Fetched(path, size, digest, self.facts, self.n_received)

    def _check_status(self, response: requests.Response, asked_for_range: bool) -> None:
        status = response.status_code
        if status == 200:
            if response.headers.get("Content-Type", "").lower().startswith("text/html"):
                raise DownloadError(
                    f"{_shown(self.url)}: answered with a web page instead of the file; does this network ask for a "
                    "login first?"
                )
            return
        if status == 206 and asked_for_range:
            return
        if status == 416 and asked_for_range:
            # what is here is no part of what is there; look at the whole
            self.part.forget()
            raise _Transient("the server has a shorter file than before", at_once=True)
        if status in _TRANSIENT_STATUS:
            raise _Transient(f"the server answered {_status(response)}", wait=_retry_after(response))
        advice = {
            401: "it needs a permission; put your Hugging Face token into HF_TOKEN",
            403: "it needs a permission; put your Hugging Face token into HF_TOKEN, or give another --mirror",
            404: "it is not there (any more); give another --mirror, or a newer version of this program",
            407: "the proxy needs a name and a password; put them into HTTPS_PROXY",
            410: "it is gone; give another --mirror",
        }.get(status, "give another --mirror, or try later")
        raise DownloadError(f"{_shown(self.url)}: the server answered {_status(response)}: {advice}")

    def _append(self, response: requests.Response, linked: Mapping[str, str], known: RemoteFacts, there: int) -> None:
        """What is missing follows what is here."""
        answer = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if answer is None or int(answer[1]) != there or int(answer[2]) < there:
            self.ranges = False
            raise _Transient("the server sent another part than the one asked for", at_once=True)
        total = None if answer[3] == "*" else int(answer[3])
        now = dataclasses.replace(_facts(response, linked), size=total)
        if known.differs(now):
            self.part.forget()
            raise _Transient("the file has changed on the server, starting over", at_once=True)
        size = known.size if known.size is not None else total
        self.facts = dataclasses.replace(known, size=size, sha256=known.sha256 or now.sha256)
        end = int(answer[2]) + 1
        with self.part.open() as stream:
            stream.seek(there)
            for block in self._blocks(response, end - there):
                self._write(stream, block)
                self._tell(stream.tell())
            there = stream.tell()
        if there < end or (size is not None and there < size):
            raise _Transient(f"the connection ended after {there} of {size or end} bytes")
        if size is None:
            # nobody says that this was the last part
            self.ranges = False
            raise _Transient("the server does not say how long the file is", at_once=True)

    def _whole(
        self, response: requests.Response, linked: Mapping[str, str], known: RemoteFacts | None, there: int
    ) -> None:
        """The file from its start; what is here already is compared with it and kept as far as it is the same."""
        self.facts = now = _facts(response, linked)
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if self.size is not None and now.size is not None and now.size != self.size:
            raise DownloadError(
                f"{_shown(self.url)}: has {now.size} bytes, expected {self.size}; give another --mirror"
            )
        if now.size is None and not chunked and self.size is None and not (self.sha256 or now.sha256):
            raise DownloadError(f"{_shown(self.url)}: the server does not say how long the file is; use --mirror")
        if there and known is not None and not known.same_version(now):
            if known.differs(now):
                self.on_message(f"{self.part.path.name}: the file has changed on the server, starting over")
            known = None
        if known is None:
            # until the comparison has passed the last byte that is here, no one may append to it
            self.part.forget()
            if not there:
                self.part.remember(now)
        comparing = known is None and there > 0
        with self.part.open() as stream:
            received = 0
            for block in self._blocks(response, now.size):
                done = 0
                if received < there:
                    old = stream.read(min(len(block), there - received))
                    done = _common(old, block)
                    if done < len(old):
                        stream.seek(received + done)
                        _truncate(stream, self.part.file)
                        there = received + done
                        known = None
                if comparing and received + len(block) >= there:
                    self.part.remember(now)
                    comparing = False
                if done < len(block):
                    self._write(stream, block[done:])
                received += len(block)
                self._tell(received)
            if now.size is not None and received < now.size:
                raise _Transient(f"the connection ended after {received} of {now.size} bytes")
            if self.size is not None and received < self.size:
                raise _Transient(f"the connection ended after {received} of {self.size} bytes")
            stream.seek(received)
            _truncate(stream, self.part.file)
        self.part.remember(now)

    def _blocks(self, response: requests.Response, limit: int | None) -> Iterator[bytes]:
        """The body as it comes in, at most ``limit`` bytes of it."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        left = limit
        while left is None or left > 0:
            try:
                block = response.raw.read1(_BLOCK if left is None else min(_BLOCK, left), decode_content=False)
            except ReadTimeoutError:
                raise _Transient(f"the server was silent for {self.http.policy.read_seconds:g} s") from None
            except (HTTPError, OSError, ValueError):
                raise _Transient("the connection broke") from None
            if not block:
                return
            self.n_received += len(block)
            if left is not None:
                left -= len(block)
            yield block

    def _write(self, stream: BinaryIO, block: bytes) -> None:
        view = memoryview(block)
        try:
            while view:
                view = view[stream.write(view) :]
        except OSError as error:
            raise storage_error("write", self.part.file, error) from None

    def _tell(self, done: int) -> None:
        self.on_bytes(self.part.path.name, done, self.facts.size if self.facts.size is not None else self.size)


@dataclass(frozen=True)
class _Bearer:
    token: str = field(repr=False)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def distrust(path: Path) -> None:
    """Turn a whole file back into a part that the next fetch compares byte by byte with what the server has."""
    part = _Part(path)
    part.forget()
    try:
        os.replace(path, part.file)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error("rename", path, error) from None


def origin(url: str) -> str:
    """Scheme, host and port of an address: who gets to see what is sent there."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{parts.port or default}"


def _facts(response: requests.Response, linked: Mapping[str, str]) -> RemoteFacts:
    headers = response.headers
    length = headers.get("Content-Length", "")
    etag = headers.get("ETag")
    if etag is not None and (etag.startswith("W/") or not etag.strip('"')):
        etag = None
    stated = linked.get("X-Linked-ETag", "").strip('"').lower()
    changed, now = _date(headers.get("Last-Modified")), _date(headers.get("Date"))
    return RemoteFacts(
        size=int(length) if length.isdigit() else None,
        etag=etag,
        last_modified=headers.get("Last-Modified"),
        settled=changed is not None and now is not None and now - changed >= 1,
        sha256=stated if _SHA256.fullmatch(stated) else None,
    )


def _date(text: str | None) -> float | None:
    """Seconds since 1970 of a date in a header; None if there is none or it is no date."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (TypeError, ValueError, OverflowError):
        return None


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait; it may give seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    then, now = _date(text), _date(response.headers.get("Date"))
    if then is None:
        return None
    # by the server's own clock, if it tells: ours may be wrong
    return max(0.0, then - (now if now is not None else time.time()))


def _common(old: bytes, new: bytes) -> int:
    """How many leading bytes are the same."""
    n = min(len(old), len(new))
    if old[:n] == new[:n]:
        return n
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if old[:middle] == new[:middle] else (low, middle - 1)
    return low


def _truncate(stream: BinaryIO, path: Path) -> None:
    try:
        stream.truncate()
    except OSError as error:
        raise storage_error("write", path, error) from None


def _given_up(path: Path, part: _Part, url: str, reason: str, failures: int, corrupt: int) -> str:
    if corrupt > 1:
        return f"{path.name}: {reason}, twice; what {_shown(url)} sends is not the right file, give another --mirror"
    often = f"{path.name}: {reason}, {failures} times in a row"
    if not part.size():
        return f"{often}; nothing has arrived, try again later or give another --mirror"
    return f"{often}; {part.size()} bytes are kept in {part.file.name}, the same command goes on from there"


def _shown(url: str) -> str:
    """An address without passwords and signatures."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()


def _reason(error: BaseException) -> str:
    """What the operating system said, out of the messages that libraries nest into each other."""
    numbered = re.findall(r"\[Errno -?\d+\] ([^()'\"]+)", str(error))
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        nested = (getattr(error, "reason", None), *error.args)
        inner = next((each for each in nested if isinstance(each, Exception)), None)
    return " ".join((numbered[-1] if numbered else str(getattr(error, "strerror", None) or error)).split())[:100]


def _ignore(*_: Any) -> None:
    """Nobody listens."""
