"""Zips from strangers: refused before a byte is written, or unpacked exactly."""

from __future__ import annotations

import contextlib
import random
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import pytest

from aasvc_cli.errors import StorageError
from aasvc_cli.storage.archive import BadArchive, DamagedArchive, ZipLimits, is_whole, read_members, unpack

LIMITS = ZipLimits(members=100, total_bytes=50_000_000)
FILES = {f"a/wav/{number}.wav": random.Random(number).randbytes(20_000) for number in range(5)}


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_entry(path: Path, name: str, data: bytes = b"x", mode: int = 0) -> Path:
    """One entry with a name and a file mode of one's choice."""
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, data)
    return path


def everything(path: PurePosixPath) -> PurePosixPath | None:
    return path


def extract(archive: Path, folder: Path, limits: ZipLimits = LIMITS, also: Path | None = None) -> None:
    unpack(archive, read_members(archive, everything, limits), folder, also=also)


def inodes(folder: Path) -> dict[str, int]:
    """What tells a file that was left alone from one that was written again."""
    return {str(each.relative_to(folder)): each.stat().st_ino for each in folder.rglob("*") if each.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


class TestUnpacking:
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    def test_files_come_out_as_they_went_in(self, tmp_path: Path, compression: int):
        extract(make_zip(tmp_path / "x.zip", FILES, compression), tmp_path / "out")
        assert contents(tmp_path / "out") == FILES

    def test_only_what_is_wanted_is_written_and_where_it_is_wanted(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", FILES)
        members = read_members(
            archive, lambda path: PurePosixPath("b", path.name) if path.stem in "13" else None, LIMITS
        )
        unpack(archive, members, tmp_path / "out")
        assert contents(tmp_path / "out") == {"b/1.wav": FILES["a/wav/1.wav"], "b/3.wav": FILES["a/wav/3.wav"]}

    def test_a_second_time_only_what_is_missing_or_wrong_is_written(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", FILES)
        extract(archive, tmp_path / "out")
        (tmp_path / "out/a/wav/0.wav").unlink()
        (tmp_path / "out/a/wav/1.wav").write_bytes(b"short")
        damaged = tmp_path / "out/a/wav/2.wav"
        damaged.write_bytes(b"?" + damaged.read_bytes()[1:])  # the right size, so only the checksum tells
        before = inodes(tmp_path / "out")
        extract(archive, tmp_path / "out")
        assert contents(tmp_path / "out") == FILES
        after = inodes(tmp_path / "out")
        assert {name for name in before if before[name] == after[name]} == {"a/wav/3.wav", "a/wav/4.wav"}

    def test_files_in_another_folder_count_as_well(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", FILES)
        extract(archive, tmp_path / "first")
        (tmp_path / "first/a/wav/4.wav").unlink()
        extract(archive, tmp_path / "second", also=tmp_path / "first")
        assert set(contents(tmp_path / "second")) == {"a/wav/4.wav"}

    def test_an_interrupt_leaves_whole_files_only(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", FILES)

        def stop(done: int, total: int) -> None:
            if done >= 40_000:
                raise KeyboardInterrupt

        members = read_members(archive, everything, LIMITS)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, members, tmp_path / "out", on_bytes=stop)
        found = contents(tmp_path / "out")
        assert len(found) == 2
        assert found.items() <= FILES.items()
        before = inodes(tmp_path / "out")
        extract(archive, tmp_path / "out")
        assert contents(tmp_path / "out") == FILES
        assert before.items() <= inodes(tmp_path / "out").items()

    def test_progress_counts_bytes(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", FILES)
        seen: list[tuple[int, int]] = []
        unpack(
            archive,
            read_members(archive, everything, LIMITS),
            tmp_path / "out",
            on_bytes=lambda *told: seen.append(told),
        )
        assert seen == [(20_000 * number, 100_000) for number in range(1, 6)]

    def test_japanese_names_survive(self, tmp_path: Path):
        files = {"a/wav/発話.wav": b"1", "a/wav/Seikatsu03_E-SU_001230.wav": b"2"}
        extract(make_zip(tmp_path / "x.zip", files), tmp_path / "out")
        assert contents(tmp_path / "out") == files

    def test_being_whole_means_size_and_checksum(self, tmp_path: Path):
        (member, *_) = read_members(make_zip(tmp_path / "x.zip", FILES), everything, LIMITS)
        path = tmp_path / "file"
        assert not is_whole(path, member)
        path.write_bytes(FILES["a/wav/0.wav"])
        assert is_whole(path, member)
        path.write_bytes(FILES["a/wav/1.wav"])
        assert not is_whole(path, member)
        assert not is_whole(tmp_path, member)


class TestDamage:
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    def test_a_changed_byte_is_found_and_the_file_is_not_written(self, tmp_path: Path, compression: int):
        archive = make_zip(tmp_path / "x.zip", FILES, compression)
        with zipfile.ZipFile(archive) as opened:
            offset = opened.getinfo("a/wav/2.wav").header_offset + 30 + len("a/wav/2.wav") + 5000
        data = bytearray(archive.read_bytes())
        data[offset] ^= 0xFF
        archive.write_bytes(data)
        with pytest.raises(DamagedArchive, match=r"a/wav/2\.wav is damaged"):
            extract(archive, tmp_path / "out")
        assert set(contents(tmp_path / "out")) == {"a/wav/0.wav", "a/wav/1.wav"}

    @pytest.mark.parametrize("keep", [0, 1, 1000, -1])
    def test_a_truncated_archive_is_refused(self, tmp_path: Path, keep: int):
        archive = make_zip(tmp_path / "x.zip", FILES)
        archive.write_bytes(archive.read_bytes()[:keep])
        with pytest.raises(DamagedArchive, match="not a whole zip"):
            read_members(archive, everything, LIMITS)

    def test_random_damage_never_gives_wrong_files(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", FILES)
        whole = archive.read_bytes()
        for seed in range(40):
            chance = random.Random(seed)
            data = bytearray(whole)
            for _ in range(chance.choice([1, 3, 200])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            archive.write_bytes(data)
            out = tmp_path / str(seed)
            with contextlib.suppress(BadArchive):
                extract(archive, out)
            # names are not covered by a checksum, contents are
            assert set(contents(out).values()) <= set(FILES.values()), seed


class TestMalice:
    def test_a_path_that_leaves_the_folder_is_refused(self, tmp_path: Path):
        for name in (
            "../evil", "a/../../evil", "/etc/evil", "..", "a/..", "C:/evil", "C:evil", "a\\..\\..\\evil",
            "\\\\host\\evil",
        ):  # fmt: skip
            archive = make_entry(tmp_path / "x.zip", name)
            with pytest.raises(BadArchive, match="leaves the folder"):
                extract(archive, tmp_path / "deep" / "out")
            with pytest.raises(BadArchive, match="leaves the folder"):
                read_members(archive, lambda path: None, LIMITS)  # even if nobody wants it
            assert not (tmp_path / "deep").exists(), name

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFSOCK])
    def test_links_and_devices_are_refused(self, tmp_path: Path, kind: int):
        archive = make_entry(tmp_path / "x.zip", "link", b"/etc/passwd", kind | 0o777)
        with pytest.raises(BadArchive, match="holds a (link|device)"):
            extract(archive, tmp_path / "out")

    def test_names_that_some_system_cannot_write_are_refused(self, tmp_path: Path):
        for name in ("nul", "a/CON.txt", "ab:c", "a?", "a\nb", "a. ", "a//b", "a/./b", "x\0.wav"):
            # same length, as the table of contents is changed in place
            archive = make_entry(tmp_path / "x.zip", "_" * len(name))
            archive.write_bytes(archive.read_bytes().replace(b"_" * len(name), name.encode()))
            with pytest.raises(BadArchive, match="not every system can write"):
                read_members(archive, everything, LIMITS)

    def test_a_link_that_waits_in_the_folder_is_not_followed(self, tmp_path: Path):
        (tmp_path / "outside").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").symlink_to(tmp_path / "outside")
        with pytest.raises(StorageError, match="a link leads out"):
            extract(make_zip(tmp_path / "x.zip", FILES), tmp_path / "out")
        assert not any((tmp_path / "outside").iterdir())

    def test_a_bomb_is_known_by_its_ratio(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", {"a/wav/0.wav": bytes(20_000_000)})
        assert archive.stat().st_size < 50_000
        with pytest.raises(BadArchive, match="zip bomb"):
            read_members(archive, everything, LIMITS)

    def test_a_bomb_is_known_by_its_sum(self, tmp_path: Path):
        with pytest.raises(BadArchive, match="more than 99999 bytes"):
            read_members(make_zip(tmp_path / "x.zip", FILES), everything, ZipLimits(100, 99_999))
        assert len(read_members(tmp_path / "x.zip", everything, ZipLimits(5, 100_000))) == 5

    def test_a_bomb_is_known_by_its_number_of_files(self, tmp_path: Path):
        with pytest.raises(BadArchive, match="holds 5 files, expected at most 4"):
            read_members(make_zip(tmp_path / "x.zip", FILES), everything, ZipLimits(4, 100_000))

    def test_files_that_share_their_bytes_are_refused(self, tmp_path: Path):
        """Many entries in the table of contents that point to one and the same packed file."""
        data = random.Random(0).randbytes(50_000)
        packed = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = packed.compress(data) + packed.flush()
        crc, method = zlib.crc32(data), 8
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, method, 0, 0, crc, len(body), len(data), 1, 0) + b"x" + body
        table = b"".join(
            struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, method, 0, 0, crc, len(body), len(data), 1, 0, 0, 0, 0, 0, 0
            )
            + bytes([97 + number])
            for number in range(20)
        )
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20, 20, len(table), len(local), 0)
        (tmp_path / "x.zip").write_bytes(local + table + end)
        with pytest.raises(BadArchive, match=r"overlap|not a whole zip"):
            read_members(tmp_path / "x.zip", everything, LIMITS)

    def test_a_size_that_is_a_lie_is_found(self, tmp_path: Path):
        archive = make_zip(tmp_path / "x.zip", {"a": b"0" * 1000 + random.Random(0).randbytes(1000)})
        data = archive.read_bytes()
        for stated in (1000, 3000):
            archive.write_bytes(data.replace(struct.pack("<L", 2000), struct.pack("<L", stated)))
            with pytest.raises(DamagedArchive):
                extract(archive, tmp_path / "out")
            assert contents(tmp_path / "out") == {}

    @pytest.mark.parametrize("names", [("a/x", "A/x"), ("x", "x"), ("が", "か\u3099")])
    def test_two_names_for_one_file_are_refused(self, tmp_path: Path, names: tuple[str, str]):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(names[0], b"1")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr(names[1], b"2")
        with pytest.raises(BadArchive, match="are the same file"):
            read_members(tmp_path / "x.zip", everything, LIMITS)

    def test_an_encrypted_archive_is_refused(self, tmp_path: Path):
        archive = make_entry(tmp_path / "x.zip", "a")
        data = bytearray(archive.read_bytes())
        table = data.index(b"PK\1\2")
        data[6] |= 1
        data[table + 8] |= 1
        archive.write_bytes(data)
        with pytest.raises(BadArchive, match="encrypted"):
            read_members(archive, everything, LIMITS)
