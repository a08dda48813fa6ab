"""Griffin-Lim on recordings: speed and likeness, next to the published glue.

    python tests/benchmarks/griffin_lim.py RECORDINGS [--n-iter 0,3,20] [--threads 2] [--blur 0.5] [--sample-rate 24000]

RECORDINGS is a folder. ``--blur`` smooths the mels over time (standard deviation in frames) and bands (0.7 of it), as
models do. The published glue inverts the mel filters by their pseudo-inverse and runs librosa's Griffin-Lim for 64
iterations from random phases. MOS is DNSMOS (overall), if the package speechmos is installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from aasvc_cli.audio.files import list_audio, read_audio
from aasvc_cli.audio.mel import log_mel, mel_basis
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.vocoder.griffin_lim import GriffinLim

try:
    from speechmos import dnsmos
except ImportError:
    dnsmos = None


def published(mel: np.ndarray, config: MelConfig) -> np.ndarray:
    linear = np.maximum(1e-10, np.linalg.pinv(mel_basis(config)) @ 10.0**mel.T)
    return librosa.griffinlim(linear.astype(np.float32), n_iter=64, hop_length=config.hop_length, random_state=0)


def ours(mel: np.ndarray, vocoder: GriffinLim) -> np.ndarray:
    return vocoder.synthesise(torch.from_numpy(mel).unsqueeze(0))[0].numpy()


def spectrum(wave: np.ndarray, config: MelConfig) -> np.ndarray:
    return np.abs(librosa.stft(wave, n_fft=config.n_fft, hop_length=config.hop_length))


def measure(
    name: str, synthesise: Callable[[np.ndarray], np.ndarray], waves: list[np.ndarray], config: MelConfig, blur: float
) -> None:
    rows, moses, work, seconds = [], [], 0.0, 0.0
    synthesise(log_mel(waves[0], config)[:40])
    for wave in waves:
        mel = log_mel(wave, config)
        given = gaussian_filter(mel, (blur, 0.7 * blur)).astype(np.float32) if blur else mel
        began = time.perf_counter()
        result = synthesise(given)
        work += time.perf_counter() - began
        seconds += len(wave) / config.sample_rate
        result = np.pad(result[: len(wave)], (0, max(0, len(wave) - len(result))))
        wanted, found = spectrum(wave, config), spectrum(result, config)
        loud = mel > mel.max() - 4
        rows.append(
            (
                np.linalg.norm(found - wanted) / np.linalg.norm(wanted),
                np.abs(log_mel(result, config) - mel)[loud].mean(),
            )
        )
        if dnsmos is not None:
            heard = librosa.resample(result.astype(np.float32), orig_sr=config.sample_rate, target_sr=16000)
            moses.append(dnsmos.run(np.clip(heard, -1, 1), 16000)["ovrl_mos"])
    convergence, distance = np.mean(rows, axis=0)
    mos = f"{np.mean(moses):5.2f}" if moses else "  -  "
    print(f"{name:24} {work / seconds:8.4f} {convergence:12.3f} {distance:9.4f} {mos}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--n-iter", default="0,1,2,3,4,8,16,32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blur", type=float, default=0.0)
    parser.add_argument("--sample-rate", type=int, default=24000)
    parser.add_argument("--limit", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scale = 2 if options.sample_rate > 32000 else 1
    config = MelConfig(sample_rate=options.sample_rate, n_fft=1024 * scale, hop_length=256 * scale)
    waves = []
    for path in list_audio(options.recordings)[: options.limit]:
        samples, rate = read_audio(path)
        waves.append(resample(samples, rate, config.sample_rate))
    print(f"{'':24} {'RTF':>8} {'convergence':>12} {'log-mel':>9} {'MOS':>5}")
    measure("published glue", partial(published, config=config), waves, config, options.blur)
    for n_iter in map(int, options.n_iter.split(",")):
        synthesise = partial(ours, vocoder=GriffinLim(config, n_iter=n_iter))
        measure(f"n_iter {n_iter}", synthesise, waves, config, options.blur)


if __name__ == "__main__":
    main()
