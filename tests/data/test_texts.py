"""Sentences in the forms in which corpora have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aasvc_cli.data.texts import read_sentences, sentences_of, utterance_name
from aasvc_cli.errors import AasvcError, DataError

WATER, CAT = "水を買う。", "the quick, brown fox"


def written(folder: Path, data: str | bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def test_every_encoding_that_says_what_it_is_is_read(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        for end in ("\n", "\r\n", "\r"):
            path = written(tmp_path, f"u0 {WATER}{end}u1 {CAT}{end}".encode(encoding))
            assert read_sentences(path).by_id == {"u0": WATER, "u1": CAT}, (encoding, end)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf_16_of_either_byte_order_is_read_by_its_mark(tmp_path, order):
    path = written(tmp_path, f"\ufeffu0 {WATER}\n".encode(order))
    assert read_sentences(path).by_id == {"u0": WATER}


@pytest.mark.parametrize("text", [WATER, CAT])
def test_every_usual_form_gives_the_same_sentences(tmp_path, text):
    forms = [
        ("{id} {text}", "t.txt"),
        ("{id}\t{text}", "t.txt"),
        ("{id}|{text}", "t.txt"),
        ("{id}|{text}|normalised", "metadata.csv"),  # LJSpeech
        ("wavs/{id}.wav|{text}", "filelist.txt"),
        ("{id}\u3000{text}", "t.txt"),  # a full-width blank
        ("  {id}   {text}  ", "t.txt"),
        ("{id}:{text}", "transcript_utf8.txt"),  # JSUT
        ("{id}.wav {text}", "t.txt"),
        ("{id}.FLAC\t{text}", "t.txt"),
        ('{id},"{text}"', "t.csv"),
        ('"{id}","{text}"', "t.txt"),
        ("sub\\{id} {text}", "t.txt"),
    ]
    for line, name in forms:
        path = written(tmp_path, "".join(line.format(id=f"u{i}", text=text) + "\n" for i in range(3)), name)
        sentences = read_sentences(path)
        assert sentences_of(["u0", "u1", "u2"], sentences.by_id) == {"u0": text, "u1": text, "u2": text}, line
        assert not sentences.unread


def test_what_separates_is_what_all_lines_have(tmp_path):
    path = written(tmp_path, "u0 either | or\nu1 ten: twelve, perhaps\nu2 \t tab\n")
    assert read_sentences(path).by_id == {"u0": "either | or", "u1": "ten: twelve, perhaps", "u2": "tab"}
    path = written(tmp_path, "my take 1\tone sentence\nmy take 2\tanother, with comma\n")
    assert read_sentences(path).by_id == {"my take 1": "one sentence", "my take 2": "another, with comma"}


def test_characters_that_python_takes_for_line_ends_stay_in_the_sentence(tmp_path):
    path = written(tmp_path, "u0 one\u2028two\x0bthree\n")
    assert read_sentences(path).by_id == {"u0": "one\u2028two\x0bthree"}


def test_lines_of_another_form_are_counted(tmp_path):
    path = written(tmp_path, "u0 hello\n\n\nlonely\nu1 there\n")
    sentences = read_sentences(path)
    assert sentences.by_id == {"u0": "hello", "u1": "there"}
    assert sentences.unread == (4,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (f"u0 {WATER}\n".encode("cp932"), r"not UTF-8 text \(line 1\); it looks like Shift-JIS: iconv -f Shift-JIS"),
        (f"u0 hello\nu1 {WATER}\n".encode("euc_jp"), r"not UTF-8 text \(line 2\); it looks like EUC-JP"),
        ("u0 caf\u00e9\n".encode("latin-1"), r"not UTF-8 text \(line 1\).*iconv -f ISO-8859-1"),
        (f"u0 {WATER}\n".encode("utf-16-le"), "not UTF-8 text|UTF-16 without a byte order mark"),
        ("u0 hello\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"\xff\xfeu", "not UTF-16 text"),
        (b"", "no sentences"),
        ("u0\nu1\n", "no sentences; line 1 is 'u0'; expected lines <id> <sentence>"),
        ("u0 one\nu1 two\nu0.wav three\n", "lines 1 and 3 have different sentences for u0"),
    ],
)
def test_what_is_no_list_of_sentences_is_refused_by_name(tmp_path, data, message):
    path = written(tmp_path, data)
    with pytest.raises(DataError, match=message) as caught:
        read_sentences(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_the_same_sentence_twice_is_one(tmp_path):
    assert read_sentences(written(tmp_path, "u0 one\nu0 one\n")).by_id == {"u0": "one"}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(AasvcError, match="cannot read") as caught:
            read_sentences(path)
        assert str(path) in str(caught.value)


def test_names_are_those_of_recordings():
    assert utterance_name("sub\\\u304b\u3099.WAV") == "sub/\u304c"
    assert utterance_name("v1.2") == "v1.2"
    assert utterance_name("\ufeffu0") == "u0"


def test_a_sentence_goes_to_its_recording_by_id_and_else_by_the_last_part_of_it():
    by_id = {"a": "one", "x/b": "two", "y/b": "three", "z/c": "four"}
    assert sentences_of(["x/a", "x/b", "b", "c", "d"], by_id) == {"x/a": "one", "x/b": "two", "c": "four"}
