"""How well pairs fit, as `prepare` computes it: once, from what is kept of each recording, and anew if one changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.data import ranking
from aasvc_cli.data.content_path import content_path
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.data.ranking import fits_of
from aasvc_cli.data.wording import Fit
from aasvc_cli.errors import DataError
from aasvc_cli.features import shelf
from aasvc_cli.features.kinds import storage_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.files import file_sha256
from aasvc_cli.storage.result_cache import ResultCache

COUNT, WIDTH, RATE = 9, 96, 8000


def made_up_content(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Frames that depend on every sample and cost nothing."""
    frames = np.abs(np.fft.rfft(wave[: len(wave) // 200 * 200].reshape(-1, 200))[:, :WIDTH]).astype(np.float32)
    return frames + np.float32(sample_rate) * 1e-4


def here(function: Callable[[Any], Any], items: Sequence[Any], **_: Any) -> Iterator[tuple[Any, Any]]:
    """In another order than asked for, as workers may."""
    return ((item, function(item)) for item in reversed(items))


class Setting:
    """Pairs of noise, and how they are compared."""

    def __init__(self, root: Path) -> None:
        self.root, self.computed = root, 0
        self.pairs = []
        for number in range(COUNT):
            paths = [root / f"{side}{number}.wav" for side in ("source", "target")]
            for side, path in enumerate(paths):
                noise = np.random.default_rng([number, side]).uniform(-0.1, 0.1, 1500 + 400 * number + 200 * side)
                soundfile.write(path, noise, RATE)
            self.pairs.append(ParallelPair(str(number), *paths))

    def content(self, wave: np.ndarray, sample_rate: int) -> np.ndarray:
        self.computed += 1
        return made_up_content(wave, sample_rate)

    def fits(self, contents: dict[Path, str] | None = None) -> list[Fit]:
        store = FeatureStore(self.root / "features", FeatureConfig(), storage_key)
        return fits_of(self.pairs, contents or {}, store, ResultCache(self.root / "cache"), here)

    def expected(self) -> list[Fit]:
        """Without a store, a cache, or anything in parts."""

        def frames(path: Path) -> np.ndarray:
            wave, rate = soundfile.read(path, dtype="float32")
            each = made_up_content(wave, rate)
            means = [each[start : start + 2].mean(axis=0) for start in range(0, len(each), 2)]
            return np.array(means).astype(np.float16).astype(np.float32)

        sources, targets = ([frames(getattr(pair, side)) for pair in self.pairs] for side in ("source", "target"))
        centred = [
            [each - np.concatenate(side).mean(axis=0, dtype=np.float64).astype(np.float32) for each in side]
            for side in (sources, targets)
        ]
        fits = []
        for index, (source, target) in enumerate(zip(*centred, strict=True)):
            others = sorted(set(range(COUNT)) - {index}, key=lambda o: (abs(len(targets[o]) - len(target)), o))[:4]
            costs = [content_path(source, centred[1][other]).cost for other in (index, *others)]
            fits.append(Fit(costs[0], tuple(costs[1:]), len(target) / len(source)))
        return fits


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    made = Setting(tmp_path)
    monkeypatch.setattr(ranking, "content", made.content)
    return made


def check(fits: list[Fit], expected: list[Fit]) -> None:
    for one, other in zip(fits, expected, strict=True):
        assert one.cost == pytest.approx(other.cost, abs=1e-6)
        assert one.others == pytest.approx(other.others, abs=1e-6)
        assert one.length_ratio == other.length_ratio


def test_they_are_what_a_plain_computation_gives(setting: Setting) -> None:
    check(setting.fits(), setting.expected())


def test_a_second_time_nothing_is_computed_and_they_are_the_same_to_the_last_digit(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = setting.fits()
    assert setting.computed == 2 * COUNT
    monkeypatch.setattr(ranking, "_compared", lambda *_: pytest.fail("computed again"))
    contents = {path: file_sha256(path) for pair in setting.pairs for path in (pair.source, pair.target)}
    assert setting.fits() == setting.fits(contents) == first


@pytest.mark.parametrize("same_time", [False, True])
def test_a_changed_recording_costs_its_own_content_and_all_comparisons(setting: Setting, same_time: bool) -> None:
    first, path = setting.fits(), setting.pairs[3].target
    before = path.stat()
    noise = np.random.default_rng(99).uniform(-0.1, 0.1, 4000)
    soundfile.write(path, noise, RATE)
    if same_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    setting.computed = 0
    second = setting.fits()
    assert setting.computed == 1
    assert second != first
    check(second, setting.expected())


def test_a_pair_more_costs_its_own_content_only(setting: Setting) -> None:
    last = setting.pairs.pop()
    setting.fits()
    setting.pairs.append(last)
    setting.computed = 0
    check(setting.fits(), setting.expected())
    assert setting.computed == 2


def test_many_contents_lie_in_few_files(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "PACK_FROM", 5)
    monkeypatch.setattr(ranking, "PACK_FROM", 5)
    monkeypatch.setattr(shelf.Shelf.pack, "__defaults__", (5,))
    check(setting.fits(), setting.expected())
    files = list((setting.root / "features").rglob("*.safetensors"))
    assert 2 <= len(files) <= 4 + COUNT * 2 // 5


def test_a_recording_that_changes_meanwhile_stops_the_comparison(setting: Setting) -> None:
    path = setting.pairs[0].source
    contents = {path: file_sha256(path)}
    soundfile.write(path, np.zeros(3000), RATE)
    with pytest.raises(DataError, match=r"source0\.wav: changed while the pairs were compared; run: aasvc prepare"):
        setting.fits(contents)
    assert not (setting.root / "cache").exists()
