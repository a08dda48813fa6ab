"""Training a vocoder: crops of recordings, one optimiser step, everything that an exact continuation needs.

Three stages. The pitch network learns alone and then stays as it is. The generator learns from spectral distances.
Finally discriminators join. Whatever is random in a step follows from the seed and the number of the step, so that a
run that was stopped needs no state of random numbers to go on exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from aasvc_cli.config.settings import Config, MelConfig, TrainConfig
from aasvc_cli.errors import ModelError, TrainingError
from aasvc_cli.training.discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_loss
from aasvc_cli.training.optimisation import (
    Averaged,
    DivergenceGuard,
    below,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)
from aasvc_cli.training.spectral_losses import SpectralLoss
from aasvc_cli.vocoder.istft import Excitation, IstftGenerator, IstftSizes, held_pitch

Array = npt.NDArray[np.float32]
VOCODER_LOSSES = ("pitch", "mel", "stft", "adversarial", "feature", "discriminator", "total")
"""Losses by name, in the order of :attr:`VocoderStep.losses`; those of other stages are 0."""
BLUR_SHARE = 0.5
"""Share of the examples that the pitch network sees blurred and noisy, as mels that a model wrote are smooth."""
BLUR_NOISE = 0.15
"""Standard deviation of that noise, of the normalised mel."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One recording with its features.

    Attributes:
        wave: (n,) int16
        mel: (T, M) float32, log-mel, not normalised: what the vocoder is given
        f0: (T,) float32 in Hz, 0 where unvoiced; None if the recording was not analysed for it
    """

    utterance_id: str
    wave: npt.NDArray[np.int16]
    mel: Array
    f0: Array | None
    own_mel: Array | None = None
    """(T, M), that of the recording itself where ``mel`` was written by a model; None if they are the same."""


@dataclass(frozen=True)
class Crops:
    """Equally long stretches of several recordings.

    Attributes:
        mel: (B, T, M), what the vocoder is given
        own_mel: (B, margin + T + margin, M), that of the recordings themselves, from which the pitch is read. What a
            model writes differs in pitch, and pulses beside the harmonics of the recording would be punished.
        f0: (B, margin + T + margin); only 0 if a recording was not analysed
        wave: (B, T * hop_length), of the T frames in the middle
    """

    mel: Tensor
    own_mel: Tensor
    f0: Tensor
    wave: Tensor


class CropSource:
    """Draws crops from recordings; which ones is a function of seed and step."""

    def __init__(
        self, recordings: Sequence[Recording], mel: MelConfig, *, n_frames: int, margin: int, seed: int
    ) -> None:
        self.recordings = recordings
        self.mel = mel
        self.n_frames = n_frames
        self.margin = margin
        self.seed = seed
        lengths = np.array([len(recording.mel) for recording in recordings], dtype=np.float64)
        self._shares = lengths / lengths.sum()

    def draw(self, step: int, batch_size: int) -> Crops:
        """The crops of a step."""
        chooser = np.random.default_rng([self.seed, step])
        chosen = chooser.choice(len(self.recordings), size=batch_size, p=self._shares)
        parts = [self._crop(self.recordings[int(index)], chooser) for index in chosen]
        return Crops(*(torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True)))

    def _crop(self, recording: Recording, chooser: np.random.Generator) -> tuple[Array, Array, Array, Array]:
        hop, count, margin = self.mel.hop_length, self.n_frames, self.margin
        start = int(chooser.integers(0, max(1, len(recording.mel) - count + 1)))
        # what lies outside the recording is as its edge
        index = np.clip(np.arange(start - margin, start + count + margin), 0, len(recording.mel) - 1)
        wave = recording.wave[start * hop : (start + count) * hop].astype(np.float32) / np.float32(32768.0)
        padded = np.pad(wave, (0, count * hop - len(wave)))
        f0 = np.zeros(len(index), dtype=np.float32) if recording.f0 is None else recording.f0[index]
        own = recording.mel if recording.own_mel is None else recording.own_mel
        return recording.mel[index[margin : margin + count]], own[index], f0, padded


@dataclass(frozen=True)
class VocoderStep:
    """What one step did.

    Attributes:
        losses: in the order of :data:`VOCODER_LOSSES`
        grad_norm: of the network that was trained, before clipping
    """

    losses: Tensor
    grad_norm: float
    lr: float


class VocoderTrainer:
    """Generator, discriminators, optimisers and average of one run; knows nothing of files."""

    def __init__(self, config: Config, device: torch.device, *, mean: Array, scale: Array) -> None:
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.generator = IstftGenerator(config.features.mel, generator_sizes(config)).to(device)
        self.generator.mean.copy_(torch.from_numpy(mean))
        self.generator.scale.copy_(torch.from_numpy(scale))
        self.discriminators = Discriminators(channels=config.vocoder.discriminator_channels).to(device)
        self.spectral = SpectralLoss(config.features.mel.sample_rate).to(device)
        train = config.train
        betas = (train.adam_beta1, train.adam_beta2)
        filters = [p for name, p in self.generator.named_parameters() if not name.startswith("pitch.")]
        self.optimizers = {
            "pitch": torch.optim.Adam(self.generator.pitch.parameters(), lr=config.vocoder.pitch_lr, fused=True),
            "generator": torch.optim.AdamW(
                filters, lr=train.lr, betas=betas, weight_decay=train.weight_decay, fused=True
            ),
            "discriminators": torch.optim.AdamW(
                self.discriminators.parameters(), lr=config.vocoder.discriminator_lr, betas=betas, fused=True
            ),
        }
        self.average = Averaged(self.generator, train.ema_decay)
        self.guard = DivergenceGuard()
        self.step = 0
        self.bf16 = train.precision == "bf16"

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin with the weights of another generator of these sizes; only a correction of the mel may be new."""
        expected = self.generator.state_dict()
        missing = [name for name in expected if name not in tensors and not name.startswith("correction.")]
        reshaped = [name for name in tensors if name not in expected or tensors[name].shape != expected[name].shape]
        if missing or reshaped:
            raise ModelError(f"the sizes of its network differ (first difference: {(missing + reshaped)[0]})")
        self.generator.load_state_dict({name: tensors.get(name, own).to(own) for name, own in expected.items()})
        self.average = Averaged(self.generator, self.config.train.ema_decay)

    def start_discriminators_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin with discriminators that know something, out of the state of another run."""
        self.discriminators.load_state_dict(below(tensors, "discriminators."))

    @property
    def margin(self) -> int:
        """Frames on either side of a crop that the pitch network needs."""
        return self.generator.pitch.backbone.context + 1

    def stage(self) -> str:
        """Which stage the next step belongs to: ``pitch``, ``spectral`` or ``adversarial``."""
        settings = self.config.vocoder
        if self.step < settings.pitch_steps:
            return "pitch"
        return "spectral" if self.step < settings.adversarial_start_step else "adversarial"

    def update(self, crops: Crops) -> VocoderStep:
        """One optimiser step.

        Raises:
            TrainingError: the loss or its gradient is not finite, or the loss diverges.
        """
        random = torch.Generator().manual_seed(self.config.train.seed * 1_000_003 + self.step)
        losses = dict.fromkeys(VOCODER_LOSSES, torch.zeros((), device=self.device))
        if self.stage() == "pitch":
            norm, rate = self._update_pitch(crops, random, losses)
        else:
            norm, rate = self._update_generator(crops, random, losses)
        self.step += 1
        if self.step == self.config.vocoder.pitch_steps:  # what was learnt so far says nothing about the filters
            self.average = Averaged(self.generator, self.config.train.ema_decay)
            self.guard = DivergenceGuard()
        self.average.update(self.step)
        self.guard.check(float(losses["total"]), self.step)
        return VocoderStep(torch.stack([losses[name] for name in VOCODER_LOSSES]), norm, rate)

    def _update_pitch(self, crops: Crops, random: torch.Generator, losses: dict[str, Tensor]) -> tuple[float, float]:
        settings = self.config.vocoder
        mel = self.generator.normalise(crops.own_mel.to(self.device))
        mel = _blurred(mel, random)
        with self._autocast():
            loss = self.generator.pitch.loss(mel, crops.f0.to(self.device))
        rate = settings.pitch_lr * 0.5 * (1.0 + math.cos(math.pi * self.step / settings.pitch_steps))
        loss.backward()
        norm = self._apply("pitch", rate, loss.detach())
        losses["pitch"] = losses["total"] = loss.detach()
        return norm, rate

    def _update_generator(
        self, crops: Crops, random: torch.Generator, losses: dict[str, Tensor]
    ) -> tuple[float, float]:
        settings, train, hop = self.config.vocoder, self.config.train, self.generator.hop_length
        wanted = crops.wave.to(self.device)
        excitation = self.excite(crops.own_mel.to(self.device), random)
        with self._autocast():
            wave = self.generator(crops.mel.to(self.device), excitation)
        # frames beyond the crop would have overlapped with its ends, once for each transform
        edge = (1 + self.generator.refinements) * math.ceil(self.generator.n_fft / 2 / hop) * hop
        wave, wanted = wave[:, edge:-edge], wanted[:, edge:-edge]
        mel_loss, stft_loss = self.spectral(wave, wanted)
        total = settings.mel_weight * mel_loss + settings.stft_weight * stft_loss
        losses["mel"], losses["stft"] = mel_loss.detach(), stft_loss.detach()
        shown = total.detach()
        if self.stage() == "adversarial":
            length = settings.judged_frames * hop
            start = int(torch.randint(0, wave.shape[1] - length + 1, (), generator=random))
            judged, gradient = self._judge(wave[:, start : start + length], wanted[:, start : start + length], losses)
            total = total + (judged * gradient).sum()
            shown = (
                shown
                + settings.adversarial_weight * losses["adversarial"]
                + settings.feature_weight * losses["feature"]
            )
        losses["total"] = shown
        total.backward()
        rate = learning_rate(self.step - settings.pitch_steps, _remaining(train, settings.pitch_steps))
        return self._apply("generator", rate, shown), rate

    def _judge(self, wave: Tensor, wanted: Tensor, losses: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Train the discriminators, and find what they would have the wave become.

        Both from one pass: the gradient of the generator's loss with regard to the wave is taken before the
        discriminators are updated.

        Returns:
            the wave and the gradient of the generator's weighted losses with regard to it
        """
        settings = self.config.vocoder
        shown = wave.detach().requires_grad_()
        with self._autocast():
            real, fake = self.discriminators(wanted), self.discriminators(shown)
        persuasion, likeness = adversarial_loss(fake), feature_loss(real, fake)
        losses["adversarial"], losses["feature"] = persuasion.detach(), likeness.detach()
        weighted = settings.adversarial_weight * persuasion + settings.feature_weight * likeness
        (gradient,) = torch.autograd.grad(weighted, shown, retain_graph=True)
        loss = discriminator_loss(real, fake)
        loss.backward(inputs=list(self.discriminators.parameters()))
        losses["discriminator"] = loss.detach()
        train, start = self.config.train, settings.adversarial_start_step
        relative = learning_rate(self.step - start, _remaining(train, start)) / max(train.lr, 1e-12)
        self._apply("discriminators", settings.discriminator_lr * relative, loss.detach())
        return wave, gradient

    def excite(self, mel: Tensor, random: torch.Generator) -> Excitation:
        """Pulses and noise for crops with margins (B, margin + T + margin, M); the pitch is that of the network."""
        with torch.no_grad():
            f0, voiced = self.generator.pitch.decode(self.generator.normalise(mel))
            f0 = held_pitch(f0, voiced)
            end = mel.shape[1] - self.margin + 1
            f0, voiced = f0[:, self.margin : end], voiced[:, self.margin : end]
            phase = torch.rand(len(mel), generator=random).to(self.device)
            n_samples = (f0.shape[1] - 1) * self.generator.hop_length
            noise = torch.randn(len(mel), n_samples, generator=random).to(self.device)
            return self.generator.excite(f0, voiced, phase, noise)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _apply(self, name: str, rate: float, loss: Tensor) -> float:
        """Clip, check, step; returns the norm of the gradient."""
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = self.config.train.grad_norm if self.config.train.grad_norm > 0 else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if not math.isfinite(norm) or not math.isfinite(float(loss)):
            for each in self.optimizers.values():
                each.zero_grad(set_to_none=True)
            raise TrainingError(
                f"the loss of the {name} is not a finite number at step {self.step + 1}; the checkpoints from before "
                "are kept - lower --lr"
            )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    # --- state ------------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The weights to synthesise with: averaged ones if averaging is on."""
        return {**self.generator.state_dict(), **self.average.state()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors and numbers that an exact continuation needs."""
        tensors = {f"generator.{name}": tensor for name, tensor in self.generator.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state().items()}
        tensors |= {f"discriminators.{name}": tensor for name, tensor in self.discriminators.state_dict().items()}
        names = {parameter: name for name, parameter in self._parameters()}
        for key, optimizer in self.optimizers.items():
            remembered = optimizer_state(optimizer, names)
            tensors |= {f"optimizer.{key}.{name}": value for name, value in remembered.items()}
        return tensors, {"step": self.step, "guard": self.guard.state()}

    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from :meth:`state`; raises KeyError or RuntimeError if it is of another model."""
        self.generator.load_state_dict(below(tensors, "generator."))
        self.discriminators.load_state_dict(below(tensors, "discriminators."))
        self.average.load_state(below(tensors, "average."))
        for key, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, dict(self._parameters()), below(tensors, f"optimizer.{key}."))
        self.step = int(numbers["step"])
        self.guard.load_state(numbers["guard"])

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.generator.named_parameters(prefix="generator")
        yield from self.discriminators.named_parameters(prefix="discriminators")


def generator_sizes(config: Config) -> IstftSizes:
    """The sizes of the generator that a configuration asks for."""
    settings = config.vocoder
    return IstftSizes(
        width=settings.width,
        hidden=settings.hidden,
        n_blocks=settings.n_blocks,
        pitch_width=settings.pitch_width,
        pitch_blocks=settings.pitch_blocks,
        pitch_bins=settings.pitch_bins,
        f0_floor=config.features.mcep.f0_floor,
        f0_ceil=min(config.features.mcep.f0_ceil, config.features.mel.sample_rate / 2 - 1),
        n_fft=settings.n_fft,
        refinements=settings.refinements,
        correct_mel=settings.correct_mel,
    )


def _remaining(train: TrainConfig, before: int) -> TrainConfig:
    """The schedule of what begins after some steps."""
    return dataclasses.replace(train, max_steps=max(1, train.max_steps - before))


def _blurred(mel: Tensor, random: torch.Generator) -> Tensor:
    """Some examples smoothed over time and bands, all shifted in level and some with noise: (B, T, M) -> same."""
    smooth = functional.avg_pool2d(mel.unsqueeze(1), (5, 3), 1, (2, 1), count_include_pad=False).squeeze(1)
    share = torch.rand(len(mel), 1, 1, generator=random).to(mel)
    chosen = (torch.rand(len(mel), 1, 1, generator=random) < BLUR_SHARE).to(mel.device)
    noise = BLUR_NOISE * torch.randn(mel.shape, generator=random).to(mel)
    level = 0.3 * torch.randn(len(mel), 1, 1, generator=random).to(mel)
    return torch.where(chosen, mel + share * (smooth - mel) + noise, mel) + level


def pitch_errors(pitches: Sequence[np.ndarray[Any, Any]]) -> dict[str, float]:
    """How pitch was read: (T, 2) of each recording, as read and as analysed, in Hz, 0 where unvoiced."""
    pairs = np.concatenate([np.zeros((0, 2)), *pitches])
    both = (pairs > 0).all(axis=1)
    if not both.any():
        return {}
    cents = np.abs(1200.0 * np.log2(pairs[both, 0] / pairs[both, 1]))
    return {
        "pitch_cents": float(np.median(cents)),
        "pitch_gross": float((cents > 50.0).mean()),
        "voicing_errors": float(((pairs[:, 0] > 0) != (pairs[:, 1] > 0)).mean()),
    }
