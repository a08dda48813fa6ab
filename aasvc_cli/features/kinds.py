"""Every kind of feature: how it is computed, and which settings decide its values."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aasvc_cli.audio.mel import Array, checked_mono, log_mel, n_frames
from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.errors import MissingExtraError
from aasvc_cli.features.content import content_feature, content_settings

_POWER_FLOOR = 1e-12
"""Added to WORLD's power envelope (about -120 dB of a full-scale signal), which is all but zero in digital silence."""


def mcep(wave: Array, config: FeatureConfig) -> Array:
    """Mel-cepstrum of WORLD's spectral envelope, at the frame times of :func:`log_mel`.

    F0 by DIO and StoneMask, envelope by CheapTrick with the FFT size that the lowest F0 needs at this sample rate, and
    frequency warping that follows the mel scale at this sample rate.

    Args:
        wave: (n,) float32 at ``config.mel.sample_rate``

    Returns:
        (T, order + 1) float32, c0 first, with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all.
        MissingExtraError: pyworld or pysptk cannot be loaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both import pkg_resources, which says that it is deprecated
            import pysptk
            import pyworld
    except ImportError as error:
        raise MissingExtraError(
            f"the feature mcep needs pyworld and pysptk ({error}); run: pip install pyworld pysptk 'setuptools<82'"
        ) from None
    sample_rate, hop_length, settings = config.mel.sample_rate, config.mel.hop_length, config.mcep
    signal = checked_mono(wave).astype(np.float64)
    count = n_frames(len(signal), hop_length)
    f0_ceil = min(settings.f0_ceil, sample_rate / 2 - 1)
    rough, times = pyworld.dio(
        signal, sample_rate, f0_floor=settings.f0_floor, f0_ceil=f0_ceil, frame_period=1000 * hop_length / sample_rate
    )
    # WORLD counts frames in floating point, so it may be one off at either side
    f0, exact_times = np.zeros(count), np.arange(count) * (hop_length / sample_rate)
    shared = min(count, len(rough))
    f0[:shared] = pyworld.stonemask(signal, rough, times, sample_rate)[:shared]
    fft_size = pyworld.get_cheaptrick_fft_size(sample_rate, settings.f0_floor)
    envelope = pyworld.cheaptrick(
        signal, f0, exact_times, sample_rate, f0_floor=settings.f0_floor, fft_size=fft_size
    )  # (T, fft_size // 2 + 1), power
    cepstrum = pysptk.sp2mc(envelope + _POWER_FLOOR, settings.order, pysptk.util.mcepalpha(sample_rate))
    return np.ascontiguousarray(cepstrum, dtype=np.float32)


def f0(wave: Array, config: FeatureConfig) -> Array:
    """Fundamental frequency at the frame times of :func:`log_mel`, by Harvest.

    Harvest also follows the pitch where a voice fades in and out, which DIO does not.

    Args:
        wave: (n,) float32 at ``config.mel.sample_rate``

    Returns:
        (T, 1) float32 in Hz, 0 where unvoiced, with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all.
    """
    from aasvc_cli.audio.harvest import harvest

    signal, settings, mel = checked_mono(wave).astype(np.float64), config.mcep, config.mel
    found, _ = harvest(
        signal,
        mel.sample_rate,
        f0_min=settings.f0_floor,
        f0_max=min(settings.f0_ceil, mel.sample_rate / 2 - 1),
        frame_period=1000 * mel.hop_length / mel.sample_rate,
    )
    # frames are counted in floating point there, so it may be one off at the end
    result = np.zeros(n_frames(len(signal), mel.hop_length), dtype=np.float32)
    shared = min(len(result), len(found))
    result[:shared] = found[:shared]
    return result[:, None]


@dataclass(frozen=True)
class FeatureSpec:
    """How one kind of feature is computed, and which settings decide its values."""

    compute: Callable[[Array, FeatureConfig], Array]
    settings: Callable[[FeatureConfig], Mapping[str, Any]]
    version: int = 1
    """Counted up when the values change under the same settings."""


def _mel_settings(config: FeatureConfig) -> dict[str, Any]:
    mel = config.mel
    return asdict(mel) | {
        "win_length": mel.win_length or mel.n_fft,
        "fmax": mel.fmax if mel.fmax is not None else mel.sample_rate / 2,
    }


def _mcep_settings(config: FeatureConfig) -> dict[str, Any]:
    return asdict(config.mcep) | {"sample_rate": config.mel.sample_rate, "hop_length": config.mel.hop_length}


FEATURES: dict[str, FeatureSpec] = {
    "mel": FeatureSpec(lambda wave, config: log_mel(wave, config.mel), _mel_settings),
    "mcep": FeatureSpec(mcep, _mcep_settings),
    "content": FeatureSpec(content_feature, content_settings),
    "f0": FeatureSpec(f0, _mcep_settings),
}
"""All kinds of features. A new kind is one more entry."""


def extract(kind: str, wave: Array, config: FeatureConfig) -> Array:
    """One feature of a recording at ``config.mel.sample_rate``: (n,) -> (T, D) float32."""
    return FEATURES[kind].compute(wave, config)


def feature_key(kind: str, config: FeatureConfig) -> str:
    """12 hexadecimal digits of everything that decides the values of a feature.

    Settings that mean the same (``fmax: null`` and half the sample rate) have the same key.
    """
    spec = FEATURES[kind]
    told = json.dumps({"kind": kind, "version": spec.version} | dict(spec.settings(config)), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


SIDES = ("source", "target", "duration")
"""The three inputs that a model normalises."""


def feature_keys(config: FeatureConfig) -> dict[str, str]:
    """:func:`feature_key` of the features on the three sides of a model."""
    return {side: feature_key(getattr(config, side), config) for side in SIDES}
