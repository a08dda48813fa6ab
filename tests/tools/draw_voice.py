"""Draw what a voice does with one sentence, for the README: spectrograms before, after and wanted, and the alignment.

python tests/tools/draw_voice.py SOURCE.flac TARGET.flac [--voice NAME] [--out aasvc_cli/assets/voice]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel, resample
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.conversion.voice import find_voice, load_voice
from aasvc_cli.features.kinds import extract
from aasvc_cli.report.figures import alignment_figure, mel_figure
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


if __name__ == "__main__":
    main()
