"""Augmentation of source features: as if someone else, or someone faster, had spoken.

A parallel corpus holds one source speaker in one room, and little of that. Every epoch sees each source recording as
if its speaker had another pitch, another vocal tract, another pace, another level or noise around it, while the target
stays: so the model learns to leave all that aside. The stored log-mel is changed, which costs milliseconds, so nothing
needs to be computed or kept beforehand. Of features with the melody beside what is said, the melody can be taken away,
so the model also learns to find an intonation where the source has none, as of an electrolarynx.

Pitch and vocal tract are told apart by the cepstrum: what varies slowly from band to band is the envelope, which a
shorter vocal tract stretches (Jaitly and Hinton, Vocal tract length perturbation, 2013); what varies quickly are the
harmonics, which a higher pitch moves apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.mel import LOG_FLOOR, mel_basis, mel_centres
from aasvc_cli.config.settings import AugmentConfig, MelConfig

Array = npt.NDArray[np.float32]

ENVELOPE_HERTZ = 420.0
"""Ripples of the spectrum that are wider than this, at low frequencies, belong to the envelope. Harmonics are as far
apart as the pitch, which is seldom higher."""
NOISE_TILT_DB = 6.0
"""Most that noise falls or rises from octave to octave."""


Manner = Literal["monotonous", "buzz", "whisper"]
"""Of speaking without a melody: with the voicing as it was, with everything voiced, or with nothing."""
MANNERS: tuple[Manner, ...] = get_args(Manner)


@dataclass(frozen=True)
class Change:
    """What is done to one recording.

    Attributes:
        tempo: how much faster than it was
        pitch: factor of the pitch
        formant: factor of the frequencies of formants
        gain_db: how much louder
        snr_db: level of the speech above the noise that is added; None for no noise
        tilt_db: by how much that noise rises with every octave
        manner: how the melody is taken away; None leaves it
    """

    tempo: float = 1.0
    pitch: float = 1.0
    formant: float = 1.0
    gain_db: float = 0.0
    snr_db: float | None = None
    tilt_db: float = 0.0
    manner: Manner | None = None


def draw(settings: AugmentConfig, random: np.random.Generator) -> Change:
    """A change, each part of it evenly distributed (factors on a logarithmic scale) over the range that it has."""
    spread = random.uniform(-1.0, 1.0, 5)
    noisy, level, untouched = random.uniform(size=3)
    if untouched >= settings.share:
        return Change()
    quietest, loudest = settings.noise_snr_db, settings.noise_snr_db + settings.noise_range_db
    return Change(
        tempo=(1.0 + settings.tempo) ** spread[0],
        pitch=2.0 ** (settings.pitch * spread[1] / 12.0),
        formant=(1.0 + settings.formant) ** spread[2],
        gain_db=settings.gain_db * spread[3],
        snr_db=quietest + (loudest - quietest) * level if noisy < settings.noise_share else None,
        tilt_db=NOISE_TILT_DB * spread[4],
        manner=_manner(settings.monotone_share, random),
    )


def _manner(share: float, random: np.random.Generator) -> Manner | None:
    return MANNERS[random.integers(len(MANNERS))] if share and random.uniform() < share else None


@dataclass(frozen=True)
class Augmenter:
    """Applies changes to the features of sources.

    Attributes:
        mel: of log-mels; None for other features, of which only tempo and melody can be changed
        melody: whether the last two channels of a feature are log-F0 around its mean, and voicing
        frames_per_token: source frames of one token, which needs a target frame: a slower recording must still fit
        fixed: the change that is always made, instead of one that is drawn
    """

    settings: AugmentConfig
    mel: MelConfig | None
    frames_per_token: int
    melody: bool = False
    fixed: Change | None = None

    def slowest(self) -> Augmenter:
        """One that makes every recording as long as it can become."""
        return replace(self, fixed=Change(tempo=1.0 / (1.0 + self.settings.tempo)))

    def __call__(self, feature: Array, *, target_frames: int, seed: tuple[int, ...]) -> Array:
        """Another version of a source recording, a function of the arguments only.

        Args:
            feature: (S, D)
            target_frames: frames of the target that it has to be aligned with
            seed: what distinguishes this version from others

        Returns:
            (S', D) float32
        """
        random = np.random.default_rng(seed)
        change = self.fixed or draw(self.settings, random)
        most = max(len(feature), target_frames * self.frames_per_token)
        if self.mel is None:
            if self.melody and change.manner is not None:
                feature = without_melody(feature, change.manner)
            return paced(feature, change.tempo, most)
        return changed(feature, change, self.mel, random, most_frames=most)


def changed(
    log_mel: Array, change: Change, mel: MelConfig, random: np.random.Generator, *, most_frames: int | None = None
) -> Array:
    """A log-mel with a change applied: (S, M) -> (S', M), where S' is about S / tempo, and ``most_frames`` at most."""
    if change == Change():
        return log_mel
    result = log_mel
    if change.pitch != 1.0 or change.formant != 1.0:
        result = warped(result, mel, pitch=change.pitch, formant=change.formant)
    result = paced(result, change.tempo, most_frames)
    base = mel.log_base or math.e
    if change.gain_db:
        result = result + np.float32(change.gain_db / 20.0 * math.log(10.0, base))
    if change.snr_db is not None:
        result = with_noise(result, mel, random, snr_db=change.snr_db, tilt_db=change.tilt_db)
    return np.maximum(result, np.float32(math.log(LOG_FLOOR, base)), dtype=np.float32)


def warped(log_mel: Array, mel: MelConfig, *, pitch: float, formant: float) -> Array:
    """Harmonics and envelope moved to other frequencies, each by a factor: (S, M) -> (S, M)."""
    envelope = envelopes(log_mel, mel)
    return _moved(envelope, mel, formant) + _moved(log_mel - envelope, mel, pitch)


def envelopes(log_mel: Array, mel: MelConfig) -> Array:
    """The part of log-mels that varies slowly from band to band, which is the vocal tract's: (S, M) -> (S, M)."""
    return log_mel @ _smoother(mel)


def paced(feature: Array, tempo: float, most_frames: int | None = None) -> Array:
    """A feature as of someone who speaks so much faster: (S, D) -> (S', D), where S' is ``most_frames`` at most."""
    if tempo == 1.0:
        return feature
    n_frames = max(1, round(len(feature) / tempo))
    return stretched(feature, min(n_frames, most_frames or n_frames))


def stretched(feature: Array, n_frames: int) -> Array:
    """Another number of frames, between which is interpolated: (S, D) -> (n_frames, D)."""
    place = (np.arange(n_frames) + 0.5) * (len(feature) / n_frames) - 0.5
    return _between(feature, np.clip(place, 0.0, len(feature) - 1.0)).astype(np.float32, copy=False)


def without_melody(feature: Array, manner: Manner) -> Array:
    """A feature whose last two channels are log-F0 around its mean, and voicing, in one tone: (S, D) -> (S, D)."""
    result = feature.copy()
    result[:, -2] = 0.0
    if manner != "monotonous":
        result[:, -1] = float(manner == "buzz")
    return result


def with_noise(log_mel: Array, mel: MelConfig, random: np.random.Generator, *, snr_db: float, tilt_db: float) -> Array:
    """Stationary noise added: (S, M) -> (S, M).

    The magnitudes of a short-time spectrum of Gaussian noise are Rayleigh distributed; powers of independent signals
    add up.

    Args:
        snr_db: mean power of the speech, over frames and bands, to that of the noise
        tilt_db: rise of the noise with every octave
    """
    base = mel.log_base or math.e
    speech = np.power(np.float32(base), log_mel)
    basis = _filters(mel)
    hertz = np.linspace(0.0, mel.sample_rate / 2, len(basis))
    octaves = np.log2(np.maximum(hertz, 100.0) / 1000.0)
    colour = (10.0 ** (tilt_db * octaves / 20.0)).astype(np.float32)
    bins = np.sqrt(random.standard_exponential((len(log_mel), len(basis)), dtype=np.float32)) * colour
    noise = bins @ basis
    level = math.sqrt(float(np.mean(speech**2)) / float(np.mean(noise**2))) * 10.0 ** (-snr_db / 20.0)
    total = np.sqrt(speech**2 + (np.float32(level) * noise) ** 2)
    return np.asarray(np.log(total) / np.float32(math.log(base)), dtype=np.float32)


@lru_cache(maxsize=4)
def _filters(mel: MelConfig) -> Array:
    """(F, M)"""
    return np.ascontiguousarray(mel_basis(mel).T)


@lru_cache(maxsize=4)
def _smoother(mel: MelConfig) -> Array:
    """(M, M): the cepstral smoothing of log-mels, as a matrix to multiply with from the right."""
    count = mel.n_mels
    bands, orders = np.arange(count), np.arange(count)[:, None]
    cosines = np.cos(math.pi * orders * (bands + 0.5) / count) * math.sqrt(2.0 / count)  # DCT-II, orthonormal
    cosines[0] /= math.sqrt(2.0)
    centres = mel_centres(mel)
    # order k has a ripple every 2 M / k bands
    kept = min(count, max(1, round(2 * count * float(centres[1] - centres[0]) / ENVELOPE_HERTZ)))
    return (cosines[:kept].T @ cosines[:kept]).astype(np.float32)


def _moved(spectra: Array, mel: MelConfig, factor: float) -> Array:
    """(S, M) -> (S, M), with what was at frequency f at f * factor; the edges go on as they are."""
    if factor == 1.0:
        return spectra
    centres = mel_centres(mel)
    place = np.interp(centres / factor, centres, np.arange(len(centres), dtype=np.float64))
    return _between(spectra.T, place).T


def _between(rows: Array, place: npt.NDArray[np.float64]) -> Array:
    """Rows at fractional places: (n, D) and (m,) within [0, n - 1] -> (m, D)."""
    low = np.minimum(place.astype(np.int64), max(0, len(rows) - 2))
    high = np.minimum(low + 1, len(rows) - 1)
    share = (place - low).astype(np.float32)[:, None]
    return rows[low] * (1.0 - share) + rows[high] * share
