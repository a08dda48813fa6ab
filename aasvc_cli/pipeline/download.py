"""Download corpora, published models and vocoders by name into the data folder.

An item grows in a hidden folder beside its place, ``.<name>.partial``, and takes its name when it is
complete. So a name never stands for half an item, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from aasvc_cli import __version__
from aasvc_cli.data import demo
from aasvc_cli.errors import AasvcError, DataError, DownloadError, Interrupted, StorageError
from aasvc_cli.published.catalogue import CATALOGUE, HUB, CatalogueItem, RemoteFile, corpus_place
from aasvc_cli.published.records import (
    COMPLETED,
    LICENCE_FILE,
    PROGRESS,
    bytes_below,
    entry_of,
    has_size,
    is_present,
    licence_text,
    partial_folder,
    read_record,
    record_tree,
    remember,
    was_accepted,
)
from aasvc_cli.storage.archive import BadArchive, DamagedArchive, ZipLimits, read_members, unpack
from aasvc_cli.storage.files import byte_size, lock, make_folder, remove_file, storage_error, write_json, write_text
from aasvc_cli.storage.home import Home, bundled
from aasvc_cli.storage.http import Http, HttpPolicy, origin
from aasvc_cli.storage.transfer import Fetched, OnBytes, OnMessage, distrust, fetch

UNPACKED_FACTOR = 1.3
"""Estimated size of unpacked recordings relative to their archive; the archive itself has the exact size."""
OFFLINE_WORDS = frozenset({"1", "on", "yes", "true"})
"""Values of HF_HUB_OFFLINE that mean yes."""

_ARCHIVES = ".archives"
_ARCHIVE_LIMITS = ZipLimits(members=200_000, total_bytes=60_000_000_000)


# --- where it comes from --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where files come from.

    Attributes:
        mirror: address that stands for the scheme and host of every file; their paths stay
        hub: of Hugging Face, or a mirror of it
        token: for the hub, sent to no other host
        offline: the network is not used
    """

    mirror: str | None = None
    hub: str = HUB
    token: str | None = field(default=None, repr=False)
    offline: bool = False

    @classmethod
    def from_environment(cls, *, mirror: str | None = None, offline: bool = False) -> Self:
        """The given settings over those of the environment: HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.

        Raises:
            DataError: something that is no web address.
        """
        hub = os.environ.get("HF_ENDPOINT") or HUB
        for name, address in (("--mirror", mirror), ("HF_ENDPOINT", hub)):
            parts = urlsplit(address or HUB)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise DataError(f"{name} {address}: not a web address; expected http://... or https://...")
        return cls(
            mirror=mirror,
            hub=hub.rstrip("/"),
            token=os.environ.get("HF_TOKEN", "").strip() or None,
            offline=offline or os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in OFFLINE_WORDS,
        )

    def address(self, file: RemoteFile) -> str:
        """Where a file is fetched."""
        if self.mirror is not None:
            return self.mirror.rstrip("/") + urlsplit(file.url).path
        return self.hub + file.url.removeprefix(HUB) if file.url.startswith(HUB + "/") else file.url

    def connect(self, policy: HttpPolicy | None = None) -> Http:
        """Connections; the token goes to the hub alone."""
        tokens = {origin(self.hub): self.token} if self.token else {}
        return Http(f"aasvc/{__version__}", policy or HttpPolicy(), tokens)


# --- what is here ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemState:
    """How much of an item is on this machine.

    Attributes:
        state: ``present``, ``partial`` or ``absent``
        bytes_here: on the disk
        bytes_to_fetch: of the files as the server has them; None if unknown
        estimated: the size is approximate, as the server was not asked or did not answer
        addresses: where its files are fetched
        disk_bytes: still needed on the disk to fetch and unpack it; None if unknown
    """

    item: CatalogueItem
    folder: Path
    state: str
    bytes_here: int
    bytes_to_fetch: int | None
    estimated: bool
    addresses: tuple[str, ...]
    disk_bytes: int | None

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        item = dataclasses.asdict(self.item)
        return {
            **{name: item[name] for name in ("name", "kind", "description", "licence", "page")},
            "folder": str(self.folder), "state": self.state, "bytes_here": self.bytes_here,
            "bytes": self.bytes_to_fetch, "estimated": self.estimated, "addresses": list(self.addresses),
            "disk_bytes": self.disk_bytes,
        }  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """What can be downloaded, and how much of it is on this machine.

    Attributes:
        free_bytes: on the disk of the data folder
    """

    items: tuple[ItemState, ...]
    free_bytes: int

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"items": [state.to_tree() for state in self.items], "free_bytes": self.free_bytes}


def survey(
    home: Home,
    items: Sequence[CatalogueItem],
    source: Source,
    *,
    keep_archives: bool = False,
    overwrite: bool = False,
    policy: HttpPolicy | None = None,
) -> Survey:
    """Find what is on this machine and, unless offline, ask the servers for the sizes of the rest; changes nothing.

    Args:
        overwrite: ignore what is on this machine
    """
    silent: set[str] = set()
    with source.connect(policy) as http:
        states = [_look(home, item, source, http, silent, keep_archives, overwrite) for item in items]
    return Survey(tuple(states), _free_bytes(home.root))


def _look(
    home: Home,
    item: CatalogueItem,
    source: Source,
    http: Http,
    silent: set[str],
    keep_archives: bool,
    overwrite: bool,
) -> ItemState:
    folder = item.folder(home)
    addresses = tuple(source.address(file) for file in item.files)
    if item.asset:
        size = sum((bundled(item.asset) / name).stat().st_size for name in demo.bundled_files(bundled(item.asset)))
        here = bytes_below(folder)
        state = "present" if (folder / COMPLETED).is_file() else "partial" if here else "absent"
        return ItemState(item, folder, state, here, size, False, (), 0 if state == "present" else size)
    if is_present(folder, item) and not overwrite:
        known = sum(entry["size"] for entry in read_record(folder / COMPLETED).values())
        return ItemState(item, folder, "present", bytes_below(folder), known, False, addresses, 0)
    here = bytes_below(partial_folder(folder)) + (0 if overwrite else bytes_below(folder))
    sizes: list[int | None] = []
    estimated = False
    for file, address in zip(item.files, addresses, strict=True):
        facts = None
        if not source.offline and origin(address) not in silent:
            facts = http.probe(address)
            if facts is None:
                silent.add(origin(address))  # wait for a silent server only once
        sizes.append(facts.size if facts is not None else None)
        if sizes[-1] is None:
            estimated = True
            sizes[-1] = file.about_bytes
    known_sizes = [size for size in sizes if size is not None]
    complete = len(known_sizes) == len(sizes)
    disk = max(0, _peak(item, known_sizes, keep_archives) - here) if complete else None
    state = "partial" if here else "absent"
    return ItemState(item, folder, state, here, sum(known_sizes) if complete else None, estimated, addresses, disk)


def _peak(item: CatalogueItem, sizes: Sequence[int], keep_archives: bool) -> int:
    """Peak disk usage: an archive is removed after unpacking, before the next one is fetched."""
    if item.kind != "corpus":
        return sum(sizes)
    unpacked = [round(size * UNPACKED_FACTOR) for size in sizes]
    if keep_archives:
        return sum(sizes) + sum(unpacked)
    return max(sum(unpacked[: number + 1]) + size for number, size in enumerate(sizes))


# --- fetching -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DownloadResult:
    """An item in the data folder.

    Attributes:
        n_files: that belong to it
        n_bytes: of these files
        n_received: bytes that came over the network this time
        seconds: of speech, if known
        already_there: nothing had to be done
        differs: files that are not what they were when they were first fetched
    """

    name: str
    kind: str
    folder: Path
    n_files: int
    n_bytes: int
    already_there: bool
    licence: str
    n_received: int = 0
    seconds: float = 0.0
    differs: tuple[str, ...] = ()

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"folder": str(self.folder), "differs": list(self.differs)}


@dataclass(frozen=True)
class DownloadReport:
    """What `download` has done."""

    items: tuple[DownloadResult, ...]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"items": [item.to_tree() for item in self.items]}


def download(
    home: Home,
    items: Sequence[CatalogueItem],
    source: Source,
    *,
    accept_licence: Callable[[CatalogueItem], bool],
    overwrite: bool = False,
    keep_archives: bool = False,
    policy: HttpPolicy | None = None,
    on_bytes: OnBytes | None = None,
    on_message: OnMessage | None = None,
) -> DownloadReport:
    """Download, check and lay out the items that are not on this machine yet.

    Args:
        accept_licence: asked before the download of an item whose licence has to be accepted
        overwrite: download again what is on this machine, too
        keep_archives: leave the archives of corpora in ``.archives`` of their folder
        on_bytes: called with (what, done, all or None)
        on_message: called with a sentence on what happens

    Raises:
        DownloadError: no network, or a wrong file. What arrived is kept.
        DataError: an archive that is damaged or dangerous.
        StorageError: no permission, no space.
        Interrupted: on Ctrl-C; what arrived is kept.
    """
    say = on_message or _ignore
    missing = [item for item in items if item.files and (overwrite or not is_present(item.folder(home), item))]
    for item in missing:
        _check_online(home, item, source)
        if item.licence.must_accept and not was_accepted(home, item) and not accept_licence(item):
            raise AasvcError(f"{item.name}: nothing was fetched, as its licence was not accepted; accept it with --yes")
    if missing:
        planned = survey(home, missing, source, keep_archives=keep_archives, overwrite=overwrite, policy=policy)
        _check_disk(home, planned)
    results = []
    with source.connect(policy) as http:
        for item in items:
            if item.asset:
                results.append(download_demo(home, overwrite=overwrite))
                continue
            try:
                folder = item.folder(home)
                waiting = functools.partial(say, f"{item.name}: another process is fetching it; waiting")
                with lock(folder.parent / f".{folder.name}.lock", waiting):
                    job = _Job(home, item, source, http, overwrite, keep_archives, on_bytes or _ignore, say)
                    results.append(job.run())
            except KeyboardInterrupt:
                kept = bytes_below(partial_folder(item.folder(home)))
                raise Interrupted(
                    f"stopped; {kept} bytes of {item.name} are kept, the same command goes on from there"
                ) from None
    return DownloadReport(tuple(results))


@dataclass
class _Job:
    """The download of one item, whose lock is held.

    ``record`` has an entry for each file that is done: where it came from, its checksum, and the files that it became.
    """

    home: Home
    item: CatalogueItem
    source: Source
    http: Http
    overwrite: bool
    keep_archives: bool
    on_bytes: OnBytes
    say: OnMessage
    record: dict[str, Any] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    n_received: int = 0

    @property
    def folder(self) -> Path:
        return self.item.folder(self.home)

    @property
    def building(self) -> Path:
        return partial_folder(self.folder)

    def run(self) -> DownloadResult:
        if not self.overwrite and is_present(self.folder, self.item):
            return self._result(read_record(self.folder / COMPLETED), already_there=True)
        _check_online(self.home, self.item, self.source)
        if not self.item.licence.must_accept:
            self.say(f"{self.item.name}: {self.item.licence.terms}")
        make_folder(self.building)
        write_text(self.building / LICENCE_FILE, licence_text(self.item))
        self.record = read_record(self.building / PROGRESS)
        old = {} if self.overwrite else read_record(self.folder / COMPLETED)
        for file in self.item.files:
            entry = self.record.get(file.name) or old.get(file.name)
            if entry is not None and entry["files"] and self._has_all(entry["files"]):
                self._note(file.name, entry)
            elif self.item.kind == "corpus":
                self._archive(file)
            else:
                fetched = self._fetch(file, self.building / file.name)
                self._first_seen(file, fetched)
                self._note(file.name, entry_of(file, fetched, {file.name: [fetched.size, None]}))
        self._publish()
        return self._result(self.record, already_there=False)

    def _result(self, record: Mapping[str, Any], *, already_there: bool) -> DownloadResult:
        sizes = [size for entry in record.values() for size, _ in entry["files"].values()]
        return DownloadResult(
            name=self.item.name,
            kind=self.item.kind,
            folder=self.folder,
            n_files=len(sizes),
            n_bytes=sum(sizes),
            already_there=already_there,
            licence=self.item.licence.name,
            n_received=self.n_received,
            differs=tuple(self.differs),
        )

    def _has_all(self, files: Mapping[str, Sequence[int]]) -> bool:
        bases = [self.building] if self.overwrite else [self.building, self.folder]
        return all(any(has_size(base / path, size) for base in bases) for path, (size, *_) in files.items())

    def _note(self, name: str, entry: dict[str, Any]) -> None:
        self.record[name] = entry
        write_json(self.building / PROGRESS, record_tree(self.item, self.record))

    def _fetch(self, file: RemoteFile, path: Path) -> Fetched:
        if path.exists():
            # complete, but its checksum was not noted
            distrust(path)
        fetched = fetch(
            self.http, self.source.address(file), path, sha256=file.sha256, on_bytes=self.on_bytes, on_message=self.say
        )
        self.n_received += fetched.n_received
        return fetched

    def _archive(self, file: RemoteFile) -> None:
        """Fetch an archive if need be, and unpack the recordings and texts in it."""
        archive = self.building / _ARCHIVES / file.name
        entry = self.record.get(file.name)
        if entry is None or not has_size(archive, entry["size"]):
            entry = entry_of(file, self._fetch(file, archive), {})
            self._note(file.name, entry)
        try:
            members = read_members(archive, lambda path: corpus_place(path, file.speaker), _ARCHIVE_LIMITS)
            if not members:
                raise BadArchive(f"{archive}: holds no recordings; expected <speaker>/wav/<set>/*.wav in it")
            needed = sum(each.size for each in members if not has_size(self.building / each.path, each.size))
            if needed > _free_bytes(self.building):
                raise StorageError(
                    f"{archive}: unpacks to {byte_size(needed)}, and {byte_size(_free_bytes(self.building))} are free; "
                    "free some space, then the same command goes on from there"
                )
            unpack(
                archive,
                members,
                self.building,
                also=None if self.overwrite else self.folder,
                on_bytes=lambda done, total: self.on_bytes(f"unpacking {file.name}", done, total),
            )
        except DamagedArchive as error:
            self._discard(file.name, archive)
            raise DamagedArchive(f"{error}; the same command fetches it again") from None
        except BadArchive:
            self._discard(file.name, archive)
            raise
        self._first_seen(file, entry)
        entry["files"] = {str(each.path): [each.size, each.info.CRC] for each in members}
        self._note(file.name, entry)
        if not self.keep_archives:
            remove_file(archive)

    def _discard(self, name: str, archive: Path) -> None:
        """Forget a bad archive; the next fetch compares it with the one on the server."""
        self.record.pop(name, None)
        write_json(self.building / PROGRESS, record_tree(self.item, self.record))
        distrust(archive)

    def _first_seen(self, file: RemoteFile, kept: Fetched | Mapping[str, Any]) -> None:
        sha256, size = (kept.sha256, kept.size) if isinstance(kept, Fetched) else (kept["sha256"], kept["size"])
        before = remember(self.home, file.url, sha256, size)
        if before is not None:
            self.differs.append(file.name)
            self.say(
                f"{file.name}: is not the file that was first fetched on {before['first_seen'][:10]} (SHA-256 "
                f"{before['sha256'][:12]}..., now {sha256[:12]}...); it was replaced on the server"
            )

    def _publish(self) -> None:
        """Give the finished folder its name, or move new files into an existing one."""
        mark = record_tree(self.item, self.record)
        remove_file(self.building / PROGRESS)
        if not self.keep_archives:
            shutil.rmtree(self.building / _ARCHIVES, ignore_errors=True)
        try:
            if not self.folder.exists():
                write_json(self.building / COMPLETED, mark)
                os.rename(self.building, self.folder)
                return
            remove_file(self.folder / COMPLETED)
            for path in sorted(each for each in self.building.rglob("*") if each.is_file()):
                target = self.folder / path.relative_to(self.building)
                make_folder(target.parent)
                os.replace(path, target)
            shutil.rmtree(self.building, ignore_errors=True)
        except OSError as error:
            raise storage_error("write", self.folder, error) from None
        write_json(self.folder / COMPLETED, mark)


def download_demo(
    home: Home, *, overwrite: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> DownloadResult:
    """Lay the demo corpus out as ``corpora/demo``, in the layout of Hi-Fi-CAPTAIN; needs no network.

    Arguments and errors are those of :func:`aasvc_cli.data.demo.lay_out`.
    """
    item, bundle = CATALOGUE["demo"], bundled("demo")
    folder = item.folder(home)
    written = demo.lay_out(item, bundle, folder, overwrite=overwrite, on_progress=on_progress)
    sizes = [(bundle / name).stat().st_size for name in demo.bundled_files(bundle)]
    return DownloadResult(
        item.name, item.kind, folder, len(sizes), sum(sizes), not written, item.licence.name, seconds=item.seconds
    )


def _check_online(home: Home, item: CatalogueItem, source: Source) -> None:
    if source.offline:
        here = bytes_below(partial_folder(item.folder(home)))
        some = f" ({here} bytes of it are here)" if here else ""
        raise DownloadError(
            f"{item.name}: is not on this machine{some} and the network is switched off; run the same command without "
            "--offline and HF_HUB_OFFLINE"
        )


def _check_disk(home: Home, planned: Survey) -> None:
    needed = sum(state.disk_bytes or 0 for state in planned.items)
    if needed > planned.free_bytes:
        names = ", ".join(state.item.name for state in planned.items)
        about = "about " if any(state.estimated or state.item.kind == "corpus" for state in planned.items) else ""
        raise StorageError(
            f"{names}: needs {about}{byte_size(needed)} on the disk of {home.root}, {byte_size(planned.free_bytes)} "
            "are free; free some space, or set AASVC_HOME to another disk"
        )


def _free_bytes(folder: Path) -> int:
    for place in (folder, *folder.parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    raise StorageError(f"{folder}: no such disk; set AASVC_HOME to a folder that can be created")


def _ignore(*_: Any) -> None:
    """Default callback."""
