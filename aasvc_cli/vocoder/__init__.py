"""From log-mel to waveform."""
