"""Fetching one file from a server that may do anything: the right bytes, or a clear error with what arrived kept."""

from __future__ import annotations

import email.utils
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from aasvc_cli.errors import AasvcError, DownloadError, StorageError
from aasvc_cli.storage.files import file_sha256
from aasvc_cli.storage.http import Http, HttpPolicy, RemoteFacts, origin
from aasvc_cli.storage.transfer import Fetched, distrust, fetch
from tests import servers
from tests.servers import Server, as_it_is, change, drop, redirect, serving, stall, status

CONTENT = random.Random(7).randbytes(300_000)
OTHER = random.Random(8).randbytes(280_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


class Client:
    """A client that remembers how long it would have waited, and does not."""

    def __init__(self, **policy: Any) -> None:
        self.waits: list[float] = []
        self.messages: list[str] = []
        self.progress: list[tuple[str, int, int | None]] = []
        defaults = {"retries": 4, "connect_seconds": 2.0, "read_seconds": 0.3, "jitter_seconds": 0.0}
        self.policy = HttpPolicy(**{**defaults, "sleep": self.waits.append, **policy})

    def fetch(self, url: str, path: Path, **options: Any) -> Fetched:
        with Http("tests", self.policy, options.pop("tokens", {})) as http:
            return fetch(
                http,
                url,
                path,
                on_bytes=lambda *progress: self.progress.append(progress),
                on_message=self.messages.append,
                **options,
            )


@pytest.fixture
def client() -> Client:
    return Client()


def part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def state(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def leftovers(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each != path)


def ranges(server: Server) -> list[str | None]:
    return [request.headers.get("Range") for request in server.gets()]


class TestAnHonestServer:
    def test_the_file_arrives_with_its_size_and_checksum_and_leaves_nothing_else(
        self, server: Server, client: Client, tmp_path: Path
    ):
        path = tmp_path / "new" / "file"
        fetched = client.fetch(server.put("/file", CONTENT), path)
        assert path.read_bytes() == CONTENT
        assert (fetched.size, fetched.n_received) == (len(CONTENT), len(CONTENT))
        assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest() == file_sha256(path)
        assert leftovers(path) == []
        assert client.messages == client.waits == []

    def test_progress_ends_at_the_size_of_the_file(self, server: Server, client: Client, tmp_path: Path):
        client.fetch(server.put("/file", CONTENT), tmp_path / "file")
        transfer = [(done, total) for what, done, total in client.progress if what == "file"]
        assert [done for done, _ in transfer] == sorted(done for done, _ in transfer)
        assert transfer[-1] == (len(CONTENT), len(CONTENT))
        assert client.progress[-1] == ("checking file", len(CONTENT), len(CONTENT))

    @pytest.mark.parametrize("data", [b"", b"x"])
    def test_small_files_arrive(self, server: Server, client: Client, tmp_path: Path, data: bytes):
        assert client.fetch(server.put("/file", data), tmp_path / "file").size == len(data)
        assert (tmp_path / "file").read_bytes() == data

    def test_a_body_in_chunks_of_unknown_sum_arrives(self, server: Server, client: Client, tmp_path: Path):
        client.fetch(server.put("/file", CONTENT, chunked=True), tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_a_probe_tells_size_and_version(self, server: Server):
        url = server.put("/file", CONTENT)
        with Http("tests") as http:
            facts = http.probe(url)
            assert facts is not None
            assert facts.size == len(CONTENT)
            assert facts.etag == server.files["/file"].validators()["ETag"]
            assert http.probe(server.url + "/none") is None
        assert [request.method for request in server.requests] == ["HEAD", "HEAD"]

    def test_a_probe_of_a_silent_address_tells_nothing(self):
        with Http("tests") as http:
            assert http.probe("http://127.0.0.1:9/file") is None
            assert http.probe("nonsense") is None


class TestGoingOn:
    @pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
    @pytest.mark.parametrize("chunked", [False, True], ids=["plain", "chunked"])
    def test_a_broken_connection_is_taken_up_where_it_broke(
        self, server: Server, client: Client, tmp_path: Path, reset: bool, chunked: bool
    ):
        url = server.put("/file", CONTENT, chunked=chunked)
        server.faults = [drop(100_000), drop(70_000, reset)]
        fetched = client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        first, second, third = ranges(server)
        assert (first, second) == (None, "bytes=100000-")
        assert third is not None  # after a reset, the system may have thrown bytes away that had arrived
        assert server.gets()[1].headers["If-Range"] == server.files["/file"].validators()["ETag"]
        if not reset:
            assert third == "bytes=170000-"
            assert fetched.n_received == len(CONTENT)
        assert len(client.messages) == 2
        assert "trying again" in client.messages[0]

    def test_another_call_goes_on_from_what_is_here(self, server: Server, tmp_path: Path):
        url = server.put("/file", CONTENT)
        server.faults = [drop(100_000), servers.refuse]
        with pytest.raises(DownloadError, match=r"100000 bytes are kept in file\.part, the same command goes on"):
            Client(retries=1).fetch(url, tmp_path / "file")
        assert part(tmp_path / "file").read_bytes() == CONTENT[:100_000]
        client = Client()
        assert client.fetch(url, tmp_path / "file").n_received == 200_000
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert leftovers(tmp_path / "file") == []
        assert client.progress[0][1] > 100_000

    def test_a_part_that_is_whole_is_only_checked(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT)
        server.faults = [drop(len(CONTENT) - 1)]
        with pytest.raises(DownloadError):
            Client(retries=0).fetch(url, tmp_path / "file")
        with part(tmp_path / "file").open("ab") as stream:
            stream.write(CONTENT[-1:])
        asked = len(server.requests)
        assert client.fetch(url, tmp_path / "file").n_received == 0
        assert len(server.requests) == asked

    def test_a_server_without_ranges_costs_bytes_but_no_progress(self, server: Server, tmp_path: Path):
        url = server.put("/file", CONTENT, ranges=False)
        server.faults = [drop(n) for n in (50_000, 90_000, 140_000, 200_000, 299_999)]
        client = Client(retries=1)  # each attempt brings something new, so none of them counts as the last straw
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    @pytest.mark.parametrize("fault", [servers.ignore_range, servers.wrong_range, status(416)])
    def test_a_wrong_answer_to_a_range_leads_to_the_right_bytes(
        self, server: Server, client: Client, tmp_path: Path, fault: servers.Fault
    ):
        url = server.put("/file", CONTENT)
        server.faults = [drop(100_000), fault]
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_without_anything_that_tells_versions_apart_the_bytes_are_compared(
        self, server: Server, client: Client, tmp_path: Path
    ):
        url = server.put("/file", CONTENT, etag=False, modified=None)
        server.faults = [drop(100_000), change(CONTENT[:60_000] + OTHER)]
        client.fetch(url, tmp_path / "file")
        assert ranges(server) == [None, None]
        assert (tmp_path / "file").read_bytes() == CONTENT[:60_000] + OTHER

    def test_a_date_of_this_second_does_not_identify_a_version(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT, etag=False, modified=int(time.time()) + 5)
        server.faults = [drop(100_000)]
        client.fetch(url, tmp_path / "file")
        assert ranges(server) == [None, None]

    def test_an_old_date_identifies_a_version(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT, etag=False)
        server.faults = [drop(100_000)]
        client.fetch(url, tmp_path / "file")
        assert ranges(server) == [None, "bytes=100000-"]
        assert server.gets()[1].headers["If-Range"] == email.utils.formatdate(servers.LONG_AGO, usegmt=True)

    def test_a_weak_entity_tag_does_not_identify_a_version(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT, etag=False, modified=None, headers={"ETag": 'W/"1"'})
        server.faults = [drop(100_000)]
        client.fetch(url, tmp_path / "file")
        assert ranges(server) == [None, None]

    def test_a_part_of_unknown_origin_is_compared_and_corrected(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT)
        part(tmp_path / "file").write_bytes(CONTENT[:1000] + b"?" * 400_000)
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"size": "x"}', "\0"])
    def test_a_damaged_note_beside_a_part_is_not_believed(
        self, server: Server, client: Client, tmp_path: Path, text: str
    ):
        url = server.put("/file", CONTENT)
        part(tmp_path / "file").write_bytes(b"?" * 1000)
        state(tmp_path / "file").write_text(text)
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_a_file_that_is_no_longer_trusted_is_compared_with_the_servers(
        self, server: Server, client: Client, tmp_path: Path
    ):
        path = tmp_path / "file"
        path.write_bytes(CONTENT[:-5] + b"wrong")
        distrust(path)
        assert not path.exists()
        client.fetch(server.put("/file", CONTENT), path)
        assert path.read_bytes() == CONTENT


class TestChangedFiles:
    @pytest.mark.parametrize("if_range", [True, False], ids=["If-Range", "no If-Range"])
    @pytest.mark.parametrize("etag", [True, False], ids=["tag", "date"])
    def test_two_versions_are_never_glued_together(self, server: Server, tmp_path: Path, if_range: bool, etag: bool):
        for number, data in enumerate([OTHER, CONTENT[::-1], OTHER[:50_000], CONTENT[:50_000], OTHER + OTHER]):
            client, path = Client(), tmp_path / str(number)
            url = server.put(f"/{number}", CONTENT, if_range=if_range, etag=etag)
            server.faults = [drop(100_000), change(data)]
            client.fetch(url, path)
            assert path.read_bytes() == data
            assert re.search("changed on the server, starting over|shorter", "\n".join(client.messages)), number

    def test_a_change_and_a_broken_connection_at_once_do_not_mix_versions_either(
        self, server: Server, client: Client, tmp_path: Path
    ):
        url = server.put("/file", CONTENT)
        same_start = CONTENT[:80_000] + OTHER
        server.faults = [drop(100_000), change(same_start, then=drop(40_000)), drop(90_000), drop(10_000)]
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == same_start

    def test_a_server_that_sends_another_file_each_time_is_given_up(self, server: Server, tmp_path: Path):
        url = server.put("/file", CONTENT)
        versions = [random.Random(seed).randbytes(300_000) for seed in range(30)]
        server.faults = [change(data, then=drop(100_000)) for data in versions]
        with pytest.raises(DownloadError, match="times in a row"):
            Client(retries=3).fetch(url, tmp_path / "file")
        assert not (tmp_path / "file").exists()
        assert len(server.gets()) < 12


class TestPatience:
    def test_waits_double_up_to_a_limit_and_differ_between_clients(self, server: Server, tmp_path: Path):
        url = server.put("/file", CONTENT)
        drawn = []
        for number in range(3):
            server.faults = [status(500)] * 9
            client = Client(retries=9, jitter_seconds=1.0)
            client.fetch(url, tmp_path / str(number))
            for wait, least in zip(client.waits, [2, 4, 8, 16, 32, 60, 60, 60], strict=True):
                assert least <= wait <= min(60, least + 1)
            drawn += client.waits[:5]
        assert len(set(drawn)) == 15

    @pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
    def test_a_busy_server_is_asked_again(self, server: Server, client: Client, tmp_path: Path, code: int):
        url = server.put("/file", CONTENT)
        server.faults = [status(code), status(code)]
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert client.waits == [2.0], "the first one at once"
        assert str(code) in client.messages[0]

    def test_the_time_that_a_server_asks_for_is_kept(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT)
        then = email.utils.formatdate(time.time() + 90, usegmt=True)
        server.faults = [status(429, Retry_After="7"), status(503, Retry_After=then), status(503, Retry_After="soon")]
        client.fetch(url, tmp_path / "file")
        assert client.waits[0] == 7.0
        assert client.waits[1] == pytest.approx(90, abs=2)
        assert client.waits[2] == 4.0

    def test_a_date_in_the_past_is_no_wait(self, server: Server, client: Client, tmp_path: Path):
        server.faults = [status(503, Retry_After=email.utils.formatdate(time.time() - 900, usegmt=True))]
        client.fetch(server.put("/file", CONTENT), tmp_path / "file")
        assert client.waits == []

    def test_a_server_that_asks_for_hours_is_not_waited_for(self, server: Server, client: Client, tmp_path: Path):
        server.faults = [drop(1000), status(503, Retry_After="7200")]
        with pytest.raises(DownloadError, match="come back in 7200 s"):
            client.fetch(server.put("/file", CONTENT), tmp_path / "file")
        assert part(tmp_path / "file").stat().st_size == 1000

    def test_retries_are_counted_and_the_error_says_what_is_kept(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT)
        server.faults = [drop(5000), *[status(500)] * 20]
        with pytest.raises(DownloadError, match=r"500 .*, 5 times in a row; 5000 bytes are kept"):
            client.fetch(url, tmp_path / "file")
        assert len(server.gets()) == 5
        assert client.waits == [2.0, 4.0, 8.0]

    def test_silence_is_broken_off_and_the_file_is_taken_up_again(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT)
        server.faults = [stall(100_000, 30.0)]
        began = time.monotonic()
        client.fetch(url, tmp_path / "file")
        assert time.monotonic() - began < 5
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert ranges(server) == [None, "bytes=100000-"]
        assert "was silent for 0.3 s" in client.messages[0]

    def test_a_server_that_closes_the_connection_is_reported_plainly(
        self, server: Server, client: Client, tmp_path: Path
    ):
        server.faults = [servers.refuse, lambda handler, _: handler.hang_up()]
        client.fetch(server.put("/file", CONTENT), tmp_path / "file")
        assert len(client.messages) == 2
        for message in client.messages:
            assert re.search(r"no connection to 127\.0\.0\.1:\d+ \([\w ]+\); trying again", message)

    def test_an_address_without_a_server_is_an_error_that_names_the_host(self, client: Client, tmp_path: Path):
        with pytest.raises(
            DownloadError, match=r"no connection to 127\.0\.0\.1:9 \(Connection refused\), .*nothing has"
        ):
            client.fetch("http://127.0.0.1:9/file", tmp_path / "file")
        assert len(client.messages) == 4

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/file", "nonsense", "http://"])
    def test_what_is_no_web_address_is_not_tried_twice(self, client: Client, tmp_path: Path, url: str):
        with pytest.raises(DownloadError, match="not a web address"):
            client.fetch(url, tmp_path / "file")
        assert client.waits == []

    @pytest.mark.parametrize(
        ("code", "advice"),
        [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "--mirror"), (410, "gone"), (418, "--mirror"), (501, "--mirror")],
    )
    def test_a_final_refusal_is_an_error_at_once_that_says_what_to_do(
        self, server: Server, client: Client, tmp_path: Path, code: int, advice: str
    ):
        url = server.put("/file", CONTENT)
        server.faults = [drop(5000), status(code)]
        with pytest.raises(DownloadError, match=rf"/file: the server answered {code}.*{advice}"):
            client.fetch(url, tmp_path / "file")
        assert part(tmp_path / "file").stat().st_size == 5000
        assert len(server.gets()) == 2


class TestWrongBodies:
    def test_more_bytes_than_announced_are_not_taken(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT)
        server.faults = [servers.long_body(999)]
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_nor_are_they_after_a_range(self, server: Server, client: Client, tmp_path: Path):
        def too_much(handler: servers.Handler, resource: servers.Resource) -> None:
            first, total = handler.wanted(resource) or 0, len(resource.data)
            extra = b"x" * 5000
            headers = {"Content-Range": f"bytes {first}-{total - 1}/{total}"}
            handler.head(206, {**resource.validators(), **headers, "Content-Length": str(total - first + len(extra))})
            handler.write(resource.data[first:] + extra)

        url = server.put("/file", CONTENT)
        server.faults = [drop(100_000), too_much]
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_a_wrong_checksum_is_tried_once_more_and_then_refused(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT)
        wanted = hashlib.sha256(OTHER).hexdigest()
        with pytest.raises(DownloadError, match=rf"SHA-256 {hashlib.sha256(CONTENT).hexdigest()}, expected {wanted}"):
            client.fetch(url, tmp_path / "file", sha256=wanted)
        assert not (tmp_path / "file").exists()
        assert len(server.gets()) == 2
        assert client.waits == []
        server.put("/file", OTHER)
        client.fetch(url, tmp_path / "file", sha256=wanted)
        assert (tmp_path / "file").read_bytes() == OTHER

    def test_bytes_that_were_garbled_once_are_put_right(self, server: Server, client: Client, tmp_path: Path):
        def garble(handler: servers.Handler, resource: servers.Resource) -> None:
            garbled = resource.data[:1000] + b"????" + resource.data[1004:]
            handler.head(200, {**resource.validators(), "Content-Length": str(len(garbled))})
            handler.write(garbled)

        url = server.put("/file", CONTENT)
        server.faults = [garble]
        client.fetch(url, tmp_path / "file", sha256=hashlib.sha256(CONTENT).hexdigest())
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_a_file_of_another_size_than_expected_is_refused(self, server: Server, client: Client, tmp_path: Path):
        with pytest.raises(DownloadError, match="has 300000 bytes, expected 299999"):
            client.fetch(server.put("/file", CONTENT), tmp_path / "file", size=299_999)
        assert leftovers(tmp_path / "file") == []

    def test_a_body_of_unknown_length_is_refused(self, server: Server, client: Client, tmp_path: Path):
        def until_the_end(handler: servers.Handler, resource: servers.Resource) -> None:
            handler.head(200, {"Connection": "close"})
            handler.write(resource.data[:1000])
            handler.hang_up()

        url = server.put("/file", CONTENT)
        server.faults = [until_the_end]
        with pytest.raises(DownloadError, match="does not say how long"):
            client.fetch(url, tmp_path / "file")
        server.faults = [until_the_end]
        client.fetch(url, tmp_path / "file", size=len(CONTENT))  # an expected size tells it
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_a_login_page_in_place_of_the_file_is_recognised(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", b"<html>log in</html>", headers={"Content-Type": "text/html; charset=utf-8"})
        with pytest.raises(DownloadError, match="a web page instead of the file"):
            client.fetch(url, tmp_path / "file")
        assert leftovers(tmp_path / "file") == []

    def test_a_compressed_body_is_refused(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", CONTENT, headers={"Content-Encoding": "gzip"})
        with pytest.raises(DownloadError, match="compressed"):
            client.fetch(url, tmp_path / "file")
        assert server.requests[0].headers["Accept-Encoding"] == "identity"

    def test_a_disk_that_takes_no_more_is_an_error_that_keeps_what_is_there(
        self, server: Server, client: Client, tmp_path: Path
    ):
        path = tmp_path / "file"
        part(path).mkdir()
        with pytest.raises(StorageError, match=r"file\.part"):
            client.fetch(server.put("/file", CONTENT), path)


class TestRedirects:
    def test_they_are_followed_and_a_range_goes_along(self, server: Server, client: Client, tmp_path: Path):
        server.put("/there", CONTENT)
        url = server.put("/file", b"")
        server.faults = [redirect("/there"), drop(100_000), redirect("/there")]
        client.fetch(url, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert [request.path for request in server.gets()] == ["/file", "/there", "/file", "/there"]
        assert server.gets("/there")[1].headers["Range"] == "bytes=100000-"

    def test_a_circle_is_left(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", b"")
        server.faults = [redirect("/file")] * 50
        with pytest.raises(DownloadError, match="more than 10 redirects"):
            client.fetch(url, tmp_path / "file")
        assert len(server.gets()) == 11

    def test_only_web_addresses_are_followed(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", b"")
        server.faults = [redirect("file:///etc/passwd")]
        with pytest.raises(DownloadError, match="no web address"):
            client.fetch(url, tmp_path / "file")

    def test_an_encrypted_address_does_not_lead_to_an_open_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with serving() as server:
            url = server.put("/file", b"")
            server.faults = [redirect(server.put("/open", CONTENT))]
            real = requests.adapters.HTTPAdapter.send

            def send(adapter: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
                """As if the answer had come over an encrypted connection."""
                asked, request.url = request.url, url
                response = real(adapter, request, **options)
                response.url = asked
                return response

            monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
            with pytest.raises(DownloadError, match="unencrypted address"):
                Client().fetch("https://files.example/file", tmp_path / "file")
            assert len(server.requests) == 1

    def test_a_token_goes_to_its_own_host_and_not_where_that_one_redirects(
        self, server: Server, client: Client, tmp_path: Path
    ):
        with serving() as stranger:
            elsewhere = stranger.put("/stored", CONTENT)
            url = server.put("/file", b"")
            server.put("/api", b"")
            for there in (elsewhere, elsewhere.replace("127.0.0.1", "localhost")):
                server.faults = [redirect("/api"), redirect(there)]
                client.fetch(url, tmp_path / "file", tokens={origin(server.url): "hf_secret"})
                assert (tmp_path / "file").read_bytes() == CONTENT
                assert [each.headers.get("Authorization") for each in server.gets()] == ["Bearer hf_secret"] * 2
                assert [each.headers.get("Authorization") for each in stranger.gets()] == [None]
                assert "hf_secret" not in str(stranger.requests)
                server.requests.clear()
                stranger.requests.clear()

    def test_a_token_does_not_show_in_errors_or_representations(self, server: Server, client: Client, tmp_path: Path):
        url = server.put("/file", b"")
        server.faults = [status(403)]
        with pytest.raises(DownloadError) as caught:
            client.fetch(url.replace("//", "//me:pass@") + "?Signature=abc", tmp_path / "file")
        assert "pass" not in str(caught.value)
        assert "Signature" not in str(caught.value)

    def test_a_netrc_file_does_not_replace_the_token(
        self, server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pass\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        client.fetch(server.put("/file", CONTENT), tmp_path / "file", tokens={origin(server.url): "hf_secret"})
        assert server.gets()[0].headers["Authorization"] == "Bearer hf_secret"

    def test_the_checksum_that_a_hub_tells_on_the_way_is_checked(self, server: Server, client: Client, tmp_path: Path):
        server.put("/stored", CONTENT)
        url = server.put("/file", b"")
        server.faults = [redirect("/stored", X_Linked_ETag=f'"{hashlib.sha256(CONTENT).hexdigest()}"')]
        fetched = client.fetch(url, tmp_path / "file")
        assert fetched.facts.sha256 == fetched.sha256
        server.faults = [redirect("/stored", X_Linked_ETag=f'"{hashlib.sha256(OTHER).hexdigest()}"'), as_it_is] * 2
        with pytest.raises(DownloadError, match="SHA-256"):
            client.fetch(url, tmp_path / "other")
        assert not (tmp_path / "other").exists()


class TestProxies:
    def test_the_proxy_of_the_environment_is_used(
        self, server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        server.put("files.example/file", CONTENT)
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "")
        server.faults = [drop(100_000)]
        client.fetch("http://files.example/file", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert {request.path for request in server.requests} == {"files.example/file"}

    def test_a_proxy_that_is_not_there_is_named_as_the_reason(
        self, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(DownloadError, match=r"the proxy does not lead to files\.example"):
            client.fetch("http://files.example/file", tmp_path / "file")

    def test_hosts_that_need_no_proxy_are_reached_directly(
        self, server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        client.fetch(server.put("/file", CONTENT), tmp_path / "file")
        assert server.requests[0].path == "/file"


SCHEDULES = 5
"""Blocks of ten schedules of faults."""


class Chaos:
    """A server whose faults are drawn, with every version of the file that it ever had."""

    def __init__(self, server: Server, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = server
        self.versions = [self.content()]
        self.url = server.put(
            "/file",
            self.versions[0],
            etag=self.random.random() < 0.6,
            modified=self.random.choice([None, servers.LONG_AGO, int(time.time()) + 100]),
            ranges=self.random.random() < 0.8,
            if_range=self.random.random() < 0.8,
            chunked=self.random.random() < 0.25,
        )
        # a stall is a third of a second each, so there is at most one
        self.faults = [self.draw() for _ in range(self.random.randint(1, 12))]
        if self.random.random() < 0.3:
            self.faults.insert(self.random.randrange(len(self.faults)), stall(self.random.randrange(150_000), 20.0))
        server.faults = list(self.faults)

    def content(self) -> bytes:
        return self.random.randbytes(self.random.randint(1, 200_000))

    def draw(self) -> servers.Fault:
        size = self.random.randrange(200_000)
        kind = self.random.randrange(11)
        if kind == 7:
            old, new = self.versions[-1], self.content()
            if self.random.random() < 0.5:  # the same start, so that gluing would look right for a while
                new = old[: self.random.randint(0, len(old))] + new
            self.versions.append(new)
            return change(new, then=drop(size) if self.random.random() < 0.5 else None)
        return [
            drop(size),
            drop(size, reset=True),
            drop(size // 100),
            servers.refuse,
            servers.ignore_range,
            servers.wrong_range,
            servers.long_body(self.random.randint(1, 5000)),
            drop(0),
            status(self.random.choice([429, 500, 503]), Retry_After=str(self.random.randint(0, 9))),
            status(416),
            redirect("/file"),
        ][kind]


def attempt(client: Client, url: str, path: Path, sha256: str | None) -> tuple[Fetched | None, str]:
    """A file, or the reason why there is none."""
    try:
        return client.fetch(url, path, sha256=sha256), ""
    except DownloadError as error:
        return None, str(error)


@pytest.mark.parametrize("block", range(SCHEDULES))
def test_whatever_goes_wrong_there_are_the_right_bytes_or_an_error_with_the_partial_kept(tmp_path: Path, block: int):
    for seed in range(10 * block, 10 * block + 10):
        with serving() as server:
            fetch_through_faults(server, tmp_path / str(seed) / "file", seed)


def fetch_through_faults(server: Server, path: Path, seed: int) -> None:
    chaos = Chaos(server, seed)
    known = hashlib.sha256(chaos.versions[-1]).hexdigest() if seed % 3 == 0 else None
    patience = chaos.random.randint(0, 3)
    for _ in range(100):
        before = part(path).read_bytes() if part(path).exists() else b""
        current = server.files["/file"].data
        client = Client(retries=patience, read_seconds=0.25)
        fetched, message = attempt(client, chaos.url, path, known)
        if fetched is not None:
            assert path.read_bytes() in chaos.versions
            assert fetched.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
            assert known in (None, fetched.sha256)
            assert leftovers(path) == []
            break
        assert message
        assert "\n" not in message
        assert not path.exists()
        kept = part(path).read_bytes() if part(path).exists() else b""
        if state(path).exists():  # the note that a later attempt relies on
            assert any(version.startswith(kept) for version in chaos.versions)
        # nothing but another version, which may have come with an earlier attempt, is a reason to let bytes go
        if server.files["/file"].data == current and current.startswith(before):
            assert len(kept) >= len(before)
            assert kept or not any(done for _, done, _ in client.progress)
    else:
        pytest.fail(f"a hundred times the same command, and still no file: schedule {seed}")


def test_bytes_that_arrived_are_on_the_disk_before_the_next_ones_are_asked_for(server: Server, tmp_path: Path):
    """What a SIGKILL leaves behind: the part grows with every block, and its note is written first."""
    url = server.put("/file", CONTENT)
    server.faults = [servers.drip(0.005)]
    seen: list[tuple[int, int]] = []

    def look(what: str, done: int, total: int | None) -> None:
        if what == "file":
            assert json.loads(state(tmp_path / "file").read_text())["size"] == len(CONTENT)
            seen.append((part(tmp_path / "file").stat().st_size, done))

    with Http("tests", Client().policy) as http:
        fetch(http, url, tmp_path / "file", on_bytes=look)
    assert len(seen) > 5
    assert all(size == done for size, done in seen)


def test_an_interrupt_leaves_a_part_that_is_taken_up(server: Server, client: Client, tmp_path: Path):
    url = server.put("/file", CONTENT)
    server.faults = [servers.drip(0.005)]

    def interrupt(what: str, done: int, total: int | None) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Http("tests", client.policy) as http:
        fetch(http, url, tmp_path / "file", on_bytes=interrupt)
    kept = part(tmp_path / "file").stat().st_size
    assert kept > 100_000
    assert client.fetch(url, tmp_path / "file").n_received == len(CONTENT) - kept
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_many_threads_of_the_same_client_code_do_not_disturb_each_other(server: Server, tmp_path: Path):
    urls = [server.put(f"/{number}", random.Random(number).randbytes(50_000)) for number in range(4)]
    failed: list[BaseException] = []

    def fetch(number: int) -> None:
        try:
            Client().fetch(urls[number], tmp_path / str(number))
        except AasvcError as error:
            failed.append(error)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all((tmp_path / str(n)).read_bytes() == random.Random(n).randbytes(50_000) for n in range(4))


def test_versions_are_the_same_or_different_or_neither():
    nothing = RemoteFacts()
    tagged = RemoteFacts(size=3, etag='"a"')
    dated = RemoteFacts(size=3, last_modified="Tue, 14 Nov 2023 22:13:20 GMT", settled=True)
    assert not nothing.same_version(nothing)
    assert not nothing.differs(tagged)
    assert tagged.same_version(tagged)
    assert dated.same_version(dated)
    assert not tagged.same_version(RemoteFacts(size=3, etag='"b"'))
    assert tagged.differs(RemoteFacts(size=3, etag='"b"'))
    assert tagged.differs(RemoteFacts(size=4, etag='"a"'))
    assert not RemoteFacts(size=3, last_modified=dated.last_modified).same_version(dated)
