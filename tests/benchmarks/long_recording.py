"""Peak memory and speed of ``aasvc convert`` for recordings from a minute to an hour.

    python tests/benchmarks/long_recording.py [MINUTES ...]

Recordings are sentences of the demo corpus with pauses between them. Each is converted by a process of its own, whose
peak of resident memory is what the operating system says. Reading, cutting, converting and writing are included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from aasvc_cli.audio.files import read_audio
from aasvc_cli.storage.home import bundled

PAUSES = (0.15, 0.3, 0.6, 1.5, 3.0)
NOISE = 1e-4


def write_recording(path: Path, minutes: float) -> None:
    """Sentences and pauses in random order, the same each time, with a little noise under all of it."""
    rng = np.random.default_rng(0)
    sentences = [read_audio(path) for path in sorted((bundled("demo") / "ja-JP/male/wav/train_parallel").iterdir())]
    rate = sentences[0][1]
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as stream:
        while stream.frames < minutes * 60 * rate:
            wave, _ = sentences[rng.integers(len(sentences))]
            pause = np.zeros(round(rng.choice(PAUSES) * rate), np.float32)
            both = np.concatenate([wave, pause])
            stream.write(both + rng.normal(0.0, NOISE, len(both)).astype(np.float32))


def convert(source: Path, output: Path) -> tuple[float, float, float]:
    """Peak in MB, seconds of processor, seconds on the clock."""
    code = (
        "import resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, time.perf_counter() - began)\n"
    )
    command = [sys.executable, "-m", "aasvc_cli", "--quiet", "convert", str(source), "-o", str(output)]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True, env=os.environ
    )
    peak, processor, clock = map(float, done.stdout.splitlines()[-1].split())
    return peak, processor, clock


def main() -> None:
    """Print one line for each length."""
    print("minutes  result  peak MB  processor s  clock s  real-time factor (processor / result)")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in [float(argument) for argument in sys.argv[1:]] or [1.0, 10.0, 60.0]:
            source, output = Path(folder) / "in.wav", Path(folder) / "out.flac"
            write_recording(source, minutes)
            peak, processor, clock = convert(source, output)
            seconds = soundfile.info(output).duration
            print(
                f"{minutes:7.0f} {seconds / 60:7.1f} {peak:8.0f} {processor:12.1f} {clock:8.1f} "
                f"{processor / seconds:8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
