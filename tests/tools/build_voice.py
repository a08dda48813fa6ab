"""Make the bundled voice from a training run: half-precision weights, configuration, statistics, model card.

python tests/tools/build_voice.py EXP_FOLDER [--scores scores-eval.json] [--out aasvc_cli/assets/voice]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from aasvc_cli.config.reading import parse_config, read_preset
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import read_json, write_json, write_text
from aasvc_cli.storage.home import BUNDLED, bundled

LIMIT_MB = 20.0


def main() -> None:
    """Write the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scores", type=Path, help="written by `aasvc evaluate`; by default the run's own")
    parser.add_argument("--note", help="what else is to be known of the training")
    parser.add_argument("--data", required=True, help="what it was trained on")
    parser.add_argument("--limits", required=True, help="what it is not made for")
    parser.add_argument("--before", type=Path, help="card of the voice that the run began with, where it has none")
    parser.add_argument("--out", type=Path, default=bundled("voice"))
    arguments = parser.parse_args()

    tensors, header = load_checkpoint(arguments.run / "best.safetensors")
    half = {name: t.to(torch.float16) if t.is_floating_point() else t for name, t in tensors.items()}
    lost = max(float((tensors[name].float() - t.float()).abs().max()) for name, t in half.items())
    save_checkpoint(arguments.out / "best.safetensors", half, header)
    for name in ("config.yaml", "stats.json"):
        write_text(arguments.out / name, (arguments.run / name).read_text(encoding="utf-8"))
    config = parse_config(read_config_file(arguments.run / "config.yaml"), "config.yaml")
    train, features = config.train, config.features
    preset = read_preset("small")
    usual = preset.train
    begun = arguments.run / "init.json"
    before = read_json(begun, "what the run began with") if begun.exists() else None
    how = " --init VOICE" if before else ""
    if features.source != preset.features.source:
        how += f" --src-feat {features.source} --dp-feat {features.duration}"
    for key in ("batch_size", "lr", "warmup_steps", "max_steps"):
        if getattr(train, key) != getattr(usual, key):
            how += f" --{key.replace('_', '-')} {getattr(train, key):g}"
    training = [f"aasvc train --conf small{how}" + (f" ({arguments.note})" if arguments.note else "")]
    if before:
        card = read_json(arguments.before, "the card of the voice before") if arguments.before else before["card"]
        earlier = card["training"]
        training = [*(earlier if isinstance(earlier, list) else [earlier]), *training]
    scores = read_json(arguments.scores or arguments.run / "scores-eval.json", "the scores of the run")
    write_json(
        arguments.out / "card.json",
        {
            "name": "bundled voice",
            "converts": ("one male" if features.source == "mel" else "anybody")
            + " to one female voice, best in Japanese, 24 kHz",
            "data": arguments.data,
            "licence": "MIT",
            "training": training,
            "step": header["step"],
            **({"dev": header["dev"]} if "dev" in header else {}),
            "scores": {
                "set": "eval, 20 pairs never trained on, through the bundled vocoder",
                "mean": scores["corpus"],
                "target_recordings": scores["ceiling"],
            },
            "limits": arguments.limits,
            "vocoder": BUNDLED,
        },
    )
    size = sum(path.stat().st_size for path in arguments.out.iterdir()) / 1e6
    print(json.dumps({"folder": str(arguments.out), "mb": round(size, 2), "largest_rounding": lost}))
    if size > LIMIT_MB:
        raise SystemExit(f"{size:.1f} MB are more than the {LIMIT_MB:.0f} MB that a bundled voice may have")


if __name__ == "__main__":
    main()
