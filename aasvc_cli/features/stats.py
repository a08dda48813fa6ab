"""Mean, scale and range of features: computed in pieces, kept as JSON, applied to normalise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.mel import Array, Array64
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import SIDES
from aasvc_cli.features.likeness import Likeness
from aasvc_cli.storage.files import reading


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Mean and scale per dimension of one feature.

    Attributes:
        mean: (D,) float32
        scale: (D,) float32, square root of the population variance; 1 where a dimension is constant
        n_frames: how many frames they were computed from
        low, high: (D,) float32, least and largest value seen; None where only mean and scale are known
        likeness: what its recordings have in common; None where that is not known
    """

    mean: Array
    scale: Array
    n_frames: int
    low: Array | None = None
    high: Array | None = None
    likeness: Likeness | None = None

    def normalise(self, feature: Array) -> Array:
        """(..., D) -> (..., D): zero mean and unit variance per dimension."""
        return (feature - self.mean) / self.scale

    def denormalise(self, feature: Array) -> Array:
        """(..., D) -> (..., D): the inverse of :meth:`normalise`."""
        return feature * self.scale + self.mean

    def limit(self, feature: Array) -> Array:
        """(..., D) -> (..., D): values that the speaker never reached are brought back to those he did."""
        return feature if self.low is None or self.high is None else np.clip(feature, self.low, self.high)

    def restore(self, feature: Array) -> Array:
        """(..., D) -> (..., D): what a model predicted, in the feature's own units and within the speaker's range."""
        return self.limit(self.denormalise(feature)).astype(np.float32)

    def to_tree(self) -> dict[str, Any]:
        """JSON-able; every float32 comes back exactly."""
        tree: dict[str, Any] = {"n_frames": self.n_frames, "mean": self.mean.tolist(), "scale": self.scale.tolist()}
        if self.low is not None and self.high is not None:
            tree |= {"low": self.low.tolist(), "high": self.high.tolist()}
        if self.likeness is not None:
            tree["likeness"] = self.likeness.to_tree()
        return tree

    @classmethod
    def from_tree(cls, tree: Any, origin: str) -> FeatureStats:
        """The inverse of :meth:`to_tree`; raises DataError that names ``origin``."""
        with reading(origin, "n_frames and equally long lists mean and scale"):
            mean, scale = (np.asarray(tree[name], dtype=np.float32) for name in ("mean", "scale"))
            count = int(tree["n_frames"])
            known = "low" in tree and "high" in tree
            low, high = (np.asarray(tree[name], dtype=np.float32) if known else None for name in ("low", "high"))
        if mean.ndim != 1 or mean.shape != scale.shape or not len(mean):
            raise DataError(f"{origin}: mean {mean.shape} and scale {scale.shape} must be equally long lists")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise DataError(f"{origin}: mean and scale must be finite numbers, and scale above zero")
        for bound in (low, high):
            if bound is not None and (bound.shape != mean.shape or not np.isfinite(bound).all()):
                raise DataError(f"{origin}: low and high must be lists of {len(mean)} finite numbers, as mean is")
        likeness = Likeness.from_tree(tree["likeness"], len(mean), origin) if "likeness" in tree else None
        return cls(mean, scale, count, low, high, likeness)


class RunningStats:
    """Mean and variance of frames that arrive in pieces.

    Pieces are merged by their own mean and sum of squared deviations (Chan, Golub and LeVeque, 1983), in float64: no
    sum of raw squares, hence nothing cancels however many frames there are or however far from zero they lie.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._count = 0
        self._mean: Array64 | None = None
        self._squares: Array64 | None = None
        self._low: Array64 | None = None
        self._high: Array64 | None = None

    def update(self, frames: npt.NDArray[np.floating[Any]]) -> None:
        """Add frames: (T, D)."""
        if not len(frames):
            return
        values = frames.astype(np.float64)
        mean = values.mean(axis=0)
        values -= mean
        # the mean itself is rounded; its error, found as the mean of what is left, is put right
        rest = values.mean(axis=0)
        squares = np.einsum("td,td->d", values, values) - len(values) * rest * rest
        self._absorb(len(values), mean + rest, squares)
        self._widen(frames.min(axis=0).astype(np.float64), frames.max(axis=0).astype(np.float64))

    def result(self) -> FeatureStats:
        """Mean, scale and range of everything seen; raises DataError if nothing was."""
        if self._mean is None or self._squares is None or self._low is None or self._high is None:
            raise DataError("no frames to compute statistics from")
        variance = np.maximum(self._squares / self._count, 0.0)
        # below this, what looks like variance is the rounding of a constant
        epsilon = np.finfo(np.float64).eps
        noise = self._count * epsilon * variance + (self._count * epsilon * self._mean) ** 2
        scale = np.where(variance <= noise, 1.0, np.sqrt(variance)).astype(np.float32)
        scale[scale == 0.0] = 1.0
        low, high = self._low.astype(np.float32), self._high.astype(np.float32)
        return FeatureStats(self._mean.astype(np.float32), scale, self._count, low, high)

    def _widen(self, low: Array64, high: Array64) -> None:
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)

    def _absorb(self, count: int, mean: Array64, squares: Array64) -> None:
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = count, mean.copy(), squares.copy()
            return
        if mean.shape != self._mean.shape:
            raise DataError(f"features of {len(mean)} dimensions cannot join others of {len(self._mean)}")
        total = self._count + count
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._squares = self._squares + squares + difference * difference * (self._count * (count / total))
        self._count = total


@dataclass(frozen=True, eq=False)
class NormStats:
    """The statistics that one model normalises its three features with.

    Attributes:
        kinds: kind of feature (``mel``, ...) of ``source``, ``target`` and ``duration``
        keys: :func:`feature_key` of the same three
        origin: the data or model they come from
        speakers: of the source features of each source speaker, if there are several; ``source`` are those of all
    """

    source: FeatureStats
    target: FeatureStats
    duration: FeatureStats
    kinds: Mapping[str, str]
    keys: Mapping[str, str]
    origin: str
    speakers: Mapping[str, FeatureStats] = field(default_factory=dict)

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        sides = {"source": self.source, "target": self.target, "duration": self.duration}
        tree: dict[str, Any] = {
            "origin": self.origin,
            **{side: {"kind": self.kinds[side], "key": self.keys[side]} | sides[side].to_tree() for side in SIDES},
        }
        if self.speakers:
            tree["speakers"] = {name: stats.to_tree() for name, stats in self.speakers.items()}
        return tree

    @classmethod
    def from_tree(cls, tree: Any, origin: str) -> NormStats:
        """The inverse of :meth:`to_tree`.

        Args:
            origin: names the file in errors; what the statistics come from is kept in the tree.

        Raises:
            DataError: something is missing or impossible.
        """
        what = "statistics of source, target and duration with kind and key"
        with reading(origin, what, advice="run: aasvc stats"):
            kinds = {side: str(tree[side]["kind"]) for side in SIDES}
            keys = {side: str(tree[side]["key"]) for side in SIDES}
            listed = dict(tree.get("speakers", {}))
        source, target, duration = (FeatureStats.from_tree(tree[side], f"{origin}: {side}") for side in SIDES)
        speakers = {str(name): FeatureStats.from_tree(each, f"{origin}: {name}") for name, each in listed.items()}
        return cls(source, target, duration, kinds, keys, str(tree.get("origin", origin)), speakers)
