"""How many times faster than real time `prepare` is, per core, reading and writing included.

    python tests/benchmarks/features.py [RECORDING] [--sample-rate 48000] [--minutes 10] [--kind mel] [--json]

Copies of one recording, resampled, become the two sides of a made-up corpus in a temporary folder, which is prepared in
one process with one thread. The bar is 300 times real time for log-mels at 48 kHz.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy starts its threads

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.reading import override, read_preset
from aasvc_cli.data.analysis import Bench, Job, analyse
from aasvc_cli.features.kinds import extract, feature_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.result_cache import ResultCache

BAR = 300.0
BUNDLED = Path(__file__).parent.parent / "assets" / "male_train_parallel_0003.flac"


def best_of(times: int, action: Callable[[], object]) -> float:
    """Shortest time in seconds."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return min(found)


def measure(recording: Path, sample_rate: int, minutes: float, kind: str, suffix: str) -> dict[str, float]:
    """Ratios to real time: of the whole, and of its steps one by one."""
    config = override(
        read_preset("hificaptain"),
        {"features.mel.sample_rate": sample_rate, "features.source": kind, "features.duration": kind},
    )
    wave, rate = read_audio(recording)
    wave = resample(wave, rate, sample_rate)
    seconds = len(wave) / sample_rate
    n_pairs = max(3, round(minutes * 60 / seconds / 2))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for side in ("source", "target"):
            (root / side).mkdir()
            for index in range(n_pairs):
                write_audio(root / side / f"{index:04d}{suffix}", wave, sample_rate)
        cpu = time.process_time()
        report = prepare(
            Home(root / "home"), config, PrepareOptions(source=root / "source", target=root / "target", jobs=1)
        )
        cpu = time.process_time() - cpu
        again = prepare(
            Home(root / "home"), config, PrepareOptions(source=root / "source", target=root / "target", jobs=1)
        )
        sample = root / "source" / f"0000{suffix}"
        store = FeatureStore(root / "steps", config.features, feature_key)
        feature = extract(kind, wave, config.features)
        assert analyse(Job(sample, (kind,)), Bench(store, ResultCache(None), root / "excerpts")).computed
        steps = {
            "read": best_of(20, lambda: read_audio(sample)),
            "extract": best_of(20, lambda: extract(kind, wave, config.features)),
            "write": best_of(20, lambda: store.save(kind, sample, feature)),
            "check_again": best_of(20, lambda: store.facts(kind, sample) is not None),
        }
    return {
        "audio_minutes": report.analysed_seconds / 60,
        "prepare": report.analysed_seconds / report.elapsed_seconds,
        "prepare_per_cpu_second": report.analysed_seconds / cpu,
        "prepare_again": report.analysed_seconds / again.elapsed_seconds,
        **{step: seconds / spent for step, spent in steps.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, nargs="?", default=BUNDLED)
    parser.add_argument("--sample-rate", type=int, default=48000)
    parser.add_argument("--minutes", type=float, default=10.0, help="how much audio to prepare")
    parser.add_argument("--kind", default="mel", help="feature of the source side")
    parser.add_argument("--suffix", default=".wav", choices=[".wav", ".flac", ".ogg"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ratios = measure(arguments.recording, arguments.sample_rate, arguments.minutes, arguments.kind, arguments.suffix)
    met = ratios["prepare"] >= BAR if (arguments.kind, arguments.sample_rate) == ("mel", 48000) else None
    if arguments.json:
        print(json.dumps(ratios | {"bar": BAR, "met": met}, indent=1))
        return
    print(f"{ratios.pop('audio_minutes'):.1f} minutes at {arguments.sample_rate} Hz, {arguments.suffix}, one core")
    for name, ratio in ratios.items():
        print(f"{name:>24} {ratio:8.0f} x real time")
    if met is not None:
        print(f"bar: {BAR:.0f} x for prepare: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
