"""An exported voice beside the one with torch: cold start, speed once loaded, sizes, differences of samples.

    python tests/benchmarks/exported.py [--model bundled] [--rounds 5]

Cold runs of `aasvc convert` alternate, so that a machine that is busy for a while slows both; the ratio is the median
of the ratios within a round, of wall-clock and of processor seconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from startup import measure, write_recording

from aasvc_cli.audio.files import read_audio
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.pipeline.export import export_model
from aasvc_cli.storage.home import find_home


def show_cold(models: dict[str, str], source: Path, rounds: int) -> None:
    lines = {
        name: ["-m", "aasvc_cli", "-q", "convert", str(source), "-o", str(source.with_name("o.wav")), "--model", model]
        for name, model in models.items()
    }
    for arguments in lines.values():
        measure(arguments, {})
    runs = [{name: measure(arguments, {}) for name, arguments in lines.items()} for _ in range(rounds)]
    print(f"{'cold aasvc convert, 5 s of speech':36}{'seconds':>9}{'processor':>11}")
    for name in lines:
        print(
            f"{name:36}"
            + "".join(f"{statistics.median(run[name][kind] for run in runs):{9 + 2 * kind}.3f}" for kind in (0, 1))
        )
    ratios = [statistics.median(run["onnxruntime"][kind] / run["torch"][kind] for run in runs) for kind in (0, 1)]
    print(f"{'ratio':36}{ratios[0]:9.3f}{ratios[1]:11.3f}")


def show_warm(converters: dict[str, Converter], wave: np.ndarray, rate: int, rounds: int) -> None:
    results = {}
    print(f"\n{'loaded, seconds per second of result':36}{'median':>9}")
    for name, converter in converters.items():
        taken = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            results[name] = converter.convert(wave, rate)
            taken.append(time.perf_counter() - began)
        print(f"{name:36}{statistics.median(taken[1:]) * converter.sample_rate / len(results[name].wave):9.3f}")
    one, other = results.values()
    same = one.durations.tolist() == other.durations.tolist()
    print(f"same durations: {same}; log-mels differ by {np.abs(one.log_mel - other.log_mel).max():.1e}", end="; ")
    difference = np.abs(one.wave - other.wave)
    print(f"samples by {difference.max():.1e} at most, {np.sqrt(np.mean(difference**2)):.1e} in the mean square")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, source = Path(place) / "exported", Path(place) / "in.wav"
        write_recording(source)
        began = time.perf_counter()
        summary = export_model(find_home(), options.model, folder)
        print(f"exported in {time.perf_counter() - began:.1f} s: {dict(summary.files)}, {summary.difference:.1e} off\n")
        show_cold({"torch": options.model, "onnxruntime": str(folder)}, source, options.rounds)
        wave, rate = read_audio(source)
        converters = {"torch": Converter.load(options.model, device="cpu"), "onnxruntime": Converter.load(folder)}
        show_warm(converters, wave, rate, options.rounds)


if __name__ == "__main__":
    main()
