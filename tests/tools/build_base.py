"""Make the base that ships from a training run: half-precision weights, configuration, statistics, card.

python tests/tools/build_base.py EXP_FOLDER --data TEXT --training TEXT... [--out aasvc_cli/assets/base]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from aasvc_cli.features.stats import NormStats
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import read_json, write_json, write_text
from aasvc_cli.storage.home import BASE, bundled

LIMIT_MB = 25.0


def main() -> None:
    """Write the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="what it was trained on")
    parser.add_argument("--training", nargs="+", required=True, help="the commands, the first one first")
    parser.add_argument("--out", type=Path, default=bundled(BASE))
    arguments = parser.parse_args()

    tensors, header = load_checkpoint(arguments.run / "best.safetensors")
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    largest = max(float(tensor.abs().max()) for tensor in tensors.values() if tensor.is_floating_point())
    if largest > torch.finfo(torch.float16).max:
        raise SystemExit(f"a weight of {largest:g} does not fit into half precision")
    save_checkpoint(arguments.out / "best.safetensors", half, {"step": header["step"], "dev": header["dev"]})
    for name in ("config.yaml", "stats.json"):
        write_text(arguments.out / name, (arguments.run / name).read_text(encoding="utf-8"))
    stats = NormStats.from_tree(read_json(arguments.out / "stats.json", "statistics"), "stats.json")
    write_json(
        arguments.out / "card.json",
        {
            "name": "base",
            "converts": f"anybody to {len(stats.voices)} synthetic voices, 24 kHz; made for other voices to begin with",
            "data": arguments.data,
            "licence": "MIT",
            "training": arguments.training,
            "step": header["step"],
            "dev": header["dev"],
            "limits": "synthetic voices of one synthesiser; real people, rooms and telephones are further away",
        },
    )
    size = sum(path.stat().st_size for path in arguments.out.iterdir()) / 1e6
    print(json.dumps({"folder": str(arguments.out), "mb": round(size, 2)}))
    if size > LIMIT_MB:
        raise SystemExit(f"{size:.1f} MB are more than the {LIMIT_MB:.0f} MB that a base may have")


if __name__ == "__main__":
    main()
