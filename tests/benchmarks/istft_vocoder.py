"""The inverse-STFT vocoder: real-time factor and peak memory by length of the speech, next to Griffin-Lim.

    python tests/benchmarks/istft_vocoder.py [--threads 2] [--seconds 5,60,600] [--vocoder FOLDER]

Without a folder, the network has the sizes of the preset and random weights, which take the same time as trained ones.
Each measurement is a process of its own; memory is the growth of its peak over what was there before synthesis.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.vocoder.build import Vocoder, load_vocoder
from aasvc_cli.vocoder.griffin_lim import GriffinLim
from aasvc_cli.vocoder.istft import IstftGenerator, IstftSizes, IstftVocoder

MEL = MelConfig()


def measure(name: str, folder: str, seconds: float, threads: int) -> dict[str, float | str]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    vocoder: Vocoder
    if name == "griffin-lim":
        vocoder = GriffinLim(MEL)
    else:
        vocoder = load_vocoder(Path(folder)) if folder else IstftVocoder(IstftGenerator(MEL, IstftSizes()))
    n_frames = int(seconds * MEL.frames_per_second)
    log_mel = torch.randn(1, n_frames, MEL.n_mels) * 0.3 - 2.0
    vocoder.synthesise(log_mel[:, :200])  # what is allocated once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    elapsed = []
    for _ in range(5 if seconds <= 60 else 1):
        started = time.perf_counter()
        vocoder.synthesise(log_mel)
        elapsed.append(time.perf_counter() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"vocoder": name, "seconds": seconds, "rtf": min(elapsed) / seconds, "peak_mb": grown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", default="5,60,600")
    parser.add_argument("--vocoder", default="", help="folder of a trained one")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    lengths = [float(text) for text in arguments.seconds.split(",")]
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.vocoder, lengths[0], arguments.threads)))
        return
    print(f"{arguments.threads} threads, {MEL.sample_rate} Hz, hop {MEL.hop_length}")
    for name in ("istft", "griffin-lim"):
        for seconds in lengths:
            command = [sys.executable, __file__, "--only", name, "--seconds", str(seconds)]
            command += ["--threads", str(arguments.threads), "--vocoder", arguments.vocoder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            told = json.loads(done.stdout.splitlines()[-1])
            print(f"{name:12} {seconds:6.0f} s: real-time factor {told['rtf']:.4f}, peak {told['peak_mb']:.1f} MB more")


if __name__ == "__main__":
    main()
