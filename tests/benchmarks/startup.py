"""Start-up of help and completion, as a ratio to Python loading what any such program loads.

    python tests/benchmarks/startup.py [--rounds 20]

Each round runs every command line once, in turn, so that a machine that is busy for a while slows all of them. The
figures are medians: of wall-clock seconds, of processor seconds, and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
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
