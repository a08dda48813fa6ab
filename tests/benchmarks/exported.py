"""An exported voice beside the one with torch: cold start, speed once loaded, sizes, differences of samples.

    python tests/benchmarks/exported.py [--model bundled] [--rounds 5]

Cold runs of `aasvc convert` alternate, so that a machine that is busy for a while slows all; a ratio is the median of
the ratios to torch within a round, of wall-clock and of processor seconds. `kept` is `--runtime onnx`.
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


def show_cold(choices: dict[str, list[str]], source: Path, rounds: int) -> None:
    """Cold runs by what chooses the runtime; the first one is the measure of the others."""
    plain = ["-m", "aasvc_cli", "-q", "convert", str(source), "-o", str(source.with_name("o.wav"))]
    lines = {name: [*plain, *arguments] for name, arguments in choices.items()}
    for arguments in lines.values():  # makes what is kept, and compiles what is not compiled yet
        measure(arguments, {})
    runs = [{name: measure(arguments, {}) for name, arguments in lines.items()} for _ in range(rounds)]
    print(f"{'cold aasvc convert, 5 s of speech':36}{'seconds':>9}{'ratio':>8}{'processor':>11}{'ratio':>8}")
    base = next(iter(lines))
    for name in lines:
        (wall, wall_ratio), (processor, ratio) = (
            (statistics.median(run[name][kind] for run in runs),
             statistics.median(run[name][kind] / run[base][kind] for run in runs))
            for kind in (0, 1)
        )  # fmt: skip
        print(f"{name:36}{wall:9.3f}{wall_ratio:8.3f}{processor:11.3f}{ratio:8.3f}")


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
        torch, kept = (["--model", options.model, "--runtime", runtime] for runtime in ("torch", "onnx"))
        show_cold({"torch": torch, "onnxruntime": ["--model", str(folder)], "kept": kept}, source, options.rounds)
        wave, rate = read_audio(source)
        converters = {"torch": Converter.load(options.model, device="cpu"), "onnxruntime": Converter.load(folder)}
        show_warm(converters, wave, rate, options.rounds)


if __name__ == "__main__":
    main()
