"""How much a recording sounds like those that a voice was trained on.

A voice on mels converts one speaker, recorded in one way. Of each training recording the upper quartile of every
dimension of its features is taken: what it is like while somebody speaks, whatever the pauses. The median of these over
all recordings is what is typical; the distance of a recording from it is the mean absolute difference over dimensions,
in units of the training set's scale.

Measured with a voice on mels: its own speaker 0.03 to 0.08, with noise 30 dB below 0.16, half as loud 0.35, within a
second of silence at both ends 0.40; another speaker 0.55 to 0.64, a quarter as loud 0.65, a bandwidth of 8 kHz instead
of 12 0.79, of 4 kHz 2.0. With a voice on content: its own speaker and three others 0.12 to 0.13, a Frenchwoman over a
telephone line 0.24, a tone or noise 0.36 to 0.44.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import reading

Array = npt.NDArray[np.float32]

ALWAYS_NEAR = 0.5
"""Distance that is near enough, however alike the training recordings are."""
SPREAD = 2.0
"""So many times as far as the farthest training recording may others be."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """What the recordings of a speaker have in common.

    Attributes:
        typical: (D,) float32, not normalised
        reach: distance of the farthest training recording
    """

    typical: Array
    reach: float

    @classmethod
    def of(cls, quartiles: Sequence[Array], scale: Array) -> Likeness:
        """From :func:`upper_quartile` of each training recording, (D,) each, and the scale (D,) of the features."""
        stacked = np.stack(quartiles)
        typical = np.median(stacked, axis=0).astype(np.float32)
        return cls(typical, float((np.abs(stacked - typical) / scale).mean(axis=1).max()))

    @property
    def limit(self) -> float:
        """Distance from which on a recording is unlike."""
        return max(ALWAYS_NEAR, SPREAD * self.reach)

    def difference(self, normalised: Array, mean: Array, scale: Array) -> Array:
        """How a recording differs from what is typical: (T, D) normalised features to (D,), in units of the scale."""
        return np.asarray(upper_quartile(normalised) - (self.typical - mean) / scale)

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"typical": self.typical.tolist(), "reach": self.reach}

    @classmethod
    def from_tree(cls, tree: Any, width: int, origin: str) -> Likeness:
        """The inverse of :meth:`to_tree`; raises DataError that names ``origin``."""
        with reading(origin, "a list typical and a number reach in likeness"):
            typical, reach = np.asarray(tree["typical"], dtype=np.float32), float(tree["reach"])
        if typical.shape != (width,) or not np.isfinite(typical).all() or not (np.isfinite(reach) and reach >= 0):
            raise DataError(f"{origin}: likeness must hold {width} finite numbers and a distance of 0 or more")
        return cls(typical, reach)


def upper_quartile(feature: Array) -> Array:
    """(T, D) to (D,)."""
    return np.percentile(feature, 75.0, axis=0).astype(np.float32)
