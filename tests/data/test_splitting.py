import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.data.manifest import SETS
from aasvc_cli.data.splitting import split
from aasvc_cli.errors import DataError

NAMES = [f"utt{index:03d}" for index in range(100)]


class TestSplit:
    @given(
        n=st.integers(3, 300),
        dev=st.none() | st.integers(0, 20).map(str) | st.floats(0.01, 0.3).map(str),
        seed=st.integers(0, 99),
    )
    def test_every_pair_is_in_one_set_and_sizes_are_those_asked_for(self, n, dev, seed):
        names = [f"u{index}" for index in range(n)]
        try:
            sets = split(names, {"dev": dev, "eval": "1"}, seed=seed)
        except DataError:
            assert dev is not None
            assert dev.isdigit()
            assert int(dev) >= n
            return
        assert len(sets) == n
        assert sets.count("eval") == 1
        wanted = {None: max(1, min(20, round(n / 10)))}.get(dev)
        if wanted is None:
            wanted = int(dev) if dev.isdigit() else max(1, round(n * float(dev)))
        assert sets.count("dev") == wanted or (dev is None and sets.count("train") <= 2)

    def test_the_same_seed_draws_the_same_and_another_one_does_not(self):
        draws = [split(NAMES, {"dev": "10", "eval": "10"}, seed=seed) for seed in (1, 1, 2)]
        assert draws[0] == draws[1] != draws[2]

    def test_the_order_of_the_names_does_not_matter(self):
        forward = dict(zip(NAMES, split(NAMES, {"dev": None}, seed=1), strict=True))
        backward = dict(zip(NAMES[::-1], split(NAMES[::-1], {"dev": None}, seed=1), strict=True))
        assert forward == backward

    def test_one_pair_less_moves_at_most_one_other(self):
        whole = dict(zip(NAMES, split(NAMES, {"dev": "10"}, seed=1), strict=True))
        for missing in NAMES[:20]:
            rest = [name for name in NAMES if name != missing]
            part = dict(zip(rest, split(rest, {"dev": "10"}, seed=1), strict=True))
            assert sum(part[name] != whole[name] for name in rest) <= 1

    @pytest.mark.parametrize(
        ("n", "sizes"), [(3, (2, 1, 0)), (4, (2, 1, 1)), (20, (16, 2, 2)), (100, (80, 10, 10)), (5000, (4960, 20, 20))]
    )
    def test_defaults_suit_small_and_large_data(self, n, sizes):
        sets = split([f"u{index}" for index in range(n)], {"dev": None, "eval": None}, seed=1)
        assert tuple(sets.count(name) for name in SETS) == sizes

    def test_a_list_names_its_set(self, tmp_path):
        (tmp_path / "dev.txt").write_text("\ufeffutt003\n# a comment\n\n utt050.wav \ngone\n", encoding="utf-8")
        sets = split(NAMES, {"dev": str(tmp_path / "dev.txt"), "eval": "7"}, seed=1, known=["gone"])
        assert [name for name, where in zip(NAMES, sets, strict=True) if where == "dev"] == ["utt003", "utt050"]
        assert sets.count("eval") == 7

    @pytest.mark.parametrize(
        ("dev", "message"),
        [
            ("101", "asks for 101 pairs, but only 100 of 100"),
            ("1.5", "expected a count, a fraction between 0 and 1, or a file"),
            ("-3", "expected a count, a fraction between 0 and 1, or a file"),
            ("no-such-file", "not a number, and no such file"),
            ("typo.txt", r"typo\.txt: 1 of 2 names are not among the pairs \(first: utt9999\)"),
            ("binary.txt", "expected a text file"),
        ],
    )
    def test_impossible_sizes_and_lists(self, tmp_path, monkeypatch, dev, message):
        monkeypatch.chdir(tmp_path)
        Path("typo.txt").write_text("utt001\nutt9999\n")
        Path("binary.txt").write_bytes(b"\xff\xfe\xfa")
        with pytest.raises(DataError, match=message):
            split(NAMES, {"dev": dev}, seed=1)

    def test_names_that_are_no_text_are_split_like_any_other(self):
        names = [os.fsdecode(b"\x8e\x84%d" % number) for number in range(8)]  # Shift-JIS
        assert split(names, {"dev": "2", "eval": "1"}, seed=1).count("dev") == 2

    def test_a_name_cannot_be_in_two_lists(self, tmp_path):
        for name in ("dev", "eval"):
            (tmp_path / name).write_text("utt001\n")
        with pytest.raises(DataError, match="utt001 is listed for both"):
            split(NAMES, {"dev": str(tmp_path / "dev"), "eval": str(tmp_path / "eval")}, seed=1)
