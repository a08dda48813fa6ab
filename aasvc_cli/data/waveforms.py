"""Variations of a recording: the same words with another vocal tract, room or line.

What :mod:`aasvc_cli.data.augmentation` does to log-mels, this does to the samples, where it is more faithful and fifty
times slower. It is for training that can afford to vary recordings once and keep them: a network that has to give the
same result for every version learns to leave speaker and channel aside.
"""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.f0 import dio, frame_times
from aasvc_cli.audio.world import world

Wave = npt.NDArray[np.float32]
Frames = npt.NDArray[np.float64]

LOUDEST = 0.9
"""Peak of a recording before it is coded."""
LOWEST_RATE = 8000
_HIGHEST_MIDDLE, _HIGHEST = 330.0, 700.0
"""Of a voice whose pitch is drawn at random: the middle of its contour, and any frame, in Hz."""
_WINDOW_SECONDS, _SEARCH_SECONDS = 0.03, 0.008


def varied(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """A recording with some of the changes below, drawn at random: (n,) -> (n',).

    Time is stretched evenly, so a place in the result lies at the same share of the recording as before.
    """
    return elsewhere(by_another(wave, sample_rate, random), sample_rate, random)


def by_another(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """Another throat, pitch and pace, each with some probability: (n,) -> (n',)."""
    if random.random() < 0.3:
        wave = revoiced(wave, sample_rate, random)
    if random.random() < 0.6:
        wave = _resampled(wave, sample_rate * 1.22 ** random.uniform(-1.0, 1.0), sample_rate)
    if random.random() < 0.45:
        wave = stretched(wave, sample_rate, 1.4 ** random.uniform(-1.0, 1.0))
    return wave


def elsewhere(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """Another room, microphone, noise and line, each with some probability; the pitch stays: (n,) -> (about n,)."""
    if random.random() < 0.35:
        wave = in_room(wave, sample_rate, random)
    if random.random() < 0.5:
        wave = equalised(wave, sample_rate, random)
    if random.random() < 0.55:
        wave = with_noise(wave, sample_rate, random)
    if random.random() < 0.35:
        wave = over_line(wave, sample_rate, random)
    if random.random() < 0.05:
        peak = np.float32(np.abs(wave).max() * random.uniform(0.3, 0.8))
        wave = np.clip(wave, -peak, peak)
    return np.asarray(wave, dtype=np.float32)


def rerecorded(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """A recording of another throat, perhaps in another room, over another line, at another level: (n,) -> (n',).

    All that is drawn at random leaves natural speech, so that a vocoder may learn to say it.
    """

    def happens(share: float) -> bool:
        return bool(random.random() < share)

    wave = _resampled(wave, sample_rate * 1.36 ** random.uniform(-1.0, 1.0), sample_rate)
    if happens(0.12):
        wave = in_room(wave, sample_rate, random)
    if happens(0.35):
        wave = equalised(wave, sample_rate, random)
    if happens(0.15):
        wave = with_noise(wave, sample_rate, random, loudest_db=18.0)
    if happens(0.3):
        rate = int(random.choice([LOWEST_RATE, LOWEST_RATE, 11025, 16000]))
        wave = _resampled(_resampled(wave, sample_rate, rate), rate, sample_rate)
    level = LOUDEST * 10.0 ** (-random.uniform(0.0, 24.0) / 20.0)
    return np.asarray(wave * np.float32(level / max(1e-3, float(np.abs(wave).max()))), dtype=np.float32)


def revoiced(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """Another pitch, intonation and vocal tract through WORLD; now and then a monotonous buzz, or a whisper."""
    signal = wave.astype(np.float64) + 1e-5 * random.standard_normal(len(wave))
    f0 = dio(signal, sample_rate, f0_min=60.0, f0_max=500.0)
    times = frame_times(len(f0))
    envelope = world().cheaptrick(signal, f0, times, sample_rate)
    aperiodicity = world().d4c(signal, f0, times, sample_rate)
    envelope, aperiodicity = _of_another_throat(envelope, aperiodicity, 1.2 ** random.uniform(-1.0, 1.0))
    voiced = f0 > 0
    manner = random.choice(["speech", "buzz", "whisper"], p=[0.7, 0.15, 0.15])
    if manner == "buzz":
        f0 = np.full_like(f0, random.uniform(70.0, 220.0))
        if random.random() < 0.5:
            aperiodicity = np.full_like(aperiodicity, 1e-3)
    elif manner == "whisper" or not voiced.any():
        f0 = np.zeros_like(f0)
    else:
        middle = np.exp(np.log(f0[voiced]).mean())
        moved = middle * 2.0 ** random.uniform(-1.0, 1.0) * (np.maximum(f0, 1.0) / middle) ** random.uniform(0.3, 1.6)
        f0 = np.where(voiced, np.minimum(moved, _HIGHEST), 0.0)
    result = world().synthesize(f0, envelope, aperiodicity, sample_rate)
    return np.asarray(result[: len(wave)], dtype=np.float32)


def repitched(
    wave: Wave,
    f0: Wave,
    sample_rate: int,
    hop_length: int,
    random: np.random.Generator,
    *,
    f0_min: float,
    f0_max: float,
) -> tuple[Wave, Wave]:
    """The same words at a pitch, intonation and vocal tract drawn at random, through WORLD, so that F0 is known.

    Deep voices are as frequent as high ones, as the middle of the contour is drawn from a logarithmic scale.

    Args:
        wave: (n,)
        f0: (T,) in Hz, of frames a hop apart from the first sample on, 0 where unvoiced
        f0_min, f0_max: no frame is deeper or higher, in Hz

    Returns:
        samples (n,), and their F0 (T,)
    """
    signal = wave.astype(np.float64) + 1e-5 * random.standard_normal(len(wave))
    found, period = np.ascontiguousarray(f0, dtype=np.float64), 1000.0 * hop_length / sample_rate
    times = frame_times(len(found), period)
    envelope = world().cheaptrick(signal, found, times, sample_rate)
    aperiodicity = world().d4c(signal, found, times, sample_rate)
    voiced = found > 0
    middle = float(np.exp(np.log(found[voiced]).mean())) if voiced.any() else 1.0
    bounds = sorted((1.15 * f0_min, min(_HIGHEST_MIDDLE, 0.8 * f0_max)))
    wanted = math.exp(random.uniform(*np.log(bounds)))
    moved = wanted * (np.maximum(found, 1.0) / middle) ** random.uniform(0.5, 1.4)
    moved = np.where(voiced, np.clip(moved, f0_min, min(_HIGHEST, f0_max)), 0.0)
    # who speaks deeper has a longer throat, but not by as much
    throat = float(np.clip((wanted / middle) ** random.uniform(0.0, 0.35), 0.75, 1.3))
    envelope, aperiodicity = _of_another_throat(envelope, aperiodicity, throat)
    made = world().synthesize(moved, envelope, aperiodicity, sample_rate, period)
    made = np.pad(made, (0, max(0, len(wave) - len(made))))[: len(wave)]
    made = made * (LOUDEST / max(1e-3, float(np.abs(made).max())))
    return made.astype(np.float32), moved.astype(np.float32)


def _of_another_throat(envelope: Frames, aperiodicity: Frames, factor: float) -> tuple[Frames, Frames]:
    """Spectra (T, F) of frames whose formants lie ``factor`` times as high, contiguous, as WORLD takes them."""
    place = np.arange(envelope.shape[1]) / factor
    low = np.minimum(place.astype(np.int64), envelope.shape[1] - 2)
    share = np.clip(place - low, 0.0, 1.0)
    moved = np.exp(np.log(envelope[:, low]) * (1.0 - share) + np.log(envelope[:, low + 1]) * share)
    noisy = aperiodicity[:, low] * (1.0 - share) + aperiodicity[:, low + 1] * share
    return np.ascontiguousarray(moved), np.ascontiguousarray(noisy)


def stretched(wave: Wave, sample_rate: int, factor: float) -> Wave:
    """Speech that is ``factor`` times as long at the same pitch: (n,) -> (about n * factor,).

    Overlapping pieces are added where they continue each other best (WSOLA, Verhelst and Roelands, 1993).
    """
    half, reach = round(_WINDOW_SECONDS * sample_rate / 2), round(_SEARCH_SECONDS * sample_rate)
    window = np.hanning(2 * half + 1)[:-1].astype(np.float32)
    length = max(2 * half, round(len(wave) * factor))
    padded = np.pad(wave, (half + reach, math.ceil(half / factor) + 3 * half + 2 * reach))
    result = np.zeros(length + 3 * half, dtype=np.float32)
    after = half + reach  # where the piece before goes on
    for start in range(0, length + half, half):
        middle = round(start / factor) + reach
        area = padded[middle - reach : middle + reach + 2 * half]
        total = np.cumsum(np.pad(area.astype(np.float64) ** 2, (1, 0)))
        energy = total[2 * half :] - total[: -2 * half]
        difference = energy - 2.0 * np.correlate(area, padded[after : after + 2 * half])
        chosen = middle - reach + (int(np.argmin(difference)) if start else reach)
        result[start : start + 2 * half] += padded[chosen : chosen + 2 * half] * window
        after = chosen + half
    return result[half : half + length]


def in_room(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """Exponentially decaying reverberation (RT60 0.1 to 0.7 s) behind the direct sound: (n,) -> (n,)."""
    from scipy.signal import fftconvolve

    length = int(random.uniform(0.1, 0.7) * sample_rate)
    response = random.standard_normal(length) * 10.0 ** (-3.0 * np.arange(length) / length)
    response[: int(random.uniform(0.001, 0.01) * sample_rate)] = 0.0
    response *= 10.0 ** (-random.uniform(-3.0, 12.0) / 20.0) / np.sqrt((response**2).sum())
    response[0] = 1.0
    return np.asarray(fftconvolve(wave, response)[: len(wave)], dtype=np.float32)


def equalised(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """A smooth frequency response, as of another microphone: (n,) -> (n,)."""
    return _shaped(wave, sample_rate, random.normal(0.0, 5.0, 7).clip(-10.0, 10.0))


def with_noise(wave: Wave, sample_rate: int, random: np.random.Generator, *, loudest_db: float = 3.0) -> Wave:
    """Coloured noise, by default 3 to 40 dB below the speech, steady or swelling: (n,) -> (n,)."""
    slope = np.linspace(0.0, -8.0 * random.uniform(0.0, 5.0), 6)
    white = random.standard_normal(len(wave)).astype(np.float32)
    noise = _shaped(white, sample_rate, slope + random.normal(0.0, 4.0, 6))
    if random.random() < 0.3:
        swell = np.abs(random.normal(1.0, 0.6, 8))
        noise = noise * np.interp(np.arange(len(wave)), np.linspace(0, len(wave), 8), swell).astype(np.float32)
    level = math.sqrt(float(np.mean(wave**2)) / max(1e-12, float(np.mean(noise**2))))
    return wave + noise * np.float32(level * 10.0 ** (-random.uniform(loudest_db, 40.0) / 20.0))


def over_line(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """A lower sample rate and what goes with it: telephone band, GSM or mu-law: (n,) -> (about n,)."""
    rate = int(random.choice([LOWEST_RATE, LOWEST_RATE, LOWEST_RATE, 10000, 11025, 12000]))
    narrow = _resampled(wave, sample_rate, rate)
    if rate == LOWEST_RATE:
        if random.random() < 0.5:
            spectrum, hertz = np.fft.rfft(narrow), np.fft.rfftfreq(len(narrow), 1.0 / rate)
            low = (random.uniform(150.0, 330.0) / np.maximum(hertz, 1.0)) ** 8
            spectrum /= np.sqrt((1.0 + low) * (1.0 + (hertz / 3500.0) ** 16))
            narrow = np.fft.irfft(spectrum, len(narrow)).astype(np.float32)
        if random.random() < 0.6:
            narrow = coded(narrow, rate, str(random.choice(["GSM610", "ULAW"])))
    return _resampled(narrow, rate, sample_rate)


def coded(wave: Wave, sample_rate: int, codec: str) -> Wave:
    """What a codec of libsndfile leaves of a recording, at full level: (n,) -> (at least n,)."""
    import soundfile

    stream = io.BytesIO()
    scale = LOUDEST / max(1e-3, float(np.abs(wave).max()))
    soundfile.write(stream, wave * scale, sample_rate, format="WAV", subtype=codec)
    stream.seek(0)
    return np.asarray(soundfile.read(stream, dtype="float32")[0], dtype=np.float32)


def _shaped(wave: Wave, sample_rate: int, gains_db: npt.NDArray[np.float64]) -> Wave:
    """Gains at points evenly spread over the eight octaves from 60 Hz: (n,) -> (n,)."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(wave), 1.0 / sample_rate), 60.0) / 60.0)
    gains = np.interp(octaves, np.linspace(0.0, 8.0, len(gains_db)), gains_db)
    return np.fft.irfft(np.fft.rfft(wave) * 10.0 ** (gains / 20.0), len(wave)).astype(np.float32)


def _resampled(wave: Wave, sample_rate: float, new_rate: float) -> Wave:
    import soxr

    return np.asarray(soxr.resample(wave, sample_rate, new_rate, quality="HQ"), dtype=np.float32)
