"""Parts of the work (``--shard I/N``)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.errors import DataError
from aasvc_cli.storage.parts import Parts, Shard


@given(st.integers(1, 40), st.integers(1, 40))
def test_all_parts_together_are_everything_once(n_items: int, count: int):
    items = list(range(n_items))
    parts = [Shard(number, count) for number in range(1, count + 1)]
    if count > n_items:
        with pytest.raises(DataError, match=rf"there are only {n_items} pairs; use no more parts than that"):
            parts[0].of(items, "pairs")
        return
    shares = [part.of(items, "pairs") for part in parts]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1.5/3", "1/1000000000"])
def test_what_is_no_part_is_refused(text: str):
    with pytest.raises(DataError, match=r"--shard .*: expected I/N with I from 1 to N, such as 2/8"):
        Shard.parse(text)


def test_parts_that_were_not_done_are_named(tmp_path):
    parts = Parts(tmp_path / "parts")
    assert parts.note() is None
    for text in ("3/4", "1/4", "3/4"):
        parts.mark(Shard.parse(text))
    assert parts.note() == "--shard 2/4, 4/4 was not run to its end; what was left of it is done now"
    parts.mark(Shard(2, 4))
    parts.mark(Shard(4, 4))
    assert parts.note() is None
    parts.clear()
    parts.mark(Shard(2, 2))
    assert parts.missing() == [Shard(1, 2)]
