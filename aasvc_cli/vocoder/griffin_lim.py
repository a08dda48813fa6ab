"""Griffin-Lim without weights: log-mel to waveform.

Three steps, none of which draws random numbers:

1. The linear spectrum is the non-negative one whose mel bands come closest to the given ones in the sense of
   Kullback and Leibler (multiplicative updates of Lee and Seung, 2001).
2. The phase is integrated from the slopes of the log-magnitude, which for a Gaussian window are the gradient of the
   phase (Prusa, Balazs and Sondergaard, A noniterative method for reconstruction of phase from STFT magnitude, 2017).
   Instead of a heap, each frame is integrated outwards from its local maxima, and these carry the phase on through
   time, so that all bins advance together.
3. A few iterations of fast Griffin-Lim (Perraudin, Balazs and Sondergaard, 2013) in which not the linear spectrum is
   held, but the mel spectrum: consistency may move energy within a mel band, which the mel spectrum doesn't know.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from aasvc_cli.audio.mel import mel_basis
from aasvc_cli.config.settings import MelConfig

N_ITER = 3
"""Iterations by default. More come closer to the given mel, but mels that a model wrote are smoother than any
recording's, and then every iteration takes away from the coherence of the first phase (measured by
``tests/benchmarks/griffin_lim.py``)."""
INVERSION_STEPS = 10
"""Multiplicative updates of the linear spectrum; more change nothing that can be measured."""
MOMENTUM = 0.99
FREEDOM = 0.9
"""Share of the spectrum that an iteration takes from the signal it has reached, rather than from step 1."""
HANN_TO_GAUSSIAN = 0.25645
"""Time-frequency ratio of the Gaussian window nearest to a Hann window, per squared length (Prusa et al., table 1)."""
_FLOOR = 1e-12
_LOWEST, _HIGHEST = -12.0, 6.0
"""Decades of mel magnitude beyond which values are taken as that."""


class GriffinLim:
    """Synthesise speech from log-mels of the given settings.

    Attributes:
        sample_rate: of the waveform, in Hz
        hop_length: samples per frame
    """

    def __init__(self, mel: MelConfig, *, n_iter: int = N_ITER) -> None:
        self.mel = mel
        self.n_iter = n_iter
        self.sample_rate = mel.sample_rate
        self.hop_length = mel.hop_length
        self._n_fft = mel.n_fft
        self._window_length = mel.win_length or mel.n_fft
        basis = torch.from_numpy(mel_basis(mel))  # (M, F)
        self._basis = basis
        coverage = basis.sum(0)
        # bins outside all bands get nothing
        self._spread = basis / coverage.clamp_min(_FLOOR)
        before = (self._n_fft - self._window_length) // 2
        after = self._n_fft - self._window_length - before
        self._window = functional.pad(torch.hann_window(self._window_length), (before, after))

    def synthesise(self, log_mel: Tensor, *, seed: int = 0) -> Tensor:  # noqa: ARG002 - it draws nothing
        """Waveforms of a batch of equally long log-mels; the same input always gives the same output.

        Args:
            log_mel: (B, T, M), not normalised. Values that are not numbers count as silence.
            seed: has no effect here

        Returns:
            (B, T * hop_length) float32 on the device of the input, full scale at 1.0, not clipped
        """
        if log_mel.ndim != 3 or log_mel.shape[2] != self.mel.n_mels:
            raise ValueError(f"expected (B, T, {self.mel.n_mels}), got {tuple(log_mel.shape)}")
        if not log_mel.shape[0] or not log_mel.shape[1]:
            return log_mel.new_zeros(log_mel.shape[0], log_mel.shape[1] * self.hop_length, dtype=torch.float32)
        with torch.inference_mode():
            basis, spread, window = (part.to(log_mel.device) for part in (self._basis, self._spread, self._window))
            mel = self._magnitude(log_mel.float())
            linear = _invert_mel(mel, basis, spread)
            spectrum = torch.polar(linear, self._first_phase(linear))
            envelope = self._overlap_add(window.square().expand(1, mel.shape[1], -1)).clamp_min(1e-4)
            previous: Tensor | None = None
            for _ in range(self.n_iter):
                reached = self._analyse(self._synthesise(spectrum, window, envelope), window)
                magnitude = reached.abs().lerp(linear, 1.0 - FREEDOM)
                magnitude *= _band_gain(mel, magnitude, basis, spread)
                spectrum = reached if previous is None else reached + MOMENTUM * (reached - previous)
                spectrum = spectrum * (magnitude / spectrum.abs().clamp_min(_FLOOR))
                previous = reached
            wave = self._synthesise(spectrum, window, envelope)
            start, length = self._n_fft // 2, mel.shape[1] * self.hop_length
            wave = wave[:, start : start + length]
            # only a hop longer than half a window leaves samples behind the last frame that nothing describes
            return functional.pad(wave, (0, length - wave.shape[1])).clone()

    def _magnitude(self, log_mel: Tensor) -> Tensor:
        base = math.e if self.mel.log_base is None else self.mel.log_base
        decades = log_mel * math.log10(base)
        decades = torch.nan_to_num(decades, nan=_LOWEST, posinf=_HIGHEST, neginf=_LOWEST)
        return 10.0 ** decades.clamp(_LOWEST, _HIGHEST)

    def _analyse(self, wave: Tensor, window: Tensor) -> Tensor:
        """(B, n) -> (B, T, F), no padding."""
        return torch.fft.rfft(wave.unfold(-1, self._n_fft, self.hop_length) * window)

    def _synthesise(self, spectrum: Tensor, window: Tensor, envelope: Tensor) -> Tensor:
        """(B, T, F) -> (B, n), the signal whose spectrum is nearest (Griffin and Lim, 1984)."""
        return self._overlap_add(torch.fft.irfft(spectrum, self._n_fft) * window) / envelope

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, T, n_fft) -> (B, (T - 1) * hop_length + n_fft)."""
        n_samples = (frames.shape[1] - 1) * self.hop_length + self._n_fft
        columns = frames.transpose(1, 2)  # (B, n_fft, T)
        summed = functional.fold(columns, (1, n_samples), (1, self._n_fft), stride=(1, self.hop_length))
        return summed.flatten(1)

    def _first_phase(self, linear: Tensor) -> Tensor:
        """(B, T, F) magnitudes -> (B, T, F) phases that fit together within and between frames."""
        n_bins = linear.shape[2]
        bins = torch.arange(n_bins, device=linear.device)
        log_linear = torch.log(linear.clamp_min(_FLOOR))
        along_bins = _slope(log_linear)
        along_time = _slope(log_linear.transpose(1, 2)).transpose(1, 2)
        # radians per hop and per bin; the phase counts from the start of a frame, which turns it by pi per bin
        ratio = HANN_TO_GAUSSIAN * self._window_length**2 / (self.hop_length * self._n_fft)
        per_hop = along_bins / ratio + 2.0 * math.pi * self.hop_length / self._n_fft * bins
        per_bin = -ratio * along_time - math.pi
        summed = torch.cumsum(per_bin, dim=2) - 0.5 * per_bin
        peak = _nearest_peak(linear)
        from_peak = summed - summed.gather(2, peak)
        step = torch.cat([per_hop[:, :1], 0.5 * (per_hop[:, 1:] + per_hop[:, :-1])], dim=1)
        phase = torch.empty_like(linear)
        current = -math.pi * bins.to(linear).expand(len(linear), -1)
        for t in range(linear.shape[1]):
            advanced = current + step[:, t]
            current = torch.remainder(advanced.gather(1, peak[:, t]) + from_peak[:, t], 2.0 * math.pi)
            phase[:, t] = current
        return phase


def _invert_mel(mel: Tensor, basis: Tensor, spread: Tensor) -> Tensor:
    """(B, T, M) -> (B, T, F), non-negative, with those mel bands."""
    linear = (mel @ basis) / (basis.sum(1) @ basis).clamp_min(_FLOOR)
    for _ in range(INVERSION_STEPS):
        linear *= _band_gain(mel, linear, basis, spread)
    return linear


def _band_gain(mel: Tensor, linear: Tensor, basis: Tensor, spread: Tensor) -> Tensor:
    """The factor per bin that brings the bands of ``linear`` nearer to ``mel``."""
    return (mel / (linear @ basis.T).clamp_min(_FLOOR)) @ spread


def _slope(values: Tensor) -> Tensor:
    """Central difference along the last axis of (B, N, L)."""
    padded = functional.pad(values, (1, 1), mode="replicate")
    return (padded[..., 2:] - padded[..., :-2]) / 2.0


def _nearest_peak(linear: Tensor) -> Tensor:
    """(B, T, F) -> (B, T, F) bin of the local maximum on whose slope each bin lies; valleys divide."""
    n_bins = linear.shape[2]
    left, middle, right = linear[..., :-2], linear[..., 1:-1], linear[..., 2:]
    is_peak = functional.pad((middle > left) & (middle >= right), (1, 1))
    is_peak[..., 0] = linear[..., 0] >= linear[..., 1]
    is_peak[..., -1] = linear[..., -1] > linear[..., -2]
    is_valley = functional.pad((middle < left) & (middle <= right), (1, 1))
    region = torch.cumsum(is_valley, dim=-1)
    bins = torch.arange(n_bins, device=linear.device).expand_as(region)
    # a bit of a plateau can leave a region without maximum; its first bin does then
    highest = torch.where(is_peak, bins, torch.zeros_like(bins))
    peak = torch.zeros_like(region).scatter_reduce(-1, region, highest, "amax", include_self=False)
    return peak.gather(-1, region)
