"""The configuration as frozen dataclasses, one per section."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

DEFAULT_PRESET = "small"
UNNAMED = "custom"
"""Name of a configuration that has none; a file's own name takes its place."""


def option(default: Any, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field with a default and an inclusive range."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum})


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
class MelConfig:
    """Log-mel analysis, as in the published recipe (librosa's Slaney filters, magnitude spectrum, reflect padding)."""

    sample_rate: int = option(24000, minimum=4000, maximum=192000)
    n_fft: int = option(1024, minimum=16, maximum=65536)
    hop_length: int = option(256, minimum=1)
    win_length: int | None = option(None, minimum=2)
    """Samples of the Hann window; ``null`` means ``n_fft``."""
    n_mels: int = option(80, minimum=4, maximum=512)
    fmin: float = option(0.0, minimum=0.0)
    fmax: float | None = option(None, minimum=0.0)
    """Upper edge of the highest band in Hz; ``null`` means half the sample rate."""
    log_base: float | None = option(10.0, minimum=1.0)
    """10, 2, or ``null`` for the natural logarithm."""

    def faults(self) -> list[str]:
        """What is impossible about these values taken together."""
        found = []
        if self.win_length is not None and self.win_length > self.n_fft:
            found.append(f"win_length: {self.win_length} is longer than n_fft {self.n_fft}")
        if self.n_fft % 2:
            found.append(f"n_fft: {self.n_fft} is odd; a centred spectrum needs an even size")
        if self.hop_length > self.n_fft:
            found.append(f"hop_length: {self.hop_length} is longer than n_fft {self.n_fft}")
        top = self.fmax if self.fmax is not None else self.sample_rate / 2
        if top > self.sample_rate / 2:
            found.append(f"fmax: {top:g} Hz is above half the sample rate, {self.sample_rate / 2:g} Hz")
        if self.fmin >= top:
            found.append(f"fmin: {self.fmin:g} Hz is not below fmax, {top:g} Hz")
        if self.log_base is not None and self.log_base == 1.0:
            found.append("log_base: 1 has no logarithm; use 10, 2 or null")
        return found

    @property
    def frames_per_second(self) -> float:
        """Frames per second of every feature computed with these settings."""
        return self.sample_rate / self.hop_length


@dataclass(frozen=True, kw_only=True)
class McepConfig:
    """Mel-cepstrum from the WORLD envelope, at the frame rate of :class:`MelConfig`."""

    order: int = option(39, minimum=1, maximum=200)
    f0_floor: float = option(71.0, minimum=10.0)
    f0_ceil: float = option(800.0, minimum=20.0)

    def faults(self) -> list[str]:
        """What is impossible about these values taken together."""
        if self.f0_floor >= self.f0_ceil:
            return [f"f0_floor: {self.f0_floor:g} Hz is not below f0_ceil, {self.f0_ceil:g} Hz"]
        return []


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    """The recogniser whose encoder the feature ``whisper`` takes."""

    model: str = "base"
    """A Whisper model that faster-whisper has downloaded, by name, or the folder of one."""
    channels: int = option(512, minimum=1)
    """Of its encoder: 384 of tiny, 512 of base, 768 of small, 1024 of medium, 1280 of large."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Which feature each side of the model sees (``--src-feat``, ``--trg-feat``, ``--dp-feat`` of the recipe).

    ``aasvc_cli.features.kinds`` knows the kinds and their widths.
    """

    source: str = "mel"
    target: str = "mel"
    duration: str = "mel"
    """Input of the duration predictor, computed from the source recording."""
    trim: bool = False
    """``prepare`` leaves the silence at both ends of the recordings out (published: no)."""
    mel: MelConfig = field(default_factory=MelConfig)
    mcep: McepConfig = field(default_factory=McepConfig)
    whisper: WhisperConfig = field(default_factory=WhisperConfig)

    def faults(self) -> list[str]:
        """What is impossible about these values taken together."""
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
class ModelConfig:
    """Sizes of the AAS-VC network. The defaults are the published Hi-Fi-CAPTAIN sizes, behaviour included."""

    source_dim: int | None = option(None, minimum=1)
    """Channels of the source feature; ``null`` takes the width of ``features.source``."""
    target_dim: int | None = option(None, minimum=1)
    duration_dim: int | None = option(None, minimum=1)
    width: int = option(384, minimum=2)
    """Width of the encoder; the decoder is ``frames_per_token`` times as wide."""
    n_heads: int = option(2, minimum=1)
    encoder_layers: int = option(4, minimum=1)
    decoder_layers: int = option(4, minimum=1)
    encoder_hidden: int = option(1536, minimum=1)
    decoder_hidden: int = option(1536, minimum=1)
    encoder_kernel: int = option(15, minimum=1)
    decoder_kernel: int = option(15, minimum=1)
    frames_per_token: int = option(4, minimum=1)
    """Source frames stacked after the encoder: the reduction factor of the published recipe."""
    encoder_dropout: float = option(0.2, minimum=0.0, maximum=0.95)
    encoder_positional_dropout: float = option(0.2, minimum=0.0, maximum=0.95)
    encoder_attention_dropout: float = option(0.2, minimum=0.0, maximum=0.95)
    decoder_dropout: float = option(0.2, minimum=0.0, maximum=0.95)
    decoder_positional_dropout: float = option(0.2, minimum=0.0, maximum=0.95)
    decoder_attention_dropout: float = option(0.2, minimum=0.0, maximum=0.95)
    postnet_layers: int = option(5, minimum=0)
    postnet_channels: int = option(256, minimum=1)
    postnet_kernel: int = option(5, minimum=1)
    postnet_dropout: float = option(0.5, minimum=0.0, maximum=0.95)
    duration_predictor: Literal["stochastic", "deterministic", "poisson"] = "stochastic"
    """``stochastic`` and ``deterministic`` are the published ones: flows, and regression of log-durations. Both aim at
    typical durations, which cuts pauses: the search gives a whole pause to one of its tokens, so a typical token of a
    pause is short. ``poisson`` regresses the expected duration, whose sum over a pause is right."""
    duration_input: Literal["feature", "tokens"] = "feature"
    """``feature``: a convolution branch on ``features.duration``; ``tokens``: the encoder's own output."""
    duration_layers: int = option(2, minimum=1)
    duration_channels: int = option(256, minimum=1)
    duration_kernel: int = option(3, minimum=1)
    duration_dropout: float = option(0.1, minimum=0.0, maximum=0.95)
    flow_count: int = option(4, minimum=2)
    flow_layers: int = option(3, minimum=1)
    flow_kernel: int = option(3, minimum=1)
    flow_dropout: float = option(0.5, minimum=0.0, maximum=0.95)
    noise_scale: float = option(0.8, minimum=0.0, maximum=5.0)
    """Standard deviation of the noise that the stochastic predictor draws at conversion."""
    duration_rounding: Literal["ceil", "nearest", "cumulative"] = "ceil"
    """``ceil`` and ``nearest`` are the published ways of the stochastic and of the deterministic predictor;
    ``cumulative`` rounds the running sum, so that the total is right."""
    max_duration: int | None = option(10, minimum=1)
    """Longest duration of one token in target frames at conversion (published: 10, which shortens pauses);
    ``null`` for no limit."""
    mask_padding: bool = False
    """Keep padding out of convolutions, batch norms, resampling and the decoder, so that the result of an utterance
    does not depend on its batch. The published code lets it leak in."""

    def faults(self) -> list[str]:
        """What is impossible about these values taken together."""
        found = []
        if self.width % self.n_heads:
            found.append(f"width: {self.width} is not divisible by n_heads {self.n_heads}")
        if self.width % 2:
            found.append(f"width: {self.width} is odd; positional encoding needs an even width")
        kernels = ("encoder", "decoder", "postnet", "duration", "flow")
        found += [
            f"{name}_kernel: {getattr(self, name + '_kernel')} is even; a centred convolution needs an odd kernel"
            for name in kernels
            if getattr(self, f"{name}_kernel") % 2 == 0
        ]
        if self.duration_predictor == "stochastic" and self.duration_rounding != "ceil":
            # it learns durations less a random fraction of a frame, which only rounding up undoes
            found.append(f"duration_rounding: {self.duration_rounding} shortens stochastic durations; use ceil")
        return found

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
class LossConfig:
    """Weights and variants of the training losses."""

    align_weight: float = option(2.0, minimum=0.0)
    duration_weight: float = option(1.0, minimum=0.0)
    duration_start_step: int = option(0, minimum=0)
    """The duration loss counts only after this many optimiser steps."""
    prior: Literal["published", "beta-binomial", "content", "none"] = "published"
    """Prior on alignments: ``published`` has one trial too many, so its last frames favour a token that is not there;
    ``beta-binomial`` is the distribution of the literature; ``content`` starts from where both recordings say the same
    and turns into ``beta-binomial``."""
    prior_band: float = option(2.0, minimum=0.1)
    """Standard deviation of the band that ``content`` starts with, in tokens."""
    prior_steps: int = option(400, minimum=0)
    """Steps over which the band of ``content`` fades."""
    forward_sum_gradient: Literal["published", "exact"] = "published"
    """``published`` copies the extra gradient term of the framework's CTC on unnormalised input."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Other recordings made of the sources during training, anew in every epoch (published: none).

    Everything happens on log-mels; other features are left as they are.
    """

    share: float = option(0.0, minimum=0.0, maximum=1.0)
    """Share of the source recordings that are changed in pitch, envelope, tempo, level and noise."""
    start_step: int = option(0, minimum=0)
    """Recordings stay as they are until the first epoch that begins at this step or later."""
    pitch: float = option(4.0, minimum=0.0, maximum=24.0)
    """Largest shift of the pitch, in semitones up or down."""
    formant: float = option(0.12, minimum=0.0, maximum=1.0)
    """Largest stretch of the spectral envelope, as by a shorter or longer vocal tract."""
    tempo: float = option(0.15, minimum=0.0, maximum=1.0)
    """Largest change of the speaking rate."""
    gain_db: float = option(6.0, minimum=0.0, maximum=60.0)
    """Largest change of the level, in dB."""
    noise_share: float = option(0.3, minimum=0.0, maximum=1.0)
    """Share of the changed recordings that get stationary noise."""
    noise_snr_db: float = option(20.0, minimum=-20.0, maximum=80.0)
    """Lowest ratio of speech to that noise, in dB."""
    noise_range_db: float = option(30.0, minimum=0.0, maximum=80.0)
    """How much higher the ratio may be."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation, bookkeeping and hardware."""

    batch_size: int = option(2, minimum=1)
    """Utterances at once, in each process."""
    accum: int = option(8, minimum=1)
    """Micro-batches per optimiser step; the effective batch is ``batch_size * accum``, times the processes."""
    max_frames: int | None = option(None, minimum=1)
    """Target frames at once, padding included, in place of ``batch_size``: many short utterances or few long ones."""
    auto_batch: Literal["off", "keep", "fill"] = "off"
    """Find the largest ``batch_size`` that fits into ``memory`` by trying the longest pairs. ``keep`` chooses ``accum``
    so that the effective batch stays what ``batch_size * accum`` say; ``fill`` leaves ``accum`` as it is."""
    memory: str | None = None
    """Memory that ``auto_batch`` may fill, e.g. ``8GB``; ``null`` means what the device has free."""
    max_steps: int = option(50000, minimum=1)
    lr: float = option(8e-5, minimum=0.0)
    schedule: Literal["inverse-sqrt", "cosine"] = "inverse-sqrt"
    """``inverse-sqrt``: the published warm-up schedule; ``cosine``: linear warm-up, then cosine decay to 0."""
    warmup_steps: int = option(4000, minimum=1)
    adam_beta1: float = option(0.9, minimum=0.0, maximum=0.999999)
    adam_beta2: float = option(0.999, minimum=0.0, maximum=0.999999)
    adam_eps: float = option(1e-8, minimum=0.0)
    weight_decay: float = option(0.0, minimum=0.0)
    grad_norm: float = option(1.0, minimum=0.0)
    """Largest global gradient norm; 0 switches clipping off."""
    ema_decay: float = option(0.0, minimum=0.0, maximum=0.999999)
    """Decay of the exponential moving average of the weights that is evaluated and kept as best; 0 switches it off."""
    bucket: bool = False
    """Batch utterances of similar length together (still shuffled)."""
    dropout_start_step: int = option(0, minimum=0)
    """No dropout before this many optimiser steps: at first nothing can be overfitted, and the alignment is found
    sooner without noise."""
    seed: int = option(1, minimum=0)
    device: str = "auto"
    threads: int | None = option(None, minimum=1)
    """CPU threads; ``null`` leaves the choice to torch."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """``bf16`` runs encoder and decoder in bfloat16, ``fp16`` in float16 with a scaled loss; alignment, durations,
    losses and weights stay in float32. ``auto`` takes bf16 where the processor multiplies it natively, else fp16 on a
    GPU."""
    checkpointing: bool = False
    """Keep only the input of conformer blocks and compute the rest again for the gradient: the same result from less
    memory in more time."""
    n_workers: int = option(0, minimum=0)
    """Processes that load batches ahead; 0 loads between the steps."""
    time_limit: str | None = None
    """Time after which training saves and ends in good order, e.g. ``2h`` or ``1h30m``."""
    log_every: int = option(10, minimum=1)
    eval_every: int = option(100, minimum=1)
    """Optimiser steps between two measurements on the whole dev set."""
    save_every: int = option(500, minimum=1)
    keep: int = option(0, minimum=0)
    """How many of the latest checkpoints stay in ``checkpoints/``, besides the last and the best one."""
    preview_every: int = option(1000, minimum=0)
    """Optimiser steps between two sets of pictures and sounds; 0 switches them off."""
    n_previews: int = option(2, minimum=0)

    def faults(self) -> list[str]:
        """What is impossible about these values taken together."""
        found = []
        for key, parse in (("memory", parse_memory), ("time_limit", parse_time)):
            text = getattr(self, key)
            try:
                if text is not None:
                    parse(text)
            except ValueError as error:
                found.append(f"{key}: {error}")
        if self.max_frames is not None and self.auto_batch != "off":
            found.append("max_frames: auto_batch looks for a number of utterances; use one of the two")
        return found


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Sizes and losses of a vocoder to train; optimisation and bookkeeping are those of :class:`TrainConfig`."""

    width: int = option(256, minimum=4)
    """Channels of the backbone."""
    hidden: int = option(512, minimum=4)
    """Channels between the two layers of a block."""
    n_blocks: int = option(8, minimum=1)
    pitch_width: int = option(96, minimum=4)
    pitch_blocks: int = option(4, minimum=1)
    pitch_bins: int = option(128, minimum=8)
    n_fft: int | None = option(None, minimum=16)
    """Transform of the head; ``null`` takes that of the mel, but at least four hops."""
    refinements: int = option(1, minimum=0)
    """How often the mel of the waveform itself is brought nearer to the one asked for."""
    correct_mel: bool = False
    """Let the vocoder ask for another mel than it is given; ``--mels-from`` and ``--init`` switch it on."""
    pitch_steps: int = option(1500, minimum=0)
    """The first steps train the pitch network alone; afterwards it stays as it is."""
    pitch_lr: float = option(1e-3, minimum=0.0)
    pitch_recordings: int = option(200, minimum=1)
    """As many recordings are analysed for their pitch, which takes a while; more hardly make the network better."""
    adversarial_start_step: int = option(2700, minimum=0)
    """From this step on, discriminators take part."""
    discriminator_channels: int = option(16, minimum=2)
    discriminator_lr: float = option(3e-4, minimum=0.0)
    crop_frames: int = option(64, minimum=16)
    """Frames of each training example."""
    judged_frames: int = option(32, minimum=8)
    """Frames of each example that the discriminators see, which take most of the time."""
    mel_weight: float = option(10.0, minimum=0.0)
    stft_weight: float = option(0.5, minimum=0.0)
    adversarial_weight: float = option(2.0, minimum=0.0)
    feature_weight: float = option(8.0, minimum=0.0)
    final_scores: bool = True
    """Measure the copy synthesis of the dev set after the last step as ``evaluate`` would, DNSMOS too if installed."""

    def faults(self) -> list[str]:
        """What is impossible about these values taken together."""
        found = []
        if self.judged_frames > self.crop_frames - 16:
            found.append(f"judged_frames: {self.judged_frames} do not lie well inside crop_frames {self.crop_frames}")
        if self.n_fft is not None and self.n_fft % 2:
            found.append(f"n_fft: {self.n_fft} is odd; use an even size")
        return found


@dataclass(frozen=True, kw_only=True)
class ContentConfig:
    """Sizes and data of a content encoder to train; optimisation and bookkeeping are those of :class:`TrainConfig`."""

    stem: int = option(160, minimum=1)
    """Channels at the frame rate of the log-mel."""
    width: int = option(256, minimum=1)
    hidden: int = option(768, minimum=1)
    """Channels between the two layers of a block."""
    n_blocks: int = option(8, minimum=1)
    kernel: int = option(15, minimum=1)
    """Frames that each block sees, 50 to the second."""
    versions: int = option(4, minimum=0)
    """Changed versions of each recording, beside itself."""
    crop_frames: int = option(200, minimum=16)
    """Frames of each training example."""
    sentences: int = option(100, minimum=1)
    """How many sentences with several readers decide what is left of the teacher's channels."""

    def faults(self) -> list[str]:
        """What is impossible about these values taken together."""
        return [] if self.kernel % 2 else [f"kernel: {self.kernel} is even; a centred convolution needs an odd kernel"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run computes."""

    name: str = UNNAMED
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
