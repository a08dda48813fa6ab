"""The kinds of feature: what each one is called, how it is computed, and which settings decide its values.

A new kind is one entry of :data:`KINDS`. The command line, the schema of configurations, the reading of published
files, ``prepare``, training, conversion and ``doctor`` take it from there.

Nothing heavy is imported before a feature is computed, as the command line reads the names.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aasvc_cli.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from aasvc_cli.audio.mel import Array
    from aasvc_cli.config.settings import Config, FeatureConfig

    Extractor = Callable[[Array, FeatureConfig], Array]
    Settings = Callable[[FeatureConfig], Mapping[str, Any]]

SIDES = ("source", "target", "duration")
"""The three inputs that a model normalises."""
LEAST_WIDTH = 7
"""Channels that the two strided convolutions of the duration branch take at least."""
FOLDER = "folder"
"""The kind that is not computed here but read (:mod:`aasvc_cli.features.folder`)."""
_POWER_FLOOR = 1e-12
"""Added to WORLD's power envelope (about -120 dB of a full-scale signal), which is all but zero in digital silence."""


def mel(wave: Array, config: FeatureConfig) -> Array:
    """Log-mel spectrogram (:func:`aasvc_cli.audio.mel.log_mel`): (n,) -> (T, n_mels)."""
    from aasvc_cli.audio.mel import log_mel

    return log_mel(wave, config.mel)


def mcep(wave: Array, config: FeatureConfig) -> Array:
    """Mel-cepstrum of WORLD's spectral envelope, at the frame times of :func:`log_mel`.

    F0 by DIO and StoneMask, envelope by CheapTrick with the FFT size that the lowest F0 needs at this sample rate, and
    frequency warping that follows the mel scale at this sample rate.

    Args:
        wave: (n,) float32 at ``config.mel.sample_rate``

    Returns:
        (T, order + 1) float32, c0 first, with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all, or a sample rate that WORLD cannot take.
    """
    import numpy as np

    from aasvc_cli.audio.f0 import dio, frame_times, with_length
    from aasvc_cli.audio.mel import checked_mono, n_frames
    from aasvc_cli.audio.world import checked_signal, spectral_envelope, sptk, world

    sample_rate, hop_length, settings = config.mel.sample_rate, config.mel.hop_length, config.mcep
    signal = checked_signal(checked_mono(wave), sample_rate)
    count = n_frames(len(signal), hop_length)
    frame_period = 1000.0 * hop_length / sample_rate
    contour = dio(signal, sample_rate, **_f0_range(config), frame_period=frame_period)
    envelope = spectral_envelope(
        signal,
        with_length(contour, count),
        frame_times(count, frame_period),
        sample_rate,
        fft_size=world().get_cheaptrick_fft_size(sample_rate, settings.f0_floor),
        f0_floor=settings.f0_floor,
    )  # (T, fft_size // 2 + 1), power
    cepstrum = sptk().sp2mc(envelope + _POWER_FLOOR, settings.order, sptk().util.mcepalpha(sample_rate))
    return np.ascontiguousarray(cepstrum, dtype=np.float32)


def f0(wave: Array, config: FeatureConfig) -> Array:
    """Fundamental frequency at the frame times of :func:`log_mel`, by Harvest.

    Harvest also follows the pitch where a voice fades in and out, which DIO does not.

    Args:
        wave: (n,) float32 at ``config.mel.sample_rate``

    Returns:
        (T, 1) float32 in Hz, 0 where unvoiced, with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all, or a sample rate that WORLD cannot take.
    """
    import numpy as np

    from aasvc_cli.audio.f0 import harvest, with_length
    from aasvc_cli.audio.mel import checked_mono, n_frames

    signal, mel = checked_mono(wave), config.mel
    frame_period = 1000.0 * mel.hop_length / mel.sample_rate
    contour = harvest(signal, mel.sample_rate, **_f0_range(config), frame_period=frame_period)
    return with_length(contour, n_frames(len(signal), mel.hop_length)).astype(np.float32)[:, None]


def _f0_range(config: FeatureConfig) -> dict[str, float]:
    return {"f0_min": config.mcep.f0_floor, "f0_max": min(config.mcep.f0_ceil, config.mel.sample_rate / 2 - 1)}


def content(wave: Array, config: FeatureConfig) -> Array:
    """What is said, independent of the speaker (:func:`aasvc_cli.features.content.content`): (n,) -> (T, D)."""
    from aasvc_cli.features.content import content

    return content(wave, config.mel.sample_rate)


def content_f0(wave: Array, config: FeatureConfig) -> Array:
    """The same with log-F0 and voicing (:func:`aasvc_cli.features.content.content_f0`): (n,) -> (T, D + 2)."""
    from aasvc_cli.features.content import content_f0

    return content_f0(wave, config.mel.sample_rate)


def whisper(wave: Array, config: FeatureConfig) -> Array:
    """What Whisper's encoder writes (:class:`aasvc_cli.features.whisper.WhisperEncoder`): (n,) -> (T, D).

    Raises:
        ConfigError: it has another number of channels than the configuration says.
    """
    from aasvc_cli.features.whisper import whisper_encoder

    settings = config.whisper
    frames = whisper_encoder(settings.model)(wave, config.mel.sample_rate)
    if frames.shape[1] != settings.channels:
        raise ConfigError(
            f"Whisper {settings.model}", [f"has {frames.shape[1]} channels; set features.whisper.channels to that"]
        )
    return frames


def whisper_f0(wave: Array, config: FeatureConfig) -> Array:
    """``content_f0`` by Whisper base (:func:`aasvc_cli.features.content.taught_f0`): (n,) -> (T, D + 2).

    Raises:
        ConfigError: the configuration names another Whisper model.
    """
    from aasvc_cli.features.content import taught_f0
    from aasvc_cli.features.whisper import whisper_encoder

    return taught_f0(wave, config.mel.sample_rate, whisper_encoder(config.whisper.model))


def _speech_encoder(name: str) -> FeatureKind:
    """A kind that an encoder of torchaudio computes (:class:`aasvc_cli.features.speech_encoders.SpeechEncoder`)."""

    def layer_of(wave: Array, config: FeatureConfig) -> Array:
        from aasvc_cli.features.speech_encoders import speech_encoder

        return speech_encoder(name)(wave, config.mel.sample_rate, config.speech_encoder.layer)

    def width(_: FeatureConfig) -> int:
        from aasvc_cli.features.speech_encoders import CHANNELS

        return CHANNELS

    def settings(config: FeatureConfig) -> dict[str, Any]:
        from aasvc_cli.features.speech_encoders import PADDING_SAMPLES, weights_of

        mel = config.mel
        return {
            "weights": weights_of(name),
            "layer": config.speech_encoder.layer,
            "padding": PADDING_SAMPLES,
            "sample_rate": mel.sample_rate,
            "hop_length": mel.hop_length,
        }

    return FeatureKind(
        extract=layer_of,
        width=width,
        settings=settings,
        frames_per_second=lambda _: 50.0,
        packages=("torchaudio",),
        speaker_independent=True,
    )


def folder(_: Array, config: FeatureConfig) -> Array:
    """Cannot be computed from samples; raises DataError."""
    raise DataError(
        f"the features {config.folder.name or 'from a folder'} are written by another program and have to be given "
        "with the recording"
    )


@dataclass(frozen=True, kw_only=True)
class FeatureKind:
    """One kind of feature.

    Attributes:
        extract: computes it from a recording at ``config.mel.sample_rate``: (n,) -> (T, D) float32; packages that not
            everybody has are imported inside
        width: D, the number of channels
        settings: what decides the values, JSON-able; part of the name under which features are stored
        frames_per_second: frames of ``extract`` per second, the first one at time 0; None for those of the mel. Others
            are interpolated to the mel's frames.
        stored: further settings that tell stored features apart, but not the voices trained on them
        packages: modules that ``extract`` imports beyond numpy
        extra: the extra of this package that installs them
        for_models: whether a model can be trained on it
        speaker_independent: whether it says what is said, and little of who says it
        melody: whether its last two channels are log-F0 around its mean, and voicing
        check: looks before any recording is read whether ``extract`` can work; raises what it does
        reads_as: the kind whose channels mean the same, so that a model of one reads the other; None for itself
        version: counted up when the values change under the same settings
    """

    extract: Extractor
    width: Callable[[FeatureConfig], int]
    settings: Settings
    frames_per_second: Callable[[FeatureConfig], float] | None = None
    stored: Callable[[FeatureConfig], Mapping[str, Any]] = lambda _: {}
    packages: tuple[str, ...] = ()
    extra: str | None = None
    for_models: bool = True
    speaker_independent: bool = False
    melody: bool = False
    reads_as: str | None = None
    check: Callable[[FeatureConfig], None] = lambda _: None
    version: int = 1


def _mel_settings(config: FeatureConfig) -> dict[str, Any]:
    mel = config.mel
    return asdict(mel) | {
        "win_length": mel.win_length or mel.n_fft,
        "fmax": mel.fmax if mel.fmax is not None else mel.sample_rate / 2,
    }


def _world_settings(config: FeatureConfig) -> dict[str, Any]:
    return asdict(config.mcep) | {"sample_rate": config.mel.sample_rate, "hop_length": config.mel.hop_length}


def _content_settings(config: FeatureConfig) -> dict[str, Any]:
    from aasvc_cli.features.content import weights_identity

    mel = config.mel
    return {"weights": weights_identity(), "sample_rate": mel.sample_rate, "hop_length": mel.hop_length}


def _content_f0_settings(config: FeatureConfig) -> dict[str, Any]:
    from aasvc_cli.features.content import melody_identity

    return _content_settings(config) | {"melody_weights": melody_identity()}


def _whisper_settings(config: FeatureConfig) -> dict[str, Any]:
    from aasvc_cli.features.whisper import PADDING_SECONDS, weights_of

    mel = config.mel
    return {
        "weights": weights_of(config.whisper.model),
        "padding": PADDING_SECONDS,
        "sample_rate": mel.sample_rate,
        "hop_length": mel.hop_length,
    }


def _check_whisper(config: FeatureConfig) -> None:
    from aasvc_cli.features.whisper import whisper_encoder

    whisper_encoder(config.whisper.model)


def _check_whisper_base(config: FeatureConfig) -> None:
    from aasvc_cli.features.content import check_teacher
    from aasvc_cli.features.whisper import whisper_encoder

    check_teacher(whisper_encoder(config.whisper.model), config.whisper.model)


def _whisper_f0_settings(config: FeatureConfig) -> dict[str, Any]:
    from aasvc_cli.features.content import melody_identity, projection_identity

    return _whisper_settings(config) | {"channels": projection_identity(), "melody_weights": melody_identity()}


def _folder_settings(config: FeatureConfig) -> dict[str, Any]:
    given, mel = config.folder, config.mel
    return {
        "name": given.name,
        "channels": given.channels,
        "sample_rate": mel.sample_rate,
        "hop_length": mel.hop_length,
    }


def _content_kind(name: str, extract: Extractor, settings: Settings, **more: Any) -> FeatureKind:
    """A kind with the channels of the bundled encoders."""

    def width(_: FeatureConfig) -> int:
        from aasvc_cli.features.content import ENCODED

        return ENCODED[name]

    return FeatureKind(
        extract=extract,
        width=width,
        settings=settings,
        frames_per_second=lambda _: 50.0,
        speaker_independent=True,
        **more,
    )


KINDS: dict[str, FeatureKind] = {
    "mel": FeatureKind(extract=mel, width=lambda config: config.mel.n_mels, settings=_mel_settings),
    "mcep": FeatureKind(
        extract=mcep,
        width=lambda config: config.mcep.order + 1,
        settings=_world_settings,
        packages=("pyworld", "pysptk"),
    ),
    "content": _content_kind("content", content, _content_settings),
    "content_f0": _content_kind("content_f0", content_f0, _content_f0_settings, melody=True),
    "whisper": FeatureKind(
        extract=whisper,
        width=lambda config: config.whisper.channels,
        settings=_whisper_settings,
        frames_per_second=lambda _: 50.0,
        packages=("faster_whisper",),
        speaker_independent=True,
        extra="asr",
        check=_check_whisper,
    ),
    "whisper_f0": _content_kind(
        "content_f0",
        whisper_f0,
        _whisper_f0_settings,
        packages=("faster_whisper",),
        melody=True,
        reads_as="content_f0",
        check=_check_whisper_base,
        extra="asr",
    ),
    "hubert": _speech_encoder("hubert"),
    "wavlm": _speech_encoder("wavlm"),
    "wav2vec2": _speech_encoder("wav2vec2"),
    FOLDER: FeatureKind(
        extract=folder,
        width=lambda config: config.folder.channels or 0,
        settings=_folder_settings,
        frames_per_second=lambda config: config.folder.frames_per_second or config.mel.frames_per_second,
        stored=lambda config: {"path": config.folder.path, "frames_per_second": config.folder.frames_per_second},
    ),
    "f0": FeatureKind(extract=f0, width=lambda _: 1, settings=_world_settings, packages=("pyworld",), for_models=False),
}
"""All kinds of feature by name. A new kind is one more entry."""


def model_kinds() -> list[str]:
    """Names of the kinds that a model can be trained on."""
    return [name for name, kind in KINDS.items() if kind.for_models]


def feature_faults(config: Config) -> list[str]:
    """What is wrong with the features of a configuration, by key: names of no kind, widths that the model contradicts.

    ``config.reading.parse_config`` takes it as a further check.
    """
    faults = []
    for side in SIDES:
        name, dim = getattr(config.features, side), getattr(config.model, f"{side}_dim")
        if name not in model_kinds():
            near = difflib.get_close_matches(name, model_kinds(), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            faults.append(
                f"features.{side}: {name!r} is no kind of feature; {hint}known are {', '.join(model_kinds())}, or a "
                "folder of your own features"
            )
        elif name == FOLDER and config.features.folder.channels is None:
            faults.append(f"features.{side}: no folder of features is given; use --src-feat DIR")
        elif side == "duration" and config.model.duration_input == "feature" and _width(name, config) < LEAST_WIDTH:
            faults.append(
                f"features.duration: {name} has {_width(name, config)} channels, fewer than the {LEAST_WIDTH} that "
                "model.duration_input: feature takes; use tokens"
            )
        elif dim is not None and dim != (width := feature_width(name, config.features)):
            faults.append(
                f"model.{side}_dim: {dim}, but features.{side} is {name} with {width} channels; leave it out or make "
                "them agree"
            )
    return faults


def _width(name: str, config: Config) -> int:
    return feature_width(name, config.features)


def with_widths(config: Config, origin: str = "configuration") -> Config:
    """A configuration with what the model has to know of its features written into it: widths, and whether the source
    has a melody to be left unheard.

    Raises:
        ConfigError: see :func:`feature_faults`.
    """
    faults = feature_faults(config)
    if faults:
        raise ConfigError(origin, faults)
    features = config.features
    model = dataclasses.replace(
        config.model,
        source_dim=feature_width(features.source, features),
        target_dim=feature_width(features.target, features),
        duration_dim=feature_width(features.duration, features),
        source_melody=config.model.source_melody or not KINDS[features.source].melody,
    )
    return dataclasses.replace(config, model=model)


def feature_width(name: str, config: FeatureConfig) -> int:
    """Channels of a kind of feature."""
    return KINDS[name].width(config)


def extract(name: str, wave: Array, config: FeatureConfig, given: tuple[Array, float] | None = None) -> Array:
    """One feature of a recording at the frame times of the mel.

    Args:
        wave: (n,) float32 at ``config.mel.sample_rate``
        given: for the kind ``folder``, what was read for these samples: (T', D) and its frames per second

    Returns:
        (T, D) float32 with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all, a sample rate that WORLD cannot take, or nothing given where it has to be.
        MissingExtraError: a package that this kind needs cannot be imported.
    """
    from aasvc_cli.audio.mel import n_frames

    feature, rate = extract_as_is(name, wave, config, given)
    if rate is None:
        return feature
    return at_frames(feature, rate, n_frames(len(wave), config.mel.hop_length), config.mel.frames_per_second)


def extract_as_is(
    name: str, wave: Array, config: FeatureConfig, given: tuple[Array, float] | None = None
) -> tuple[Array, float | None]:
    """The same at its own frame rate, which is given beside it; None for that of the mel."""
    kind = KINDS[name]
    if name == FOLDER and given is not None:
        return given
    try:
        feature = kind.extract(wave, config)
    except ImportError as error:
        raise _missing(name, str(error)) from None
    return feature, None if kind.frames_per_second is None else kind.frames_per_second(config)


def _missing(name: str, reason: str) -> MissingExtraError:
    kind = KINDS[name]
    install = f"'aasvc[{kind.extra}]'" if kind.extra else " ".join(kind.packages)
    return MissingExtraError(
        f"the feature {name} needs {' and '.join(kind.packages)} ({reason}); run: pip install {install}"
    )


def at_frames(feature: Array, frame_rate: float, n_frames: int, wanted_rate: float) -> Array:
    """A feature at other frame times, linearly interpolated; the last frame is held: (T, D) -> (n_frames, D)."""
    import numpy as np

    places = np.minimum(np.arange(n_frames) * (frame_rate / wanted_rate), len(feature) - 1.0)
    left = places.astype(np.int64)
    right = np.minimum(left + 1, len(feature) - 1)
    share = (places - left).astype(np.float32)[:, None]
    interpolated: Array = (feature[left] * (1 - share) + feature[right] * share).astype(np.float32)
    return interpolated


def unavailable_kinds() -> dict[str, str]:
    """Kinds whose extra is not installed, with the extra's name."""
    return {
        name: kind.extra
        for name, kind in KINDS.items()
        if kind.extra and any(importlib.util.find_spec(package) is None for package in kind.packages)
    }


def check_kinds(config: FeatureConfig) -> None:
    """Look for what the features of a model need before any recording is looked at.

    Raises:
        MissingExtraError: the extra of a kind is not installed.
        DataError: the weights of an encoder are not there and cannot be downloaded.
    """
    for name in sorted({getattr(config, side) for side in SIDES} & unavailable_kinds().keys()):
        raise _missing(name, "not installed")
    feature_keys(config)
    for name in sorted({getattr(config, side) for side in SIDES}):
        KINDS[name].check(config)


def from_anywhere(config: FeatureConfig) -> FeatureConfig:
    """The same settings with absolute folders, as what is prepared in one working directory is used from others.

    Raises:
        DataError: a part of the Whisper model is missing in its folder.
    """
    folder, whisper = config.folder, config.whisper
    if folder.path is not None:
        folder = dataclasses.replace(folder, path=os.path.abspath(os.path.expanduser(folder.path)))
    if any("faster_whisper" in KINDS[getattr(config, side)].packages for side in SIDES):
        from aasvc_cli.features.whisper import lasting_name

        whisper = dataclasses.replace(whisper, model=lasting_name(whisper.model))
    return dataclasses.replace(config, folder=folder, whisper=whisper)


def feature_key(name: str, config: FeatureConfig) -> str:
    """12 hexadecimal digits of everything that decides the values of a feature.

    Settings that mean the same (``fmax: null`` and half the sample rate) have the same key.
    """
    kind = KINDS[name]
    return _digest({"kind": name, "version": kind.version} | dict(kind.settings(config)))


def storage_key(name: str, config: FeatureConfig) -> str:
    """The same for stored features; those of two folders are kept apart, even where a voice takes either."""
    kind = KINDS[name]
    return _digest({"kind": name, "version": kind.version} | dict(kind.settings(config)) | dict(kind.stored(config)))


def _digest(described: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def encoder_hint(name: str, config: FeatureConfig) -> str:
    """What may differ where the settings of a feature do not: an end for a message, empty for most kinds."""
    if "faster_whisper" not in KINDS[name].packages:
        return ""
    return (
        f"; or Whisper {config.whisper.model} is another model than then, and features.whisper.model has to name that"
    )


def feature_keys(config: FeatureConfig) -> dict[str, str]:
    """:func:`feature_key` of the features on the three sides of a model."""
    return {side: feature_key(getattr(config, side), config) for side in SIDES}


def readable_keys(config: FeatureConfig) -> dict[str, str]:
    """Keys of what the channels mean, by side: models with equal ones can read each other's features."""
    kinds = {side: getattr(config, side) for side in SIDES}
    return {side: feature_key(KINDS[kind].reads_as or kind, config) for side, kind in kinds.items()}
