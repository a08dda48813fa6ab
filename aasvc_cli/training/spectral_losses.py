"""Distances between waveforms by their spectra, at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from aasvc_cli.audio.mel import mel_basis
from aasvc_cli.config.settings import MelConfig

RESOLUTIONS = (256, 512, 1024, 2048)
"""Window lengths in samples; frames are a quarter of that apart."""
BANDS_PER_WINDOW = 16
"""One mel band for so many samples of the window: more would hold no bin in the lowest bands."""
_FLOOR = 1e-5


def magnitudes(wave: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """Magnitude of a centred short-time spectrum: (B, n) -> (B, T, F), floored so that it has a gradient anywhere."""
    padded = functional.pad(wave.unsqueeze(1), (n_fft // 2, n_fft // 2), mode="reflect").squeeze(1)
    spectrum = torch.fft.rfft(padded.unfold(-1, n_fft, hop_length) * window)
    return torch.sqrt((spectrum.real.square() + spectrum.imag.square()).clamp_min(_FLOOR**2))


class SpectralLoss(nn.Module):
    """Mean distance of log-mels, and of log-magnitudes, over several resolutions.

    Short windows tell when something sounds, long ones at which pitch. Zero for equal signals.
    """

    def __init__(self, sample_rate: int, resolutions: Sequence[int] = RESOLUTIONS) -> None:
        super().__init__()
        self.resolutions = tuple(resolutions)
        for n_fft in self.resolutions:
            n_mels = max(4, min(128, n_fft // BANDS_PER_WINDOW))
            settings = MelConfig(sample_rate=sample_rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=n_mels)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"basis_{n_fft}", torch.from_numpy(mel_basis(settings)).T, persistent=False)

    def forward(self, wave: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of log-mels, and of spectra.

        Args:
            wave, target: (B, n)

        Returns:
            two scalars: mean absolute difference of natural log-mels; the same of log-magnitudes plus the relative
            distance of magnitudes (spectral convergence)
        """
        mel = wave.new_zeros(())
        stft = wave.new_zeros(())
        for n_fft in self.resolutions:
            window, basis = self.get_buffer(f"window_{n_fft}"), self.get_buffer(f"basis_{n_fft}")
            made = magnitudes(wave, n_fft, n_fft // 4, window)
            with torch.no_grad():
                wanted = magnitudes(target, n_fft, n_fft // 4, window)
            difference = torch.log((made @ basis).clamp_min(_FLOOR)) - torch.log((wanted @ basis).clamp_min(_FLOOR))
            mel = mel + difference.abs().mean()
            convergence = torch.linalg.vector_norm(made - wanted) / torch.linalg.vector_norm(wanted).clamp_min(_FLOOR)
            stft = stft + (torch.log(made) - torch.log(wanted)).abs().mean() + convergence
        return mel / len(self.resolutions), stft / len(self.resolutions)
