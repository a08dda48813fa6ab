"""Start-up of help and completion, as a ratio to Python loading what any such program loads; and of a conversion.

    python tests/benchmarks/startup.py [--rounds 20]
    python tests/benchmarks/startup.py --convert [--rounds 3]

Each round runs every command line once, in turn, so that a machine that is busy for a while slows all of them. The
figures are medians: of wall-clock seconds, of processor seconds, and of the ratio within a round.

With ``--convert``: `aasvc convert` of a recording of 5 s beside `import torch`, and what Python spends on importing
which packages on the way (its own clock, so of a quiet machine only the shares mean something).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from aasvc_cli.audio.files import read_audio
from aasvc_cli.storage.home import bundled

UNWANTED = (
    "librosa", "torchaudio", "numba", "scipy", "matplotlib", "joblib", "h5py", "pyworld", "pysptk", "sympy",
)  # fmt: skip
"""What a conversion must not load."""

LINES = {
    'python -c "import typer, rich.console"': (["-c", "import typer, rich.console"], {}),
    "aasvc --help": (["-m", "aasvc_cli", "--help"], {}),
    "aasvc train --help": (["-m", "aasvc_cli", "train", "--help"], {}),
    "aasvc convert --help": (["-m", "aasvc_cli", "convert", "--help"], {}),
    "bash: aasvc tr": (
        ["-m", "aasvc_cli"],
        {"_AASVC_COMPLETE": "complete_bash", "COMP_WORDS": "aasvc tr", "COMP_CWORD": "1"},
    ),
    "bash: aasvc convert --model f": (
        ["-m", "aasvc_cli"],
        {"_AASVC_COMPLETE": "complete_bash", "COMP_WORDS": "aasvc convert --model f", "COMP_CWORD": "3"},
    ),
    "zsh: aasvc convert --model f": (
        ["-m", "aasvc_cli"],
        {"_AASVC_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "aasvc convert --model f"},
    ),
    "fish: aasvc train --conf s": (
        ["-m", "aasvc_cli"],
        {
            "_AASVC_COMPLETE": "complete_fish",
            "_TYPER_COMPLETE_ARGS": "aasvc train --conf s",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
    ),
}
"""What is measured: arguments of Python and variables; the first one is the measure of the others."""


def measure(arguments: list[str], variables: dict[str, str]) -> tuple[float, float]:
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env={**os.environ, **variables}, capture_output=True, check=True)
    seconds, after = time.perf_counter() - began, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, processor


def write_recording(path: Path) -> None:
    """Sentences of the demo corpus, one after the other, 5 s in all."""
    waves = [read_audio(path) for path in sorted((bundled("demo") / "ja-JP/male/wav/eval").iterdir())]
    rate = waves[0][1]
    soundfile.write(path, np.concatenate([wave for wave, _ in waves])[: 5 * rate], rate)


def import_seconds(arguments: list[str]) -> Counter[str]:
    """What importing took by package, as Python tells it, without what its modules import in turn."""
    command = [sys.executable, "-X", "importtime", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found: Counter[str] = Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", told, re.MULTILINE):
        found[name.split(".")[0]] += int(own)
    return Counter({name: own / 1e6 for name, own in found.items()})


def show_conversion(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.wav"
        write_recording(source)
        convert = ["-m", "aasvc_cli", "--quiet", "convert", str(source), "-o", str(Path(folder) / "out.wav")]
        lines = {"python -c 'import torch'": ["-c", "import torch"], "aasvc convert": convert}
        for arguments in lines.values():
            measure(arguments, {})
        runs = [{name: measure(arguments, {}) for name, arguments in lines.items()} for _ in range(rounds)]
        print(f"{'':42}{'seconds':>9}{'processor':>11}")
        for name in lines:
            wall, processor = (statistics.median(run[name][kind] for run in runs) for kind in (0, 1))
            print(f"{name:42}{wall:9.3f}{processor:11.3f}")
        imports = import_seconds(convert)
    everything = sum(imports.values())
    print(f"\n{'importing':42}{'seconds':>9}{'share':>8}")
    for package, own in imports.most_common(12):
        print(f"{package:42}{own:9.3f}{own / everything:8.1%}")
    print("not loaded:", ", ".join(name for name in UNWANTED if name not in imports))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--convert", action="store_true")
    options = parser.parse_args()
    rounds = options.rounds
    if options.convert:
        show_conversion(rounds)
        return
    for arguments, variables in LINES.values():  # compiles what is not compiled yet
        measure(arguments, variables)
    runs = [{name: measure(*line) for name, line in LINES.items()} for _ in range(rounds)]
    base = next(iter(LINES))
    print(f"{'':42}{'seconds':>9}{'ratio':>8}{'processor':>11}{'ratio':>8}")
    for name in LINES:
        columns = [
            (statistics.median(run[name][kind] for run in runs),
             statistics.median(run[name][kind] / run[base][kind] for run in runs))
            for kind in (0, 1)
        ]  # fmt: skip
        (wall, wall_ratio), (processor, processor_ratio) = columns
        print(f"{name:42}{wall:9.3f}{wall_ratio:8.2f}{processor:11.3f}{processor_ratio:8.2f}")


if __name__ == "__main__":
    main()
