"""What a corpus of many recordings costs: time per recording, memory, files; and what a thousand hours would take.

    python tests/benchmarks/scale.py [--sizes 1000 10000 100000] [--json]

Each size is measured in a process of its own, with one worker, on made-up recordings of 0.3 s, which are written to a
temporary folder. Processor times are those of both together, memory that of the parent and of the worker.
Bars: processor time per recording of `prepare`, `stats` and one epoch of loading within 1.3 times that of the smallest
size, 500 MB, 2,000 files below the data folder, and 10 s for `prepare` with nothing to do at 100,000.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy starts its threads

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

SIZES = (1_000, 10_000, 100_000)
SAMPLE_RATE, SECONDS = 8000, 0.3
MOST_TIMES, MOST_MEGABYTES, MOST_FILES, MOST_AGAIN_SECONDS = 1.3, 500.0, 2000, 10.0
HOURS = 1000
PAIR_FRAMES, PAIR_GFLOP = 940, 1009.0
"""Frames of a pair, and what the forward and the backward pass of the published size take for it
(``train_step.py``: 2018 GFLOP for two)."""
H100_TFLOPS = 990.0 * 0.4
"""bf16 without sparsity as published, and the share of it that large matrices reach in practice."""


def write_recordings(folder: Path, count: int) -> None:
    """Pairs of tones that are all different."""
    time_axis = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    random = np.random.default_rng(0)
    for side in ("source", "target"):
        (folder / side).mkdir()
    for number in range(count // 2):
        for side, offset in (("source", 0.0), ("target", 0.5)):
            hertz = 100.0 + 0.01 * (number + offset)
            wave = 0.3 * np.sin(2 * np.pi * hertz * time_axis) + random.normal(0.0, 0.01, len(time_axis))
            soundfile.write(folder / side / f"{number:06d}.wav", wave.astype(np.float32), SAMPLE_RATE, subtype="PCM_16")


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Processor time, with that of the workers, and wall-clock time in seconds."""
    cpu, wall = processor_time(), time.perf_counter()
    action()
    return processor_time() - cpu, time.perf_counter() - wall


def processor_time() -> float:
    """Of this process and of those that it has started, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(count: int) -> dict[str, float]:
    """One size, in this process."""
    from aasvc_cli.config.reading import override, read_preset
    from aasvc_cli.data.manifest import read_manifest
    from aasvc_cli.features.kinds import storage_key
    from aasvc_cli.features.store import FeatureStore
    from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
    from aasvc_cli.pipeline.stats import compute_stats
    from aasvc_cli.storage.files import read_json
    from aasvc_cli.storage.home import Home

    config = override(
        read_preset("hificaptain"),
        {"features.mel.sample_rate": SAMPLE_RATE, "features.mel.n_fft": 256, "features.mel.hop_length": 80}
        | {"features.mel.n_mels": 20, "model.frames_per_token": 2},
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_recordings(root, count)
        home = Home(root / "home")
        places = {"source": root / "source", "target": root / "target"}

        def once() -> None:
            prepare(home, config, PrepareOptions(**places, name="scale", jobs=1, dev="10", evaluation="10"))

        first, again = timed(once), timed(once)
        stats = timed(lambda: compute_stats(home))
        megabytes, worker_megabytes = (
            resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        from aasvc_cli.data.dataset import PairDataset  # loads torch, which takes memory whatever the corpus
        from aasvc_cli.features.stats import NormStats

        manifest = read_manifest(home)
        norm = NormStats.from_tree(read_json(home.stats / "scale" / "self.json", "statistics"), "statistics")
        store = FeatureStore(home.features, manifest.config.features, storage_key)
        pairs = PairDataset(manifest.sets["train"], store.load, norm)
        order = np.random.default_rng(1).permutation(len(pairs))
        epoch = timed(lambda: [pairs[int(index)] for index in order])
        files = [path for path in home.root.rglob("*") if path.is_file()]
        n_bytes = sum(path.stat().st_size for path in home.features.rglob("*") if path.is_file())
    return {
        "recordings": count,
        "prepare_ms": first[0] / count * 1e3,
        "stats_ms": stats[0] / count * 1e3,
        "epoch_ms": epoch[0] / count * 1e3,
        "again_cpu_s": again[0],
        "again_wall_s": again[1],
        "megabytes": megabytes,
        "worker_mb": worker_megabytes,
        "files": len(files),
        "bytes": n_bytes,
    }


def measured_apart(count: int) -> dict[str, float]:
    """One size, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", str(count)], stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def bars(results: list[dict[str, float]]) -> dict[str, bool]:
    """Which are met by all sizes."""
    smallest = results[0]
    times = [
        each[key] <= MOST_TIMES * smallest[key] for each in results for key in ("prepare_ms", "stats_ms", "epoch_ms")
    ]
    return {
        f"time per recording within {MOST_TIMES} x": all(times),
        f"memory below {MOST_MEGABYTES:g} MB": all(each["megabytes"] < MOST_MEGABYTES for each in results),
        f"files below {MOST_FILES}": all(each["files"] < MOST_FILES for each in results),
        f"nothing to do below {MOST_AGAIN_SECONDS:g} s": all(
            each["again_cpu_s"] < MOST_AGAIN_SECONDS for each in results
        ),
    }


def thousand_hours(prepare_share: float = 1.0 / 300.0) -> dict[str, Any]:
    """What so many hours on each side would take.

    Args:
        prepare_share: processor time of `prepare` over the length of the recordings (``features.py``)
    """
    frames = HOURS * 3600 * 24000 / 256
    mel, content = frames * 80 * 4 / 1e9, HOURS * 3600 * 50 * 96 * 2 / 1e9
    n_pairs = frames / PAIR_FRAMES
    return {
        "pairs of 10 s": round(n_pairs),
        "mels of both sides, GB": round(2 * mel),
        "content of the source, GB": round(content),
        "prepare, processor hours": round(2 * HOURS * prepare_share, 1),
        "one epoch, EFLOP": round(n_pairs * PAIR_GFLOP / 1e9, 1),
        "one epoch on one H100, hours": round(n_pairs * PAIR_GFLOP / 1e3 / H100_TFLOPS / 3600, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    results = [measured_apart(count) for count in sorted(arguments.sizes)]
    outcome = {"sizes": results, "bars": bars(results), "thousand_hours": thousand_hours()}
    if arguments.json:
        print(json.dumps(outcome, indent=1))
        return
    names = ("recordings", "prepare_ms", "stats_ms", "epoch_ms", "again_cpu_s", "again_wall_s")
    names += ("megabytes", "worker_mb", "files")
    print(" ".join(f"{name:>12}" for name in names))
    for each in results:
        print(" ".join(f"{each[name]:12.3f}" if each[name] % 1 else f"{each[name]:12.0f}" for name in names))
    for bar, met in bars(results).items():
        print(f"bar: {bar}: {'met' if met else 'NOT met'}")
    for what, value in thousand_hours().items():
        print(f"{HOURS} hours: {what}: {value}")


if __name__ == "__main__":
    main()
