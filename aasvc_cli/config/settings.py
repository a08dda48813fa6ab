"""The configuration as frozen dataclasses, one per section.

The annotations carry ranges for :mod:`aasvc_cli.config.reading`, which reads settings from files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

DEFAULT_PRESET = "small"
UNNAMED = "custom"
"""Name of a configuration that has none; a file's own name takes its place."""


MOST = 10**9
"""Bound of whole numbers: the product of two of them still fits into 64 bits."""


@dataclass(frozen=True)
class Limits:
    """The range of a setting, both ends included.

    Whole numbers and booleans are taken only as such; text such as ``8e-5`` is a number, as some YAML libraries read
    it, but ``on`` and ``yes`` are not. pydantic asks for it when settings are read from a file; nothing loads pydantic
    before that, as a conversion without torch would spend a sixth of its time on it.
    """

    ge: float | None = None
    le: float | None = None
    gt: float | None = None

    def __get_pydantic_core_schema__(self, kind: Any, inner: Callable[[Any], Any]) -> Any:
        """How pydantic checks a value of this kind."""
        limits = {name: limit for name, limit in vars(self).items() if limit is not None}
        if kind is not float:
            return inner(kind) | limits | {"strict": True}
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(_no_boolean, inner(kind) | limits)


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("float_type", "Input should be a valid number")
    return value


Flag = Annotated[bool, Limits()]
Count = Annotated[int, Limits(1, MOST)]
Natural = Annotated[int, Limits(0, MOST)]
Layers = Annotated[int, Limits(1, 1000)]
"""Each becomes an object, so there is a bound far below :data:`MOST`."""
NonNegative = Annotated[float, Limits(0.0)]
Share = Annotated[float, Limits(0.0, 1.0)]
Dropout = Annotated[float, Limits(0.0, 0.95)]
Decay = Annotated[float, Limits(0.0, 0.999999)]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the configuration; pydantic checks types and ranges when it is read from a file."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    def faults(self) -> list[str]:
        """Inconsistent values, one sentence each, which begins with the key."""
        return []


MEMORY_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
TIME_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def parse_memory(text: str) -> int:
    """Bytes of a size like ``8GB``, ``500MB`` or ``7.5GiB``; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text, re.IGNORECASE)
    if match is None or match[2].upper() not in MEMORY_UNITS or float(match[1]) == 0:
        raise ValueError(f"{text!r} is no amount of memory; write it like 8GB or 500MB")
    return int(float(match[1]) * MEMORY_UNITS[match[2].upper()])


def parse_time(text: str) -> float:
    """Seconds of a time like ``2h``, ``1h30m``, ``45m`` or ``3600``; raises ValueError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms]?)", text.strip().lower())
    whole = re.sub(r"\s", "", "".join(number + unit for number, unit in parts))
    seconds = sum(float(number) * TIME_UNITS[unit or "s"] for number, unit in parts)
    units = [unit for _, unit in parts]
    ordered = sorted(set(units), key="dhms".find) == units and ("" not in units or len(units) == 1)
    if not parts or whole != re.sub(r"\s", "", text.lower()) or not ordered or seconds == 0:
        raise ValueError(f"{text!r} is no length of time; write it like 2h, 90m or 1h30m")
    return seconds


@dataclass(frozen=True, kw_only=True)
class MelConfig(Section):
    """Log-mel analysis, as in the published recipe (librosa's Slaney filters, magnitude spectrum, reflect padding)."""

    sample_rate: Annotated[int, Limits(4000, 192000)] = 24000
    n_fft: Annotated[int, Limits(16, 65536)] = 1024
    hop_length: Count = 256
    win_length: Annotated[int, Limits(2, MOST)] | None = None
    """Samples of the Hann window; ``null`` means ``n_fft``."""
    n_mels: Annotated[int, Limits(4, 512)] = 80
    fmin: NonNegative = 0.0
    fmax: NonNegative | None = None
    """Upper edge of the highest band in Hz; ``null`` means half the sample rate."""
    log_base: Annotated[float, Limits(1.0)] | None = 10.0
    """10, 2, or ``null`` for the natural logarithm."""

    def faults(self) -> list[str]:
        """Inconsistent values."""
        faults = []
        if self.win_length is not None and self.win_length > self.n_fft:
            faults.append(f"win_length: {self.win_length} is longer than n_fft {self.n_fft}")
        if self.n_fft % 2:
            faults.append(f"n_fft: {self.n_fft} is odd; a centred spectrum needs an even size")
        if self.hop_length > self.n_fft:
            faults.append(f"hop_length: {self.hop_length} is longer than n_fft {self.n_fft}")
        top = self.fmax if self.fmax is not None else self.sample_rate / 2
        if top > self.sample_rate / 2:
            faults.append(f"fmax: {top:g} Hz is above half the sample rate, {self.sample_rate / 2:g} Hz")
        if self.fmin >= top:
            faults.append(f"fmin: {self.fmin:g} Hz is not below fmax, {top:g} Hz")
        if self.log_base is not None and self.log_base == 1.0:
            faults.append("log_base: 1 has no logarithm; use 10, 2 or null")
        return faults

    @property
    def frames_per_second(self) -> float:
        """Frames per second of every feature computed with these settings."""
        return self.sample_rate / self.hop_length


@dataclass(frozen=True, kw_only=True)
class McepConfig(Section):
    """Mel-cepstrum from the WORLD envelope, at the frame rate of :class:`MelConfig`."""

    order: Annotated[int, Limits(1, 200)] = 39
    f0_floor: Annotated[float, Limits(10.0)] = 71.0
    f0_ceil: Annotated[float, Limits(20.0)] = 800.0

    def faults(self) -> list[str]:
        """Inconsistent values."""
        if self.f0_floor >= self.f0_ceil:
            return [f"f0_floor: {self.f0_floor:g} Hz is not below f0_ceil, {self.f0_ceil:g} Hz"]
        return []


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(Section):
    """The recogniser whose encoder the features ``whisper`` and ``whisper_f0`` take."""

    model: str = "base"
    """A Whisper model, by name, which faster-whisper downloads once, or the folder of one."""
    channels: Count = 512
    """Of its encoder: 384 of tiny, 512 of base, 768 of small, 1024 of medium, 1280 of large."""


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig(Section):
    """What the features ``hubert``, ``wavlm`` and ``wav2vec2`` take of their encoder."""

    layer: Annotated[int, Limits(1, 12)] = 9
    """Counted from 1, the one nearest to the sound; the base models have 12."""


@dataclass(frozen=True, kw_only=True)
class FolderConfig(Section):
    """Features that another program writes, the kind ``folder`` (``--src-feat DIR``)."""

    path: str | None = None
    """A folder with ``features.json`` and one ``.npy`` for each recording."""
    name: str | None = None
    """What they are; like the two below, what ``features.json`` says."""
    channels: Count | None = None
    frames_per_second: Annotated[float, Limits(gt=0.0, le=10000.0)] | None = None
    """``null``: as many as the mel has."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(Section):
    """The features that each side of the model takes (``--src-feat``, ``--trg-feat``, ``--dp-feat`` of the recipe).

    ``aasvc_cli.features.kinds`` knows the kinds and their widths.
    """

    source: str = "mel"
    target: str = "mel"
    duration: str = "mel"
    """Input of the duration predictor, computed from the source recording."""
    trim: Flag = False
    """``prepare`` leaves the silence at both ends of the recordings out (published: no)."""
    mel: MelConfig = field(default_factory=MelConfig)
    mcep: McepConfig = field(default_factory=McepConfig)
    whisper: WhisperConfig = field(default_factory=WhisperConfig)
    speech_encoder: SpeechEncoderConfig = field(default_factory=SpeechEncoderConfig)
    folder: FolderConfig = field(default_factory=FolderConfig)

    def faults(self) -> list[str]:
        """Inconsistent values."""
        return [] if self.target == "mel" else ["target: only mel can be turned into a waveform; use mel"]


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Sizes of one conformer stack: what the keys ``encoder_...`` or ``decoder_...`` of :class:`ModelConfig` say."""

    layers: int
    width: int
    hidden: int
    n_heads: int
    kernel: int
    dropout: float
    positional_dropout: float
    attention_dropout: float


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """Sizes of the AAS-VC network. The defaults are the published Hi-Fi-CAPTAIN sizes, behaviour included."""

    source_dim: Count | None = None
    """Channels of the source feature; ``null`` takes the width of ``features.source``."""
    target_dim: Count | None = None
    duration_dim: Count | None = None
    width: Annotated[int, Limits(2, MOST)] = 384
    """Width of the encoder; the decoder is ``frames_per_token`` times as wide."""
    n_heads: Count = 2
    encoder_layers: Layers = 4
    decoder_layers: Layers = 4
    encoder_hidden: Count = 1536
    decoder_hidden: Count = 1536
    encoder_kernel: Count = 15
    decoder_kernel: Count = 15
    source_melody: Flag = True
    """Hear the intonation of the source, where its feature has it beside what is said (``content_f0``); else the
    target's is found from what is said alone."""
    frames_per_token: Count = 4
    """Source frames stacked after the encoder: the reduction factor of the published recipe."""
    encoder_dropout: Dropout = 0.2
    encoder_positional_dropout: Dropout = 0.2
    encoder_attention_dropout: Dropout = 0.2
    decoder_dropout: Dropout = 0.2
    decoder_positional_dropout: Dropout = 0.2
    decoder_attention_dropout: Dropout = 0.2
    postnet_layers: Annotated[int, Limits(0, 1000)] = 5
    postnet_channels: Count = 256
    postnet_kernel: Count = 5
    postnet_dropout: Dropout = 0.5
    duration_predictor: Literal["stochastic", "deterministic", "poisson"] = "stochastic"
    """``stochastic`` and ``deterministic`` are the published ones: flows, and regression of log-durations. Both aim at
    typical durations, which cuts pauses: the search gives a whole pause to one of its tokens, so a typical token of a
    pause is short. ``poisson`` regresses the expected duration, whose sum over a pause is right."""
    duration_input: Literal["feature", "tokens"] = "feature"
    """``feature``: a convolution branch on ``features.duration``; ``tokens``: the encoder's own output."""
    duration_layers: Layers = 2
    duration_channels: Count = 256
    duration_kernel: Count = 3
    duration_dropout: Dropout = 0.1
    flow_count: Annotated[int, Limits(2, 1000)] = 4
    flow_layers: Layers = 3
    flow_kernel: Count = 3
    flow_dropout: Dropout = 0.5
    pitch_predictor: Flag = False
    """Predict F0 and voicing of the target, and tell them to the decoder, whose mels are sharper for it. Only with the
    mels of preset ``small``, from which the universal vocoder can read them."""
    pitch_layers: Layers = 3
    pitch_channels: Count = 96
    pitch_kernel: Count = 9
    pitch_dropout: Dropout = 0.3
    noise_scale: Annotated[float, Limits(0.0, 5.0)] = 0.8
    """Standard deviation of the noise that the stochastic predictor draws at conversion."""
    duration_rounding: Literal["ceil", "nearest", "cumulative"] = "ceil"
    """``ceil`` and ``nearest`` are the published ways of the stochastic and of the deterministic predictor;
    ``cumulative`` rounds the running sum, so that the total is right."""
    max_duration: Count | None = 10
    """Longest duration of one token in target frames at conversion (published: 10, which shortens pauses);
    ``null`` for no limit."""
    mask_padding: Flag = False
    """Keep padding out of convolutions, batch norms, resampling and the decoder, so that the result of an utterance
    does not depend on its batch. The published code lets it leak in."""

    def faults(self) -> list[str]:
        """Inconsistent values."""
        faults = []
        if self.width % self.n_heads:
            faults.append(f"width: {self.width} is not divisible by n_heads {self.n_heads}")
        if self.width % 2:
            faults.append(f"width: {self.width} is odd; positional encoding needs an even width")
        kernels = ("encoder", "decoder", "postnet", "duration", "flow", "pitch")
        faults += [
            f"{name}_kernel: {getattr(self, name + '_kernel')} is even; a centred convolution needs an odd kernel"
            for name in kernels
            if getattr(self, f"{name}_kernel") % 2 == 0
        ]
        if self.duration_predictor == "stochastic" and self.duration_rounding != "ceil":
            # it learns durations less a random fraction of a frame, which only rounding up undoes
            faults.append(f"duration_rounding: {self.duration_rounding} shortens stochastic durations; use ceil")
        return faults

    @property
    def decoder_width(self) -> int:
        """Width of tokens, aligner and decoder."""
        return self.width * self.frames_per_token

    @property
    def encoder(self) -> StackConfig:
        """The encoder's sizes."""
        return StackConfig(
            layers=self.encoder_layers,
            width=self.width,
            hidden=self.encoder_hidden,
            n_heads=self.n_heads,
            kernel=self.encoder_kernel,
            dropout=self.encoder_dropout,
            positional_dropout=self.encoder_positional_dropout,
            attention_dropout=self.encoder_attention_dropout,
        )

    @property
    def decoder(self) -> StackConfig:
        """The decoder's sizes."""
        return StackConfig(
            layers=self.decoder_layers,
            width=self.decoder_width,
            hidden=self.decoder_hidden,
            n_heads=self.n_heads,
            kernel=self.decoder_kernel,
            dropout=self.decoder_dropout,
            positional_dropout=self.decoder_positional_dropout,
            attention_dropout=self.decoder_attention_dropout,
        )

    def n_tokens(self, source_frames: int) -> int:
        """Source tokens of a recording; its target needs at least one frame for each of them."""
        return source_frames // self.frames_per_token


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """Weights and variants of the training losses."""

    align_weight: NonNegative = 2.0
    duration_weight: NonNegative = 1.0
    duration_start_step: Natural = 0
    """The duration loss counts only after this many optimiser steps."""
    prior: Literal["published", "beta-binomial", "content", "none"] = "published"
    """Prior on alignments: ``published`` has one trial too many, so its last frames favour a token that is not there;
    ``beta-binomial`` is the distribution of the literature; ``content`` starts from where both recordings say the same
    and turns into ``beta-binomial``."""
    prior_band: Annotated[float, Limits(0.1)] = 2.0
    """Standard deviation of the band that ``content`` starts with, in tokens."""
    prior_steps: Natural = 400
    """Steps over which the band of ``content`` fades."""
    forward_sum_gradient: Literal["published", "exact"] = "published"
    """``published`` copies the extra gradient term of the framework's CTC on unnormalised input."""
    pitch_weight: NonNegative = 1.0
    """Of F0 and voicing, where a model predicts them."""
    variance_weight: NonNegative = 0.0
    """Of the global variance: what is learnt from few recordings comes out smooth, and sounds muffled."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """Random variations of the source recordings, drawn anew in every epoch (published: none).

    Everything happens on log-mels; of other features, only the tempo is changed, and the melody where they have one.
    """

    share: Share = 0.0
    """Share of the source recordings that are changed in pitch, envelope, tempo, level and noise."""
    start_step: Natural = 0
    """No variations before the first epoch that starts at this step or later."""
    pitch: Annotated[float, Limits(0.0, 24.0)] = 4.0
    """Largest shift of the pitch, in semitones up or down."""
    formant: Share = 0.12
    """Largest stretch of the spectral envelope, as by a shorter or longer vocal tract."""
    tempo: Share = 0.15
    """Largest change of the speaking rate."""
    gain_db: Annotated[float, Limits(0.0, 60.0)] = 6.0
    """Largest change of the level, in dB."""
    noise_share: Share = 0.3
    """Share of the changed recordings that get stationary noise."""
    noise_snr_db: Annotated[float, Limits(-20.0, 80.0)] = 20.0
    """Lowest ratio of speech to that noise, in dB."""
    noise_range_db: Annotated[float, Limits(0.0, 80.0)] = 30.0
    """How much higher the ratio may be."""
    monotone_share: Share = 0.0
    """Share of the changed recordings whose melody is taken away, as of an electrolarynx or a whisper, so that the
    intonation has to be found from what is said. Only of features that have the melody beside it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """Optimisation, bookkeeping and hardware."""

    batch_size: Count = 2
    """Utterances at once, in each process."""
    accum: Count = 8
    """Micro-batches per optimiser step; the effective batch is ``batch_size * accum``, times the processes."""
    max_frames: Count | None = None
    """Frames at once on either side, padding included: a batch of long utterances holds fewer than ``batch_size``, so
    the longest pairs decide neither memory nor time. A pair that is longer is cut by ``prepare`` and refused by
    ``train``."""
    auto_batch: Literal["off", "keep", "fill"] = "off"
    """Find the largest ``batch_size`` that fits into ``memory`` by trying the longest pairs, whatever ``max_frames``
    says. ``keep`` chooses ``accum`` so that the effective batch stays what ``batch_size * accum`` say; ``fill`` leaves
    ``accum`` as it is."""
    memory: str | None = None
    """Memory that ``auto_batch`` may fill, e.g. ``8GB``; ``null`` means what the device has free."""
    max_steps: Count = 50000
    patience: Count | None = None
    """Training ends when so many measurements on the dev set in a row brought nothing better; ``null`` for never."""
    freeze: str | None = None
    """Parts of the network that keep the weights they began with, e.g. ``encoder,aligner``."""
    lr: NonNegative = 8e-5
    schedule: Literal["inverse-sqrt", "cosine"] = "inverse-sqrt"
    """``inverse-sqrt``: the published warm-up schedule; ``cosine``: linear warm-up, then cosine decay to 0."""
    warmup_steps: Count = 4000
    adam_beta1: Decay = 0.9
    adam_beta2: Decay = 0.999
    adam_eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    grad_norm: NonNegative = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    ema_decay: Decay = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and kept as best; 0 switches it off."""
    bucket: Flag = False
    """Batch utterances of similar length together (still shuffled)."""
    dropout_start_step: Natural = 0
    """No dropout before this many optimiser steps: at first nothing can be overfitted, and the alignment is found
    sooner without noise."""
    seed: Natural = 1
    device: str = "auto"
    threads: Count | None = None
    """CPU threads; ``null`` leaves the choice to torch."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """``bf16`` runs encoder and decoder in bfloat16, ``fp16`` in float16 with a scaled loss; alignment, durations,
    losses and weights stay in float32. ``auto`` takes bf16 where the processor multiplies it natively, else fp16 on a
    GPU."""
    checkpointing: Flag = False
    """Keep only the input of conformer blocks and compute the rest again for the gradient: the same result from less
    memory in more time."""
    n_workers: Natural = 0
    """Processes that load batches ahead; 0 loads between the steps."""
    time_limit: str | None = None
    """Time after which training saves and ends, e.g. ``2h`` or ``1h30m``."""
    log_every: Count = 10
    eval_every: Count = 100
    """Optimiser steps between two measurements on the whole dev set."""
    save_every: Count = 500
    keep: Natural = 0
    """How many of the latest checkpoints stay in ``checkpoints/``, besides the last and the best one."""
    preview_every: Natural = 1000
    """Optimiser steps between two sets of pictures and sounds; 0 switches them off."""
    n_previews: Natural = 2

    def faults(self) -> list[str]:
        """Inconsistent values."""
        faults = []
        for key, parse in (("memory", parse_memory), ("time_limit", parse_time)):
            text = getattr(self, key)
            try:
                if text is not None:
                    parse(text)
            except ValueError as error:
                faults.append(f"{key}: {error}")
        return faults


@dataclass(frozen=True, kw_only=True)
class VocoderConfig(Section):
    """Sizes and losses of a vocoder to train; optimisation and bookkeeping are those of :class:`TrainConfig`."""

    width: Annotated[int, Limits(4, MOST)] = 256
    """Channels of the backbone."""
    hidden: Annotated[int, Limits(4, MOST)] = 512
    """Channels between the two layers of a block."""
    n_blocks: Layers = 8
    pitch_width: Annotated[int, Limits(4, MOST)] = 96
    pitch_blocks: Layers = 4
    pitch_bins: Annotated[int, Limits(8, MOST)] = 128
    n_fft: Annotated[int, Limits(16, MOST)] | None = None
    """Transform of the head; ``null`` takes that of the mel, but at least four hops."""
    refinements: Annotated[int, Limits(0, 1000)] = 1
    """Iterations that bring the mel of the waveform nearer to the given one."""
    correct_mel: Flag = False
    """Let the vocoder correct the mel it is given; ``--mels-from`` and ``--init`` switch it on."""
    pitch_steps: Natural = 1500
    """The first steps train the pitch network alone; afterwards it stays as it is."""
    pitch_lr: NonNegative = 1e-3
    pitch_recordings: Count = 200
    """Recordings analysed for their pitch, which is slow; more hardly improve the network."""
    adversarial_start_step: Natural = 2700
    """From this step on, discriminators take part."""
    discriminator_channels: Annotated[int, Limits(2, MOST)] = 16
    discriminator_lr: NonNegative = 3e-4
    crop_frames: Annotated[int, Limits(16, MOST)] = 64
    """Frames of each training example."""
    judged_frames: Annotated[int, Limits(8, MOST)] = 32
    """Frames of each example that the discriminators see, which take most of the time."""
    mel_weight: NonNegative = 10.0
    stft_weight: NonNegative = 0.5
    adversarial_weight: NonNegative = 2.0
    feature_weight: NonNegative = 8.0
    versions: Natural = 0
    """Changed versions of each recording, beside itself: of other throats, rooms, lines and levels. With any, the pitch
    network learns from each recording at another pitch, too."""
    final_scores: Flag = True
    """Measure the copy synthesis of the dev set after the last step as ``evaluate`` would, DNSMOS too if installed."""

    def faults(self) -> list[str]:
        """Inconsistent values."""
        faults = []
        if self.judged_frames > self.crop_frames - 16:
            faults.append(f"judged_frames: {self.judged_frames} do not lie well inside crop_frames {self.crop_frames}")
        if self.n_fft is not None and self.n_fft % 2:
            faults.append(f"n_fft: {self.n_fft} is odd; use an even size")
        return faults


@dataclass(frozen=True, kw_only=True)
class ContentConfig(Section):
    """Sizes and data of a content encoder to train; optimisation and bookkeeping are those of :class:`TrainConfig`."""

    stem: Count = 160
    """Channels at the frame rate of the log-mel."""
    width: Count = 256
    hidden: Count = 768
    """Channels between the two layers of a block."""
    n_blocks: Layers = 8
    kernel: Count = 15
    """Frames that each block sees, 50 to the second."""
    melody_width: Count = 96
    """Channels of the encoder of the melody."""
    melody_blocks: Layers = 4
    versions: Natural = 4
    """Changed versions of each recording, beside itself."""
    crop_frames: Annotated[int, Limits(16, MOST)] = 200
    """Frames of each training example."""
    sentences: Count = 400
    """Sentences with several readers from which the projection of the teacher's channels is fitted."""

    def faults(self) -> list[str]:
        """Inconsistent values."""
        return [] if self.kernel % 2 else [f"kernel: {self.kernel} is even; a centred convolution needs an odd kernel"]


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """All settings that affect the result of a run."""

    name: str = UNNAMED
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
