"""Vocoders at 48 kHz: real-time factor, and the memory of vocoding long speech in pieces next to one pass.

    python tests/benchmarks/vocoders.py [--threads 2] [--seconds 5] [--memory-seconds 60] [--chunks 32,64,128]

Networks have random weights, which take the same time as trained ones: ParallelWaveGAN with its published defaults,
HiFi-GAN with the widths of its version 1, both with hop 512. Each measurement of memory is a process of its own; what
is printed is the growth of its peak over what was there before synthesis. ``--shallow`` measures memory with fewer
layers of the same widths, which need the same memory at once and a tenth of the time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.vocoder.build import Vocoder
from aasvc_cli.vocoder.gan_generators import (
    CHUNK_FRAMES,
    GanVocoder,
    HiFiGan,
    HiFiGanSizes,
    ParallelWaveGan,
    ParallelWaveGanSizes,
)
from aasvc_cli.vocoder.griffin_lim import GriffinLim

MEL = MelConfig(sample_rate=48000, n_fft=2048, hop_length=512)
NAMES = ("griffin-lim", "hifi-gan", "parallel-wavegan")


def build(name: str, *, shallow: bool = False, **options: object) -> Vocoder:
    torch.manual_seed(0)
    if name == "griffin-lim":
        return GriffinLim(MEL)
    if name == "hifi-gan":
        depth = {"resblock_kernel_sizes": (3, 3), "resblock_dilations": ((1,), (1,))} if shallow else {}
        return GanVocoder(HiFiGan(HiFiGanSizes(upsample_scales=(8, 8, 4, 2), **depth)), MEL, **options)
    depth = {"layers": 3} if shallow else {}
    return GanVocoder(ParallelWaveGan(ParallelWaveGanSizes(upsample_scales=(4, 4, 4, 8), **depth)), MEL, **options)


def mel_of(seconds: float) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(1, round(seconds * MEL.frames_per_second), MEL.n_mels) - 2.0


def seconds_per_second(vocoder: Vocoder, seconds: float, repeats: int = 3) -> float:
    """Best of some repeats, as other programs only ever slow one down."""
    mel = mel_of(seconds)
    vocoder.synthesise(mel[:, :40])
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        vocoder.synthesise(mel)
        best = min(best, time.perf_counter() - began)
    return best / seconds


def peak_megabytes(
    name: str, seconds: float, chunk_frames: int | None, threads: int, shallow: bool
) -> tuple[float, float]:
    """Growth of the peak in MB, and seconds of work, in a process of its own."""
    order = json.dumps([name, seconds, chunk_frames, threads, shallow])
    done = subprocess.run([sys.executable, __file__, "--child", order], capture_output=True, text=True, check=True)
    megabytes, work = json.loads(done.stdout)
    return megabytes, work


def child(order: str) -> None:
    name, seconds, chunk_frames, threads, shallow = json.loads(order)
    torch.set_num_threads(threads)
    options = {} if name == "griffin-lim" else {"chunk_frames": chunk_frames, "shallow": shallow}
    vocoder, mel = build(name, **options), mel_of(seconds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    vocoder.synthesise(mel)
    work = time.perf_counter() - began
    print(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, work]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--memory-seconds", type=float, default=60.0, help="0 leaves memory out")
    parser.add_argument("--shallow", action="store_true", help="measure memory with fewer layers")
    parser.add_argument("--chunks", default="", help="also measure these lengths of a piece, in frames")
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    torch.set_num_threads(options.threads)
    print(f"{'':20} {'pieces':>8} {'real-time factor':>18}")
    for name in options.only.split(","):
        print(f"{name:20} {'default':>8} {seconds_per_second(build(name), options.seconds):18.3f}", flush=True)
        for frames in (int(word) for word in options.chunks.split(",") if word and name != "griffin-lim"):
            factor = seconds_per_second(build(name, chunk_frames=frames), options.seconds, 2)
            print(f"{name:20} {frames:8} {factor:18.3f}", flush=True)
    if options.memory_seconds:
        print(f"\n{options.memory_seconds:g} s of speech, growth of peak memory")
        for name in options.only.split(","):
            for what, frames in (("in pieces", None if name == "griffin-lim" else CHUNK_FRAMES), ("one pass", None)):
                if name == "griffin-lim" and what == "in pieces":
                    continue
                megabytes, work = peak_megabytes(name, options.memory_seconds, frames, options.threads, options.shallow)
                print(f"{name:20} {what:>10} {megabytes:10.0f} MB {work:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
