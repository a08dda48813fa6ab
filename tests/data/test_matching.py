"""Which recordings belong together, with empty files of which only the names count."""

import csv
import unicodedata
from pathlib import Path

import pytest

from aasvc_cli.data.corpus import locate
from aasvc_cli.data.matching import Matching, match
from aasvc_cli.errors import DataError


@pytest.fixture
def folders(home, tmp_path):
    """Lay two folders out and match them."""

    def call(source: list[str], target: list[str], table: Path | None = None) -> Matching:
        for folder, names in (("a", source), ("b", target)):
            for name in names:
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return match(*locate(home, None, tmp_path / "a", tmp_path / "b"), table)

    return call


def partners(matching: Matching) -> dict[str, tuple[str, str]]:
    return {
        pair.utterance_id: ("/".join(pair.source.parts[-2:]), "/".join(pair.target.parts[-2:]))
        for _, pair in matching.pairs
    }


def left_out(matching: Matching) -> list[tuple[str, str, str]]:
    return [(finding.utterance_id, finding.side, finding.code) for finding in matching.findings if finding.excluded]


class TestPath:
    def test_names_that_repeat_in_subfolders_are_matched_by_their_path(self, folders):
        names = [f"{folder}/u{index}.wav" for folder in ("digits", "greetings") for index in range(3)]
        matching = folders(names, names)
        assert partners(matching) == {name[:-4]: (name, name) for name in names}
        assert matching.findings == []
        assert matching.rules == {"path": 6}

    def test_suffixes_may_differ_in_kind_and_case(self, folders):
        matching = folders(["1.WAV", "x/2.Flac"], ["1.wav", "x/2.MP3"])
        assert partners(matching) == {"1": ("a/1.WAV", "b/1.wav"), "2": ("x/2.Flac", "x/2.MP3")}

    def test_composed_and_decomposed_folders_are_the_same(self, folders):
        composed, decomposed = (unicodedata.normalize(form, "Café/ü") for form in ("NFC", "NFD"))
        assert list(partners(folders([f"{composed}.wav"], [f"{decomposed}.wav"]))) == [composed.rsplit("/")[-1]]

    def test_a_name_on_one_path_may_be_there_again_on_another(self, folders):
        matching = folders(["1.wav", "2.wav", "x/2.wav"], ["1.wav", "2.wav"])
        assert list(partners(matching)) == ["1", "2"]
        assert left_out(matching) == [("x/2", "target", "no_partner")]


class TestName:
    def test_what_lies_in_other_folders_is_matched_by_name(self, folders):
        matching = folders(["one/1.wav", "one/2.wav", "3.wav"], ["1.wav", "deep/er/2.wav", "3.wav"])
        assert list(partners(matching)) == ["1", "2", "3"]
        assert matching.rules == {"path": 1, "name": 2}

    def test_names_that_are_not_unique_are_not_guessed(self, folders):
        matching = folders(["x/1.wav", "y/1.wav", "2.wav"], ["1.wav", "2.wav"])
        assert list(partners(matching)) == ["2"]
        assert left_out(matching) == [("1", "source", "duplicate")]

    def test_when_every_name_is_there_twice_that_is_said(self, folders):
        with pytest.raises(DataError, match=r"every name that both have is there more than once \(first: 1: 2 source"):
            folders(["x/1.wav", "y/1.wav"], ["1.wav"])


class TestAffix:
    @pytest.mark.parametrize(
        ("source", "target"),
        [
            ("bdl_arctic_a{:04}", "slt_arctic_a{:04}"),
            ("{:03}_anna", "{:03}_bob"),
            ("anna-{:02}-mic1", "bob-{:02}-mic2"),
            ("A{:03}", "B{:03}"),
            ("{:02}", "bob {:02}"),
        ],
    )
    def test_a_prefix_or_suffix_of_one_speaker_is_taken_off(self, folders, source, target):
        ours, theirs = range(1, 16), range(3, 23)
        matching = folders([source.format(n) + ".wav" for n in ours], [target.format(n) + ".wav" for n in theirs])
        assert set(partners(matching).values()) == {
            (f"a/{source.format(n)}.wav", f"b/{target.format(n)}.wav") for n in range(3, 16)
        }
        assert matching.rules == {"affix": 13}
        assert len({*partners(matching)}) == 13

    def test_numbers_are_not_cut_in_two(self, folders):
        with pytest.raises(DataError, match="has a partner of the same name.*--pairs FILE"):
            folders([f"{n}.wav" for n in range(1, 9)], [f"{n}.wav" for n in range(11, 19)])

    def test_a_few_odd_names_among_many_are_left_alone(self, folders):
        names = [f"u{index}.wav" for index in range(20)]
        matching = folders([*names, "x-one.wav"], [*names, "y-one.wav"])
        assert matching.rules == {"path": 20}
        assert len(left_out(matching)) == 2

    def test_folders_are_told_apart(self, folders):
        source = [f"{folder}/bdl_{n}.wav" for folder in ("x", "y") for n in range(4)]
        target = [name.replace("bdl", "slt") for name in source]
        matching = folders(source, target)
        assert {one.replace("bdl", "slt") == other for one, other in partners(matching).values()} == {True}
        assert sorted(partners(matching)) == sorted(f"{folder}/_{n}" for folder in ("x", "y") for n in range(4))


class TestTable:
    @pytest.mark.parametrize(("delimiter", "suffix"), [("\t", "tsv"), (",", "csv"), (";", "csv")])
    @pytest.mark.parametrize("header", [True, False])
    def test_a_table_decides(self, folders, tmp_path, delimiter, suffix, header):
        table = tmp_path / f"pairs.{suffix}"
        with table.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream, delimiter=delimiter)
            if header:
                writer.writerow(["source", "target", "text"])
            writer.writerow(["x/1.wav", "eins", "one, and two"])
            writer.writerow(["2", "zwei.wav"])
        matching = folders(["x/1.wav", "2.wav", "3.wav"], ["eins.wav", "zwei.wav"], table)
        assert partners(matching) == {"1": ("x/1.wav", "b/eins.wav"), "2": ("a/2.wav", "b/zwei.wav")}
        assert [pair.text for _, pair in matching.pairs] == ["one, and two", None]
        assert (matching.findings, matching.rules) == ([], {"table": 2})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("1\tgone\n", r"pairs\.tsv, line 1: gone: no such recording in .*b \(target\)"),
            ("1\t\n", "line 1: expected source and target"),
            ("1\teins\n1\tzwei\n", "stands in 2 lines"),
            ("1 eins\n", "expected lines of source, target"),
            ("", "expected lines of source, target"),
            ("# nothing\there\n", "holds no pairs"),
            (b"1\t\x83\x5c\n", "not UTF-8 text"),
            ("7\teins\n", r"line 1: 7: 2 recordings are called so in .*name them with their folder"),
        ],
    )
    def test_a_table_that_cannot_be_used(self, folders, tmp_path, content, message):
        table = tmp_path / "pairs.tsv"
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=message):
            folders(["1.wav", "x/7.wav", "y/7.wav"], ["eins.wav", "zwei.wav"], table)


class TestOtherSounds:
    def test_a_partner_of_another_kind_is_named(self, folders):
        matching = folders(["1.wav", "2.wav"], ["1.m4a", "2.wav"])
        assert left_out(matching) == [("1", "target", "other_format")]
        assert any("1 m4a not readable here" in each.message for each in matching.findings if not each.excluded)

    def test_a_folder_of_nothing_else_says_what_to_do(self, folders):
        with pytest.raises(DataError, match=r"b: holds no recordings but 2 m4a not readable here; .*ffmpeg -i"):
            folders(["1.wav"], ["1.m4a", "2.M4A"])


class TestTexts:
    def texts(self, folders, tmp_path, content: bytes) -> tuple[list[str | None], list[str]]:
        (tmp_path / "a" / "text").mkdir(parents=True)
        (tmp_path / "a" / "text" / "train.txt").write_bytes(content)
        matching = folders(["u0.wav", "u1.wav"], ["u0.wav", "u1.wav"])
        return [pair.text for _, pair in matching.pairs], [each.message for each in matching.findings]

    @pytest.mark.parametrize("form", ["u0 水を買う\nu1 よ\n", "u0\t水を買う\r\nu1\tよ", "u0|水を買う|x\nu1|よ|y\n"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_usual_forms_are_read(self, folders, tmp_path, form, encoding):
        assert self.texts(folders, tmp_path, form.encode(encoding)) == (["水を買う", "よ"], [])

    def test_another_encoding_is_named_and_nothing_is_guessed(self, folders, tmp_path):
        texts, messages = self.texts(folders, tmp_path, "u0 水を買う\n".encode("cp932"))
        assert texts == [None, None]
        assert len(messages) == 1
        assert "train.txt: not UTF-8" in messages[0]

    def test_lines_of_another_form_are_counted(self, folders, tmp_path):
        texts, messages = self.texts(folders, tmp_path, b"u0 one\nu1\nu2,two\n")
        assert texts == ["one", None]
        assert "2 lines are not <id> <sentence>: 2, 3" in messages[0]
