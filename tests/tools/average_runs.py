"""Write the mean of the weights of several training runs as a run of its own, which converts and can be scored.

python tests/tools/average_runs.py EXP_FOLDER EXP_FOLDER... --out EXP_FOLDER

Runs of which one began with the weights of the other lie in one valley of the loss; the mean of their weights is often
better than each (Wortsman et al., Model soups, 2022). Configuration, statistics and data are those of the last run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import write_text


def mean_weights(networks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each floating-point tensor; of the others, those of the last network."""
    return {
        name: torch.stack([tensors[name].double() for tensors in networks]).mean(dim=0).to(last.dtype)
        if last.is_floating_point()
        else last
        for name, last in networks[-1].items()
    }


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    settings = {(run / "stats.json").read_bytes() for run in arguments.runs}
    if len(settings) > 1:
        raise SystemExit("the runs have different statistics, so their weights do not mean the same")

    loaded = [load_checkpoint(run / "best.safetensors") for run in arguments.runs]
    mean = mean_weights([tensors for tensors, _ in loaded])
    header = {"step": loaded[-1][1]["step"], "mean_of": [run.name for run in arguments.runs]}
    save_checkpoint(arguments.out / "best.safetensors", mean, header)
    for name in ("config.yaml", "stats.json", "data.json", "init.json"):
        if (arguments.runs[-1] / name).exists():
            write_text(arguments.out / name, (arguments.runs[-1] / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
