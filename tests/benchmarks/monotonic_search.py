"""Time of the search for the best alignment of a batch: compiled for the CPU, and as tensor operations for any device.

    python tests/benchmarks/monotonic_search.py [--batch-size 16] [--frames 940] [--tokens 235] [--repeats 20] [--json]

The compiled search takes one core, whatever the threads of torch. The tensor operations are those that a GPU runs
without waiting for its host; on a CPU they only tell how much the compiled search saves. Both find the same path.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from results import show

from aasvc_cli.model.alignment import monotonic_search, tensor_monotonic_search


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--frames", type=int, default=940)
    parser.add_argument("--tokens", type=int, default=235)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, arguments.frames, arguments.tokens)
    scores = torch.randn(shape, generator=generator).log_softmax(dim=-1)
    lengths = [torch.full((arguments.batch_size,), length) for length in shape[1:]]
    compiled, as_tensors = monotonic_search(scores, *lengths), tensor_monotonic_search(scores, *lengths)
    taken: dict[str, list[float]] = {"compiled": [], "tensors": []}
    for _ in range(arguments.repeats):
        for name, search in (("compiled", monotonic_search), ("tensors", tensor_monotonic_search)):
            began = time.process_time()
            search(scores, *lengths)
            taken[name].append(1e3 * (time.process_time() - began))
    median = {name: statistics.median(times) for name, times in taken.items()}
    result = {
        "batch_size": arguments.batch_size,
        "frames": arguments.frames,
        "tokens": arguments.tokens,
        "compiled_ms": round(median["compiled"], 2),
        "tensors_ms": round(median["tensors"], 2),
        "tensors_over_compiled": round(median["tensors"] / median["compiled"], 1),
        "same_path": bool(torch.equal(compiled, as_tensors)),
    }
    show(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
