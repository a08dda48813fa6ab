"""The AAS-VC network: encode, align, upsample, decode (arXiv 2309.07598, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasvc_cli.config.settings import ModelConfig
from aasvc_cli.model.alignment import Aligner, gaussian_upsampling, monotonic_search, path_durations, round_durations
from aasvc_cli.model.conformer import Conformer
from aasvc_cli.model.duration import (
    MIN_DURATION_FRAMES,
    DeterministicDurationPredictor,
    DurationBranch,
    StochasticDurationPredictor,
)
from aasvc_cli.model.layers import Dropout, Postnet, padding_mask, stack_frames
from aasvc_cli.model.pitch import PitchPredictor

PUBLISHED_LOG_CLAMP = 10.0
"""The published training clamps the deterministic predictor's log-durations at this value."""
LONGEST_DURATION = 1000
"""Frames of one token beyond which a prediction is a failure, not speech: it would only fill the memory."""


@dataclass(frozen=True)
class TeacherForced:
    """What a training pass through the network computes."""

    before: Tensor
    """(B, T, M), mel before the postnet."""
    after: Tensor
    """(B, T, M), mel after the postnet."""
    target: Tensor
    """(B, T, M)"""
    frame_padding: Tensor
    """(B, T) of ``target``."""
    log_alignment: Tensor
    """(B, T, K)"""
    path: Tensor
    """(B, T), token of each target frame."""
    durations: Tensor
    """(B, K) in target frames, found by the monotonic search."""
    token_lengths: Tensor
    """(B,)"""
    target_lengths: Tensor
    """(B,)"""
    duration_nll: Tensor | None
    """(B,) of the stochastic predictor, in nats per token of the whole batch; else None."""
    log_durations: Tensor | None
    """(B, K) of the deterministic predictor, as ``log(duration + 1)``; else None."""
    log_expected: Tensor | None
    """(B, K) of the Poisson predictor, log of the expected duration; else None."""
    log_prior: Tensor | None = None
    """(B, T, K), what was known of the alignment beforehand; None for nothing."""
    pitch: Tensor | None = None
    """(B, T, 2), what the decoder was told of the target's pitch; None for nothing."""
    predicted_pitch: Tensor | None = None
    """(B, T, 2), F0 and logit of voicing; None without a predictor."""


@dataclass(frozen=True)
class Conversion:
    """One converted utterance."""

    mel: Tensor
    """(T, M), normalised with the target's statistics."""
    durations: Tensor
    """(K,) in target frames."""


class Encoder(nn.Module):
    """Input layer and conformer stack."""

    def __init__(self, config: ModelConfig, n_inputs: int):
        super().__init__()
        self.hears_melody = config.source_melody
        self.linear = nn.Linear(n_inputs, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.encoder_dropout)
        self.conformer = Conformer(config.encoder, mask_padding=config.mask_padding)

    def forward(self, source: Tensor, padding: Tensor | None) -> Tensor:
        """(B, S, n_inputs) to (B, S, D)."""
        if not self.hears_melody:
            said, log_f0, voicing = source.split((source.shape[-1] - 2, 1, 1), dim=-1)  # see model.content.ContentF0
            source = torch.cat([said, torch.zeros_like(log_f0), voicing], dim=-1)
        encoded: Tensor = self.conformer(self.dropout(self.norm(self.linear(source))), padding)
        return encoded


class AASVC(nn.Module):
    """Parallel voice conversion with learnt alignment.

    Raises:
        ValueError: the configuration does not say the feature widths (use ``features.kinds.with_widths``).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.source_dim is None or config.target_dim is None or config.duration_dim is None:
            raise ValueError("source_dim, target_dim and duration_dim must be set")
        self.config = config
        width = config.decoder_width
        self.encoder = Encoder(config, config.source_dim)
        self.duration_branch: DurationBranch | None = None
        duration_inputs = width
        if config.duration_input == "feature":
            self.duration_branch = DurationBranch(config.duration_dim, config.width)
            duration_inputs = config.width
        self.duration_predictor: StochasticDurationPredictor | DeterministicDurationPredictor
        if config.duration_predictor == "stochastic":
            self.duration_predictor = StochasticDurationPredictor(
                n_inputs=duration_inputs,
                channels=config.width,
                kernel=config.flow_kernel,
                layers=config.flow_layers,
                count=config.flow_count,
                dropout=config.flow_dropout,
            )
        else:
            self.duration_predictor = DeterministicDurationPredictor(
                n_inputs=duration_inputs,
                layers=config.duration_layers,
                channels=config.duration_channels,
                kernel=config.duration_kernel,
                dropout=config.duration_dropout,
            )
        self.aligner = Aligner(width, config.target_dim, mask_padding=config.mask_padding)
        self.decoder = Conformer(config.decoder, mask_padding=config.mask_padding, gradient_comes_first=True)
        self.output = nn.Linear(width, config.target_dim)
        self.pitch_predictor: PitchPredictor | None = None
        if config.pitch_predictor:
            self.pitch_predictor = PitchPredictor(
                width,
                layers=config.pitch_layers,
                channels=config.pitch_channels,
                kernel=config.pitch_kernel,
                dropout=config.pitch_dropout,
            )
        self.postnet: Postnet | None = None
        if config.postnet_layers:
            self.postnet = Postnet(
                n_mels=config.target_dim,
                layers=config.postnet_layers,
                channels=config.postnet_channels,
                kernel=config.postnet_kernel,
                dropout=config.postnet_dropout,
            )

    @property
    def min_source_frames(self) -> int:
        """Fewest source frames that can be converted."""
        branch = MIN_DURATION_FRAMES if self.duration_branch is not None else 1
        return max(self.config.frames_per_token, branch)

    def forward(
        self,
        source: Tensor,
        source_lengths: Tensor,
        target: Tensor,
        target_lengths: Tensor,
        duration_feature: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        log_prior: Tensor | None = None,
        pitch: Tensor | None = None,
    ) -> TeacherForced:
        """Pass a padded batch through the network with the durations that the alignment finds.

        Args:
            source: (B, S, source_dim), normalised
            source_lengths: (B,)
            target: (B, T, M), normalised
            target_lengths: (B,)
            duration_feature: (B, S, duration_dim), normalised; needed if ``duration_input`` is ``feature``
            noise: (B, K, 2) standard normal for the stochastic predictor; drawn if None
            log_prior: (B, T, K), what is known of the alignment beforehand; the search for the path heeds it
            pitch: (B, T, 2) of the target, see :meth:`PitchPredictor.normalise`; what is predicted if None
        """
        tokens, token_lengths = self._encode(source, source_lengths)
        token_padding = padding_mask(token_lengths, tokens.shape[1])
        frame_padding = padding_mask(target_lengths, target.shape[1])

        # Distances and flows lose too much in half precision, and cost little.
        with torch.autocast(source.device.type, enabled=False):
            log_alignment = self.aligner(tokens.float(), target, token_padding, frame_padding)
            scores = log_alignment if log_prior is None else log_alignment + log_prior
            path = monotonic_search(scores, target_lengths, token_lengths)
            durations = path_durations(path, frame_padding, tokens.shape[1])
            inputs = self._duration_inputs(tokens.float(), duration_feature, source_lengths, token_lengths)
            duration_nll = log_durations = log_expected = None
            padding = token_padding if self.config.mask_padding else None
            if isinstance(self.duration_predictor, StochasticDurationPredictor):
                nll = self.duration_predictor.nll(inputs, durations, token_padding, noise)
                duration_nll = nll / token_lengths.sum()
            elif self.config.duration_predictor == "poisson":
                log_expected = self.duration_predictor(inputs, padding)
            else:
                log_durations = self.duration_predictor(inputs, padding).masked_fill(token_padding, 0.0)
                if not self.config.mask_padding:
                    log_durations = log_durations.clamp_max(PUBLISHED_LOG_CLAMP)

        frames = gaussian_upsampling(tokens, durations, token_padding, frame_padding, target.shape[1])
        if self.config.mask_padding:
            frames = frames.masked_fill(frame_padding.unsqueeze(-1), 0.0)
        predicted_pitch = None if self.pitch_predictor is None else self.pitch_predictor(frames, frame_padding)
        before, after = self._decode(frames, frame_padding, predicted_pitch, pitch)
        return TeacherForced(
            before=before, after=after, target=target, frame_padding=frame_padding, log_alignment=log_alignment,
            path=path, durations=durations, token_lengths=token_lengths, target_lengths=target_lengths,
            duration_nll=duration_nll, log_durations=log_durations, log_expected=log_expected, log_prior=log_prior,
            pitch=pitch, predicted_pitch=predicted_pitch,
        )  # fmt: skip

    def align(
        self,
        source: Tensor,
        target: Tensor,
        duration_feature: Tensor | None = None,
        pitch: Tensor | None = None,
    ) -> TeacherForced:
        """The teacher-forced pass on one pair, to look at: (B, ...) with B = 1, without gradient.

        Args:
            source: (S, source_dim), normalised
            target: (T, M), normalised
            duration_feature: (S, duration_dim), normalised; needed if ``duration_input`` is ``feature``
            pitch: (T, 2) as for :meth:`forward`

        Raises:
            ValueError: fewer target frames than source tokens, or no token at all.
        """
        n_tokens = self.config.n_tokens(len(source))
        if not 0 < n_tokens <= len(target) or len(source) < self.min_source_frames:
            raise ValueError(f"{n_tokens} tokens cannot be aligned with {len(target)} frames")
        lengths = [torch.tensor([len(side)], device=source.device) for side in (source, target)]
        with torch.inference_mode():
            result: TeacherForced = self(
                source.unsqueeze(0),
                lengths[0],
                target.unsqueeze(0),
                lengths[1],
                None if duration_feature is None else duration_feature.unsqueeze(0),
                noise=torch.zeros(1, n_tokens, 2, device=source.device),  # only of the duration loss
                pitch=None if pitch is None else pitch.unsqueeze(0),
            )
        return result

    def alignment_scores(self, source: Tensor, target: Tensor) -> Tensor:
        """How well each target frame goes with each source token, as in :meth:`forward`, and nothing else.

        Args:
            source, target: (1, S, source_dim) and (1, T, M), normalised

        Returns:
            (1, T, K) log-probabilities
        """
        lengths = torch.tensor([source.shape[1]], device=source.device)
        tokens, n_tokens = self._encode(source, lengths)
        padding = padding_mask(n_tokens, tokens.shape[1])
        none = torch.zeros(target.shape[:2], dtype=torch.bool, device=target.device)
        with torch.autocast(source.device.type, enabled=False):
            return self.aligner(tokens.float(), target, padding, none)

    def convert(
        self,
        source: Tensor,
        duration_feature: Tensor | None = None,
        *,
        noise_scale: float | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        speed: float = 1.0,
    ) -> Conversion:
        """Convert one utterance with predicted durations.

        Args:
            source: (S, source_dim), normalised
            duration_feature: (S, duration_dim), normalised; needed if ``duration_input`` is ``feature``
            noise_scale: standard deviation of the duration noise; the configuration's if None
            noise: (K, 2) standard normal; drawn on the CPU if None, so that a seed gives one result on every device
            generator: CPU generator to draw with
            speed: durations are divided by this
        """
        with torch.inference_mode():
            tokens, durations = self._rhythm(source, duration_feature, noise_scale, noise, generator, speed)
            frames = gaussian_upsampling(tokens, durations, None, None, int(durations.sum()))
            _, after = self.decode(frames, None)
        return Conversion(mel=after[0], durations=durations[0])

    def convert_batch(
        self,
        sources: Sequence[Tensor],
        duration_features: Sequence[Tensor] | None = None,
        *,
        generators: Sequence[torch.Generator],
        noise_scale: float | None = None,
        speed: float = 1.0,
    ) -> list[Conversion]:
        """Convert several utterances; each result is that of :meth:`convert`, whatever else is in the batch.

        The rhythm is found for each utterance by itself, so durations and lengths are exactly the same: a duration that
        rounding decides would otherwise tip over by the rounding errors of a batch. The decoder, where most of the work
        is, takes the batch at once; its mels are the same to float rounding (1e-5 in units of the target's scale). With
        ``mask_padding`` off, as published, padding would leak into the shorter utterances: these are converted one by
        one.

        Args:
            sources: (S_i, source_dim) each, normalised
            duration_features: (S_i, duration_dim) each, normalised; needed if ``duration_input`` is ``feature``
            generators: CPU generator for the noise of each utterance; may be the same one several times, which then
                draws in this order
            noise_scale, speed: as for :meth:`convert`
        """
        features: Sequence[Tensor | None] = duration_features or [None] * len(sources)
        waiting = zip(sources, features, generators, strict=True)
        if not self.config.mask_padding or len(sources) < 2:
            return [
                self.convert(source, feature, noise_scale=noise_scale, generator=generator, speed=speed)
                for source, feature, generator in waiting
            ]
        with torch.inference_mode():
            rhythms = [
                self._rhythm(source, feature, noise_scale, None, generator, speed)
                for source, feature, generator in waiting
            ]
            lengths = [int(durations.sum()) for _, durations in rhythms]
            frames = nn.utils.rnn.pad_sequence(
                [
                    gaussian_upsampling(tokens, durations, None, None, length)[0]
                    for (tokens, durations), length in zip(rhythms, lengths, strict=True)
                ],
                batch_first=True,
            )
            padding = padding_mask(torch.tensor(lengths, device=frames.device), frames.shape[1])
            _, after = self.decode(frames, padding)
        return [
            Conversion(mel=mel[:length], durations=durations[0])
            for mel, length, (_, durations) in zip(after, lengths, rhythms, strict=True)
        ]

    def _rhythm(
        self,
        source: Tensor,
        duration_feature: Tensor | None,
        noise_scale: float | None,
        noise: Tensor | None,
        generator: torch.Generator | None,
        speed: float,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (1, K, D) of one utterance and their predicted durations (1, K), some of them above 0."""
        config = self.config
        lengths = torch.tensor([len(source)], device=source.device)
        tokens, token_lengths = self._encode(source.unsqueeze(0), lengths, padded=False)
        feature = None if duration_feature is None else duration_feature.unsqueeze(0)
        inputs = self._duration_inputs(tokens, feature, lengths, token_lengths)
        if isinstance(self.duration_predictor, StochasticDurationPredictor):
            scale = config.noise_scale if noise_scale is None else noise_scale
            if noise is None:
                # the published draw is channel-first: a seed then gives the published durations
                noise = torch.randn(1, 2, tokens.shape[1], generator=generator)[0].T
            noise = noise.to(tokens).unsqueeze(0) * scale
            padding = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            exact = self.duration_predictor.sample(inputs, padding, noise)
        elif config.duration_predictor == "poisson":
            exact = torch.exp(self.duration_predictor(inputs, None))
        else:
            exact = (torch.exp(self.duration_predictor(inputs, None)) - 1.0).clamp_min(0.0)
        exact = torch.nan_to_num(exact, nan=1.0).clamp(0.0, LONGEST_DURATION)
        durations = round_durations(exact / speed, config.duration_rounding, config.max_duration)
        return tokens, durations if bool(durations.sum() > 0) else torch.ones_like(durations)

    def _encode(self, source: Tensor, lengths: Tensor, *, padded: bool = True) -> tuple[Tensor, Tensor]:
        """Tokens (B, K, D) and their numbers (B,)."""
        factor = self.config.frames_per_token
        encoded = self.encoder(source, padding_mask(lengths, source.shape[1]) if padded else None)
        return stack_frames(encoded, factor), lengths // factor

    def _duration_inputs(
        self, tokens: Tensor, feature: Tensor | None, lengths: Tensor, token_lengths: Tensor
    ) -> Tensor:
        config = self.config
        # As published, the stochastic predictor cuts the gradient at its input: a feature's branch keeps its random
        # weights for good, and the encoder learns nothing from durations.
        trained = config.duration_predictor != "stochastic"
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            if self.duration_branch is None:
                return tokens if trained else tokens.detach()
            if feature is None:
                raise ValueError("this model predicts durations from a feature; give duration_feature")
            known = lengths if config.mask_padding else None
            inputs: Tensor = self.duration_branch(feature, known, tokens.shape[1], token_lengths)
            return inputs

    def decode(self, frames: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mel before and after the postnet, (B, T, M) each, at the pitch that is predicted, if one is."""
        predicted_pitch = None if self.pitch_predictor is None else self.pitch_predictor(frames, padding)
        return self._decode(frames, padding, predicted_pitch, None)

    def _decode(
        self, frames: Tensor, padding: Tensor | None, predicted_pitch: Tensor | None, pitch: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.pitch_predictor is not None and predicted_pitch is not None:
            frames = self.pitch_predictor.tell(frames, predicted_pitch, pitch)
            if padding is not None and self.config.mask_padding:
                frames = frames.masked_fill(padding.unsqueeze(-1), 0.0)
        before = self.output(self.decoder(frames, padding))
        if self.postnet is None:
            return before, before
        return before, before + self.postnet(before, padding if self.config.mask_padding else None)
