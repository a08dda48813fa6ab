"""Rankings on disk, and what `--drop` makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aasvc_cli.data.ranking import by_loss, to_drop, write_ranking
from aasvc_cli.errors import DataError

NAMES = ["c", "a", "b"]
"""The worst first."""


def ranking(path: Path) -> Path:
    verdicts = {"c": "wrong", "a": "wrong", "b": ""}
    write_ranking(path, [{"pair": name, "misfit": 1 / 3, "verdict": verdict} for name, verdict in verdicts.items()])
    return path


def test_a_ranking_is_a_table_with_a_line_of_names(tmp_path: Path) -> None:
    path = ranking(tmp_path / "ranking.tsv")
    assert path.read_text().splitlines() == [
        "pair\tmisfit\tverdict",
        "c\t0.333\twrong",
        "a\t0.333\twrong",
        "b\t0.333\t",
    ]


@pytest.mark.parametrize(("count", "expected"), [("0", set()), ("1", {"c"}), ("2", {"c", "a"})])
def test_a_number_means_so_many_of_the_worst(count: str, expected: set[str]) -> None:
    assert to_drop(count, NAMES, NAMES) == expected


def test_of_a_ranking_only_what_it_calls_wrong_is_meant(tmp_path: Path) -> None:
    assert to_drop(str(ranking(tmp_path / "ranking.tsv")), NAMES, NAMES) == {"a", "c"}


def test_a_ranking_may_be_edited_with_any_editor(tmp_path: Path) -> None:
    path = tmp_path / "ranking.tsv"
    path.write_bytes(ranking(path).read_bytes().replace(b"\n", b"\r\n").replace(b"a\t0.333\twrong", b"a\t0.333\t"))
    assert to_drop(str(path), NAMES, NAMES) == {"c"}


def test_of_a_list_all_names_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# listened to\nb\na.wav\n")
    assert to_drop(str(path), NAMES, NAMES) == {"a", "b"}


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("a\nnobody\n")
    with pytest.raises(DataError, match=r"1 of 2 names are not among the pairs \(first: nobody\)"):
        to_drop(str(path), NAMES, NAMES)
    with pytest.raises(DataError, match="--drop 4: only 3 pairs are ranked"):
        to_drop("4", NAMES, NAMES)
    with pytest.raises(DataError, match="not a number, and no such file"):
        to_drop(str(tmp_path / "missing"), NAMES, NAMES)


def test_by_loss_the_worst_comes_first_and_what_lies_far_from_all_others_is_wrong() -> None:
    losses = {f"pair{index}": 1.0 + 0.01 * index for index in range(20)} | {"other": 3.0, "odd": 1.5}
    rows = by_loss(losses)
    assert [row["pair"] for row in rows[:3]] == ["other", "odd", "pair19"]
    assert [row["verdict"] for row in rows] == ["wrong", "near"] + [""] * 20


def test_losses_that_hardly_differ_are_all_as_usual() -> None:
    assert {row["verdict"] for row in by_loss(dict.fromkeys("abc", 2.0) | {"d": 2.1})} == {""}
