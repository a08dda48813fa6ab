"""Connections to servers, by requests: tokens, redirects, and what an answer says about a file."""

from __future__ import annotations

import email.utils
import functools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

from aasvc_cli.errors import DownloadError

if TYPE_CHECKING:
    import requests
    from urllib3.util import Retry

MAX_REDIRECTS = 10
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524})
_ADVICE = {
    401: "permission is needed; put your Hugging Face token into HF_TOKEN",
    403: "permission is needed; put your Hugging Face token into HF_TOKEN, or give another --mirror",
    404: "not found; give another --mirror, or use a newer version of this program",
    407: "the proxy needs a name and a password; put them into HTTPS_PROXY",
    410: "the file is gone; give another --mirror",
}


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


class Transient(Exception):
    """A failed attempt that may succeed when repeated; ``wait`` as the server asks, 0 for at once."""

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
        """Send a request and follow redirects; the body is not read yet.

        Raises:
            Transient: no connection.
            DownloadError: an address, a redirect or a certificate that cannot be used.
        """
        import requests

        token = self.tokens.get(origin(url))
        try:
            return self._session.request(
                method, url, headers={**headers}, auth=_Bearer(token) if token else None, timeout=timeout, stream=True,
                allow_redirects=True,
            )  # fmt: skip
        except requests.RequestException as error:
            raise _no_answer(url, error) from None

    def probe(self, url: str, seconds: float = 5.0) -> RemoteFacts | None:
        """Ask for size and version of a file, once; None without an answer."""
        try:
            with self.open("HEAD", url, {}, (seconds, seconds)) as response:
                return facts_of(response) if response.status_code == 200 else None
        except (Transient, DownloadError, ValueError):
            return None


def check_answer(url: str, response: requests.Response, asked_for_range: bool, policy: HttpPolicy) -> None:
    """Refuse what is not the file, or the part of it that was asked for.

    Raises:
        Transient: the server is busy, or failed.
        DownloadError: it will not give the file.
    """
    from urllib3.exceptions import InvalidHeader

    status = response.status_code
    answer = f"the server answered {status} {response.reason or ''}".rstrip()
    if status in _TRANSIENT_STATUS:
        try:
            wait = policy.retry().get_retry_after(response.raw)
        except InvalidHeader:
            wait = None
        raise Transient(answer, wait or None)
    if status != 200 and not (status == 206 and asked_for_range):
        advice = _ADVICE.get(status, "give another --mirror, or try later")
        raise DownloadError(f"{shown(url)}: {answer}: {advice}")
    if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise DownloadError(f"{shown(url)}: sent compressed, which was not asked for; use --mirror")
    if status == 200 and response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise DownloadError(
            f"{shown(url)}: answered with a web page instead of the file; does this network need a login?"
        )


def _no_answer(url: str, error: requests.RequestException) -> Exception:
    """The error for a request without an answer."""
    from requests import exceptions

    host = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(error, exceptions.InvalidURL | exceptions.MissingSchema | exceptions.InvalidSchema):
        return DownloadError(f"{url}: not a web address; expected http://... or https://...")
    if isinstance(error, exceptions.TooManyRedirects):
        return DownloadError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects; use --mirror")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return DownloadError(
            f"{shown(url)}: the certificate of {host} cannot be verified; behind a proxy that replaces "
            "certificates, set REQUESTS_CA_BUNDLE to its own"
        )
    if isinstance(error, exceptions.ProxyError):
        return Transient(f"the proxy does not lead to {host}")
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    return Transient(f"no connection to {host} ({getattr(cause, 'strerror', None) or cause})")


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
            raise DownloadError(f"{shown(response.url)}: redirects to {shown(target)}, {kind}; refused")


def origin(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def facts_of(response: requests.Response) -> RemoteFacts:
    """What the headers of an answer say about the file."""
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


def shown(url: str) -> str:
    """An address without passwords and signatures."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
