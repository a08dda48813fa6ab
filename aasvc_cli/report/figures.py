"""Arrays to PNG: mel spectrograms and alignments."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating]


def mel_figure(mels: Sequence[tuple[str, Array]], frames_per_second: float) -> bytes:
    """Log-mel spectrograms below each other on one time axis.

    Args:
        mels: title and (T, M) of each

    Returns:
        PNG
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.2 * len(mels)), layout="constrained")
    axes = figure.subplots(len(mels), 1, squeeze=False, sharex=True)[:, 0]
    low = min(float(mel.min()) for _, mel in mels)
    high = max(float(mel.max()) for _, mel in mels)
    for axis, (title, mel) in zip(axes, mels, strict=True):
        extent = (0.0, len(mel) / frames_per_second, 0.0, float(mel.shape[1]))
        axis.imshow(mel.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("mel band")
    axes[-1].set_xlim(0.0, max(len(mel) for _, mel in mels) / frames_per_second)
    axes[-1].set_xlabel("time (s)")
    return _png(figure)


def alignment_figure(alignment: Array, path: Sequence[int], title: str) -> bytes:
    """A soft alignment with the monotonic path drawn over it.

    Args:
        alignment: (T, K) probabilities
        path: token of each of the T frames

    Returns:
        PNG
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    axis.imshow(alignment.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma")
    axis.plot(range(len(path)), path, color="cyan", linewidth=0.8)
    axis.set_xlabel("target frame")
    axis.set_ylabel("source token")
    axis.set_title(title, fontsize=9, loc="left")
    return _png(figure)


def _png(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)  # type: ignore[attr-defined]
    return buffer.getvalue()
