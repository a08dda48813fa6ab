"""Cut and encode the demo corpus that ships with the package.

    python tests/tools/build_demo_corpus.py CORPUS aasvc_cli/assets/demo/ja-JP

CORPUS is a folder ``{male,female}/{wav,text}``. The first 80 training, 10 dev and 10 eval pairs are written as Ogg Opus
and decoded again; the report says how far the decoded recordings are from the originals.

Opus was chosen over Vorbis by these numbers (24 recordings, libsndfile 1.2.2, log10-mel difference over the loudest
four decades):

    =======  ========  =======  =====================
    codec    kbit/s    log-mel  bias above 8 kHz
    =======  ========  =======  =====================
    Opus         84.5   0.0227                  0.002
    Opus         59.3   0.0414                 -0.001
    Vorbis       70.2   0.0503                  0.008
    Vorbis       56.6   0.0777                  0.002
    =======  ========  =======  =====================
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

SIZES = {"train_parallel": 80, "dev": 10, "eval": 10}
COMPRESSION = 0.781
"""libsndfile's compression level; about 64 kbit/s for one channel."""


def delay(decoded: np.ndarray, original: np.ndarray) -> int:
    """Lag in samples at which two recordings agree best."""
    size = 2 * len(original)
    product = np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(original, size))
    lag = int(np.argmax(np.fft.irfft(product)))
    return lag - size if lag > len(original) else lag


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    n_bytes, seconds, worst_delay, worst_length, snr = 0, 0.0, 0, 0, []
    for speaker in ("male", "female"):
        for name, count in SIZES.items():
            recordings = sorted((arguments.corpus / speaker / "wav" / name).glob("*.flac"))[:count]
            wav_folder = arguments.folder / speaker / "wav" / name
            wav_folder.mkdir(parents=True, exist_ok=True)
            for recording in recordings:
                samples, sample_rate = soundfile.read(recording, dtype="float32")
                path = wav_folder / f"{recording.stem}.ogg"
                with soundfile.SoundFile(
                    path, "w", sample_rate, 1, format="OGG", subtype="OPUS", compression_level=COMPRESSION
                ) as stream:
                    stream.write(samples)
                decoded, decoded_rate = soundfile.read(path, dtype="float32")
                assert decoded_rate == sample_rate, path
                worst_length = max(worst_length, abs(len(decoded) - len(samples)))
                n = min(len(decoded), len(samples))
                worst_delay = max(worst_delay, abs(delay(decoded[:n], samples[:n])))
                error = np.mean((decoded[:n] - samples[:n]) ** 2)
                snr.append(10 * np.log10(np.mean(samples**2) / error))
                n_bytes += path.stat().st_size
                seconds += len(samples) / sample_rate
            kept = {recording.stem for recording in recordings}
            lines = (arguments.corpus / speaker / "text" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            text_path = arguments.folder / speaker / "text" / f"{name}.txt"
            text_path.parent.mkdir(parents=True, exist_ok=True)
            text_path.write_text(
                "".join(f"{line}\n" for line in lines if line.split(maxsplit=1)[0] in kept), encoding="utf-8"
            )
    print(f"{len(snr)} recordings, {seconds:.1f} s, {n_bytes / 1e6:.2f} MB, {n_bytes * 8e-3 / seconds:.1f} kbit/s")
    print(f"largest delay {worst_delay} samples, largest difference in length {worst_length} samples")
    print(f"signal-to-noise ratio {np.mean(snr):.1f} dB on average, {np.min(snr):.1f} dB at worst")


if __name__ == "__main__":
    main()
