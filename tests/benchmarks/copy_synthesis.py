"""What is lost when a vocoder speaks recordings anew, and what the measures make of the recordings themselves.

    python tests/benchmarks/copy_synthesis.py FOLDER [--vocoder bundled --vocoder ...] [--limit N] [--dnsmos] [--json]

Measures as published (MCD with c0, F0 by Harvest, FastDTW) and the corrected MCD, as means over the recordings of a
folder, at the sample rate of the recordings where that is below the vocoder's: above it there is nothing to hear, and
the logarithm of nothing decides the MCD. They react to what nobody hears, so next to the vocoders stand the recordings
themselves: with white noise 60 and 40 dB below them, and begun 2.5 ms later, which is about what a vocoder cannot know,
as a mel does not tell when within a frame the vocal folds close. A vocoder that follows the pitch of the recording,
instead of reading it off the mel, shows what pitch errors cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aasvc_cli.audio.f0 import harvest
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.quality import bandwidth
from aasvc_cli.audio.resampling import resample
from aasvc_cli.measures import judges as listeners
from aasvc_cli.measures import signal as metrics
from aasvc_cli.storage.home import Home, find_home
from aasvc_cli.vocoder.build import Vocoder, load_vocoder
from aasvc_cli.vocoder.folder import find_vocoder
from aasvc_cli.vocoder.istft import IstftVocoder

Wave = npt.NDArray[np.float32]
Change = Callable[[Wave, int], Wave]
DELAY_SECONDS = 0.0025
SUFFIXES = (".flac", ".wav", ".ogg")


class GivenPitch(IstftVocoder):
    """Follows a pitch that it is given where that is voiced."""

    f0: torch.Tensor

    def _pitch(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        read, voiced = super()._pitch(log_mel)
        return torch.where(self.f0 > 0, self.f0, read), voiced


def with_noise(decibels: float) -> Change:
    """White noise so many dB below the recording."""

    def change(wave: Wave, _: int) -> Wave:
        noise = np.random.default_rng(0).standard_normal(len(wave))
        level = np.sqrt(np.mean(wave.astype(np.float64) ** 2)) * 10.0 ** (-decibels / 20.0)
        return (wave + level * noise).astype(np.float32)

    return change


def delayed(wave: Wave, sample_rate: int) -> Wave:
    """The recording, beginning later."""
    return np.pad(wave, (round(DELAY_SECONDS * sample_rate), 0))


def spoken_by(vocoder: Vocoder) -> Change:
    """The recording, synthesised from its mel."""

    def change(wave: Wave, _: int) -> Wave:
        mel = torch.from_numpy(log_mel(wave, vocoder.mel)).unsqueeze(0)
        return vocoder.synthesise(mel)[0].numpy()

    return change


def spoken_at_its_pitch(vocoder: IstftVocoder) -> Change:
    """The recording, synthesised from its mel and its pitch."""
    told = GivenPitch(vocoder.generator)

    def change(wave: Wave, sample_rate: int) -> Wave:
        mel = torch.from_numpy(log_mel(wave, told.mel)).unsqueeze(0)
        frame_period = 1000.0 * told.hop_length / sample_rate
        f0 = harvest(wave, sample_rate, f0_min=71.0, f0_max=800.0, frame_period=frame_period)
        held = np.pad(np.asarray(f0), (0, mel.shape[1] + 1), mode="edge")[: mel.shape[1] + 1]
        told.f0 = torch.from_numpy(held.astype(np.float32)).unsqueeze(0)
        return told.synthesise(mel)[0].numpy()

    return change


def systems(names: list[str], home: Home) -> Iterator[tuple[str, Change, int]]:
    """What to measure: its name, what it does, and the sample rate that it works at."""
    rate = 0
    for name in names:
        vocoder = load_vocoder(find_vocoder(home, name), home=home)
        rate = rate or vocoder.sample_rate
        yield name, spoken_by(vocoder), vocoder.sample_rate
        if isinstance(vocoder, IstftVocoder):
            yield f"{name}, pitch of the recording", spoken_at_its_pitch(vocoder), vocoder.sample_rate
    yield "noise at -60 dB", with_noise(60.0), rate
    yield "noise at -40 dB", with_noise(40.0), rate
    yield "2.5 ms later", delayed, rate


def measured(
    change: Change, rate: int, recordings: list[Path], *, f0_min: float, f0_max: float, opinions: bool
) -> dict[str, float]:
    """Means over recordings."""
    found: dict[str, list[float]] = {}
    for path in recordings:
        recording, stored = read_audio(path)
        result = change(resample(recording, stored, rate), rate)
        shared = min(rate, metrics.rate_before(bandwidth(recording, stored), stored) or stored)
        pair = resample(result, rate, shared), shared, resample(recording, stored, shared), shared
        scores, corrected = (
            metrics.score_pair(*pair, f0_min=f0_min, f0_max=f0_max, mode=mode) for mode in metrics.MODES
        )
        told = {
            "MCD": scores.mcd, "MCD_corrected": corrected.mcd, "F0CORR": scores.f0_corr, "F0RMSE": scores.f0_rmse
        }  # fmt: skip
        if opinions:
            told["DNSMOS"] = listeners.opinions(np.clip(result, -1.0, 1.0), rate)["DNSMOS"]
        for key, value in told.items():
            found.setdefault(key, []).append(value)
    return {key: round(statistics.mean(values), 3) for key, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocoder", action="append", help="name or folder; may be repeated (default: bundled)")
    parser.add_argument("--home", type=Path, help="data folder in which vocoders are looked up by name")
    parser.add_argument("--limit", type=int, help="recordings, the first ones by name")
    parser.add_argument("--f0-min", type=float, default=90.0)
    parser.add_argument("--f0-max", type=float, default=440.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dnsmos", action="store_true", help="also DNSMOS, which takes longer than all else")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    paths = sorted(path for path in arguments.folder.glob("*") if path.suffix in SUFFIXES)
    recordings = paths[: arguments.limit]
    if not recordings:
        raise SystemExit(f"{arguments.folder}: no recordings ({', '.join(SUFFIXES)})")
    home = find_home(arguments.home)
    options = {"f0_min": arguments.f0_min, "f0_max": arguments.f0_max, "opinions": arguments.dnsmos}
    result: dict[str, Any] = {"recordings": len(recordings)}
    for name, change, rate in systems(arguments.vocoder or ["bundled"], home):
        result[name] = measured(change, rate, recordings, **options)
        print(f"{name}: {result[name]}", flush=True)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
