"""Draw what a voice does with one sentence, for the README: spectrograms before, after and wanted, and the alignment.

python tests/tools/draw_voice.py SOURCE.flac TARGET.flac [--voice NAME] [--out aasvc_cli/assets/voice]
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.resampling import resample
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.conversion.voice import find_voice, load_voice
from aasvc_cli.features.kinds import extract
from aasvc_cli.storage.files import write_bytes
from aasvc_cli.storage.home import bundled, find_home


def main() -> None:
    """Write the two pictures and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--voice", help="a run, a model or a folder; the bundled voice if not given")
    parser.add_argument("--out", type=Path, default=bundled("voice"))
    arguments = parser.parse_args()

    home = find_home()
    voice = load_voice(find_voice(home, arguments.voice), "cpu", home=home)
    settings, stats = voice.config.features, voice.stats
    rate = settings.mel.sample_rate
    said, wanted = (resample(*read_audio(path), rate) for path in (arguments.source, arguments.target))
    converted = Converter.load(arguments.voice).convert(said, rate).wave
    mels = [
        (title, log_mel(np.asarray(wave, dtype=np.float32), settings.mel))
        for title, wave in (("source", said), ("conversion", converted), ("target", wanted))
    ]
    source, target, duration = (
        torch.from_numpy(side.normalise(extract(stats.kinds[name], wave, settings)))
        for name, side, wave in (
            ("source", stats.source, said),
            ("target", stats.target, wanted),
            ("duration", stats.duration, said),
        )
    )
    forced = voice.model.align(source, target, duration)
    pictures = {
        "spectrograms.png": mel_figure(mels, settings.mel.frames_per_second),
        "alignment.png": alignment_figure(
            forced.log_alignment[0].exp().numpy(), forced.path[0].tolist(), "source tokens along the target"
        ),
    }
    for name, picture in pictures.items():
        write_bytes(arguments.out / name, picture)
        print(arguments.out / name, f"{len(picture) / 1000:.0f} kB")


def mel_figure(mels: list[tuple[str, np.ndarray]], frames_per_second: float) -> bytes:
    """Log-mel spectrograms below each other on one time axis.

    Args:
        mels: title and (T, M) of each

    Returns:
        PNG
    """
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


def alignment_figure(alignment: np.ndarray, path: list[int], title: str) -> bytes:
    """A soft alignment with the monotonic path drawn over it.

    Args:
        alignment: (T, K) probabilities
        path: token of each of the T frames

    Returns:
        PNG
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    axis.imshow(alignment.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma")
    axis.plot(range(len(path)), path, color="cyan", linewidth=0.8)
    axis.set_xlabel("target frame")
    axis.set_ylabel("source token")
    axis.set_title(title, fontsize=9, loc="left")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
