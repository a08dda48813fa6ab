"""Kept results: found by what they were computed from, and never used when they are not what was written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from aasvc_cli.storage.result_cache import ResultCache

KEY = {"content": "abc", "mode": "both"}


def test_a_result_is_computed_once_for_each_key(tmp_path):
    cache, calls = ResultCache(tmp_path), []
    for key in (KEY, KEY, {**KEY, "mode": "one"}, dict(reversed(KEY.items()))):
        value = cache.tree("kind", key, lambda: calls.append(1) or {"mean": math.nan, "words": ["水"]})
        assert value["words"] == ["水"]
        assert math.isnan(value["mean"])
    assert len(calls) == 2


def test_arrays_come_back_as_they_were(tmp_path):
    made = {"f0": np.arange(5.0), "loud": np.array([True, False])}
    cache = ResultCache(tmp_path)
    cache.arrays("kind", KEY, lambda: made)
    kept = cache.arrays("kind", KEY, lambda: pytest.fail("computed again"))
    assert {name: (array.dtype, array.tolist()) for name, array in kept.items()} == {
        name: (array.dtype, array.tolist()) for name, array in made.items()
    }


def test_without_a_folder_nothing_is_kept(tmp_path):
    assert [ResultCache(None).tree("kind", KEY, lambda n=n: n) for n in (1, 2)] == [1, 2]
    assert not list(tmp_path.iterdir())


def test_no_changed_entry_is_used(tmp_path):
    """Bits flipped, bytes dropped, appended or replaced anywhere: every entry is noticed and made anew."""
    for seed in range(30):
        random = np.random.default_rng(seed)
        cache = ResultCache(tmp_path / str(seed))
        cache.tree("kind", KEY, lambda: {"score": 1.5})
        cache.arrays("kind", KEY, lambda: {"score": np.ones(3)})
        for path in [path for path in (tmp_path / str(seed)).rglob("*") if path.is_file()]:
            data = bytearray(path.read_bytes())
            place = int(random.integers(len(data)))
            change = random.integers(4)
            if change == 0:
                data[place] ^= 1 << int(random.integers(8))
            elif change == 1:
                del data[place:]
            elif change == 2:
                data += b"x"
            else:
                data = bytearray(json.dumps({"value": {"score": 9.0}}).encode())
            path.write_bytes(data)
        assert cache.tree("kind", KEY, lambda: {"score": 2.5}) == {"score": 2.5}, seed
        assert cache.arrays("kind", KEY, lambda: {"score": np.zeros(3)})["score"].tolist() == [0, 0, 0], seed
        assert cache.tree("kind", KEY, lambda: pytest.fail("computed again")) == {"score": 2.5}, seed
