"""Seconds of processor time per scored pair: the published procedure step by step, and ours.

All are run one after the other in one process on the same recordings, and the ratio is what counts::

    python tests/benchmarks/evaluate.py [--repeats N] [--cores N] [--json]

``published`` gives the published numbers, ``corrected`` ours, ``both`` both. ``both, target known`` is what a second
system on the same targets costs, whose analyses are kept. ``--cores N`` also runs the whole command on few and on many
pairs in 1 and in N processes, and tells its start from what each pair costs.

The published procedure is written out as its authors run it: an aperiodicity analysis that nobody reads, one call of
SPTK and one loop over frequency bins per frame, and FastDTW in Python with a Python distance. Needs pysptk, fastdtw and
librosa.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402

from aasvc_cli.audio import dtw  # noqa: E402
from aasvc_cli.audio.files import read_audio, write_audio  # noqa: E402
from aasvc_cli.measures import signal as metrics  # noqa: E402

RECORDINGS = Path(__file__).parent.parent / "assets" / "recordings"
GOLDEN = RECORDINGS.parent / "metrics.json"
F0_MIN, F0_MAX = 90.0, 440.0
PAIRS_OVER_CORES = (4, 28)
"""So many pairs are evaluated by the whole command, to tell its start from its work."""


def published_analysis(wave: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F0, mel-cepstrum and relative power of each frame."""
    import pysptk
    import pyworld
    from scipy.signal import firwin, lfilter

    signal = np.array(wave * 32767, dtype=np.float64)
    signal = lfilter(firwin(255, 70 / (rate // 2), pass_zero=False), 1, signal)
    f0, times = pyworld.harvest(signal, rate, f0_floor=F0_MIN, f0_ceil=F0_MAX, frame_period=5.0)
    envelope = pyworld.cheaptrick(signal, f0, times, rate, fft_size=1024)
    pyworld.d4c(signal, f0, times, rate, fft_size=1024)
    cepstra = np.array([pysptk.sp2mc(frame, 39, 0.466) for frame in envelope])
    powers = []
    for frame in envelope:
        power = frame[0] + frame[-1]
        for value in frame[1:-1]:
            power += 2 * value
        powers.append(power / 1024)
    return f0, cepstra, 10 * np.log10(np.array(powers) / np.mean(powers))


def published_scores(converted: np.ndarray, target: np.ndarray, rate: int) -> dict[str, float]:
    """The four measures of one pair."""
    from fastdtw import fastdtw
    from librosa.effects import trim
    from scipy.spatial.distance import euclidean

    f0, cepstra, power = published_analysis(converted, rate)
    target_f0, target_cepstra, target_power = published_analysis(target, rate)
    x, y = target_cepstra[target_power > -20], cepstra[power > -20]
    rows, columns = np.array(fastdtw(x, y, dist=euclidean)[1]).T
    distortion = 10 / np.log(10) * np.sqrt(2 * ((x[rows] - y[columns]) ** 2).sum(axis=1))
    x, y = target_cepstra[target_f0 > 0], cepstra[f0 > 0]
    rows, columns = np.array(fastdtw(x, y, dist=euclidean)[1]).T
    contours = target_f0[target_f0 > 0][rows], f0[f0 > 0][columns]
    return {
        "MCD": float(distortion.mean()),
        "F0RMSE": float(np.sqrt(np.mean((contours[0] - contours[1]) ** 2))),
        "F0CORR": float(np.corrcoef(*contours)[0, 1]),
        "DDUR": abs(len(trim(y=converted)[0]) - len(trim(y=target)[0])) / rate,
    }


def over_cores(n_processes: int, folder: Path) -> dict[str, float]:
    """The whole command in some processes: seconds of its start, and of each further pair.

    Both by the clock, and of processor time, which other programs do not lengthen. Nothing is known about a recording
    beforehand, because each has a first sample of its own.
    """
    seconds = {}
    for n_pairs in PAIRS_OVER_CORES:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [
                sys.executable, "-m", "aasvc_cli", "evaluate", "--converted", folder / f"converted-{n_pairs}",
                "--target", folder / f"target-{n_pairs}", "--measures", "signal", "--f0-min", str(F0_MIN), "--f0-max",
                str(F0_MAX), "--jobs", str(n_processes), "--json", folder / "scores.json",
            ],
            env=dict(os.environ, AASVC_HOME=str(folder / f"home-{n_processes}-{n_pairs}")), check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds[n_pairs] = np.array([time.perf_counter() - start, used])
    few, many = PAIRS_OVER_CORES
    per_pair = (seconds[many] - seconds[few]) / (many - few)
    begin = seconds[few] - few * per_pair
    return {
        "start_seconds": begin[0], "start_processor_seconds": begin[1], "seconds_per_pair": per_pair[0],
        "processor_seconds_per_pair": per_pair[1],
    }  # fmt: skip


def different_copies(folder: Path) -> None:
    """Recordings that sound the same and are not."""
    for side, name in (("converted", "male/train_parallel_0003"), ("target", "female/train_parallel_0003")):
        wave, rate = read_audio(RECORDINGS / f"{name}.flac")
        for n_pairs in PAIRS_OVER_CORES:
            for copy in range(n_pairs):
                wave[0] = (copy + 1) / 32768
                write_audio(folder / f"{side}-{n_pairs}" / f"{copy}.wav", wave, rate)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    pairs = []
    for names in json.loads(GOLDEN.read_text(encoding="utf-8"))["pairs"]:
        (converted, rate), (target, _) = (read_audio(RECORDINGS / f"{name}.flac") for name in names.split(" vs "))
        pairs.append((converted, target, rate))

    known: dict[int, dict[metrics.Mode, metrics.Analysis]] = {}

    def analyses(wave: np.ndarray, rate: int, modes: tuple[metrics.Mode, ...]) -> dict[metrics.Mode, metrics.Analysis]:
        f0_range = {"f0_min": F0_MIN, "f0_max": F0_MAX}
        f0 = metrics.pitch(wave, rate, **f0_range)
        return {mode: metrics.analyse(wave, rate, **f0_range, mode=mode, f0=f0) for mode in modes}

    def ours(*modes: metrics.Mode, kept: bool = False) -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
        def score(converted: np.ndarray, target: np.ndarray, rate: int) -> dict[str, float]:
            if not kept or id(target) not in known:
                known[id(target)] = analyses(target, rate, modes)
            made = analyses(converted, rate, modes)
            found: dict[str, float] = {}
            for mode in modes:
                found |= metrics.score_analyses(made[mode], known[id(target)][mode]).named(mode)
            return found

        return score

    contenders = {
        "published procedure": published_scores,
        "published": ours("published"),
        "corrected": ours("corrected"),
        "both": ours(*metrics.MODES),
        "both, target known": ours(*metrics.MODES, kept=True),
    }
    dtw.warm_up()
    outcomes = {name: score(*pairs[0]) for name, score in contenders.items()}  # imports and caches are not measured
    difference = max(abs(outcomes["published"][key] - value) for key, value in outcomes["published procedure"].items())
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.repeats):
        for name, score in contenders.items():  # in turns, so that a busy machine is busy for all of them
            start = time.process_time()  # what other programs take meanwhile does not count
            for pair in pairs:
                score(*pair)
            seconds[name].append((time.process_time() - start) / len(pairs))
    over: dict[str, dict[str, float]] = {}
    if arguments.cores > 1:
        with tempfile.TemporaryDirectory() as folder:
            different_copies(Path(folder))
            over_cores(1, Path(folder))  # whatever is compiled once is compiled now
            shutil.rmtree(Path(folder) / f"home-1-{PAIRS_OVER_CORES[0]}")
            shutil.rmtree(Path(folder) / f"home-1-{PAIRS_OVER_CORES[1]}")
            over = {str(n): over_cores(n, Path(folder)) for n in (1, arguments.cores)}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    tree = {
        "pairs": len(pairs),
        "mean_seconds_of_audio": float(np.mean([(len(a) + len(b)) / 2 / rate for a, b, rate in pairs])),
        "seconds_per_pair": medians,
        "times_faster": {name: medians["published procedure"] / value for name, value in medians.items()},
        "largest_difference_of_published_scores": difference,
        "processes": over,
    }
    if arguments.json:
        print(json.dumps(tree, indent=1))
        return
    for name, value in medians.items():
        print(f"{name:24}  {value:6.3f} s per pair  {tree['times_faster'][name]:5.2f} x")
    print(f"published scores differ by at most {difference:.1e}")
    for n, value in over.items():
        print(f"{n} processes  start of {value['start_seconds']:.2f} s ({value['start_processor_seconds']:.2f} s used)")
        print(f"  each pair {value['seconds_per_pair']:.3f} s ({value['processor_seconds_per_pair']:.3f} s used)")


if __name__ == "__main__":
    main()
