"""Make the bundled vocoder from a training run: half-precision weights, configuration, model card.

python tests/tools/build_vocoder.py VOCODER_FOLDER [--scores FILE] [--out aasvc_cli/assets/vocoder]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from aasvc_cli.config import parse_config, read_config_file
from aasvc_cli.storage.cache import bundled
from aasvc_cli.storage.files import read_json, write_json
from aasvc_cli.vocoder.build import read_vocoder, write_vocoder

LIMIT_MB = 12.0


def main() -> None:
    """Write the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scores", type=Path, help="JSON with what copy synthesis and conversions were measured at")
    parser.add_argument("--out", type=Path, default=bundled("vocoder"))
    arguments = parser.parse_args()

    stored = read_vocoder(arguments.run)
    half = {name: t.half() if t.is_floating_point() else t for name, t in stored.tensors.items()}
    # the statistics are few numbers, and all of the input goes through them
    half |= {name: stored.tensors[name] for name in ("mean", "scale")}
    lost = max(float((stored.tensors[name].float() - t.float()).abs().max()) for name, t in half.items())
    write_vocoder(arguments.out, dataclasses.replace(stored, tensors=half))
    data = read_json(arguments.run / "data.json", "the data of the run")
    train = parse_config(read_config_file(arguments.run / "train.yaml"), "train.yaml").train
    training = ["aasvc train --model vocoder"]
    if "init" in data:  # a run that went on with the one above
        how = f"--init VOCODER --mels-from VOICE --lr {train.lr:g} --max-steps {train.max_steps}"
        training.append(f"aasvc train --model vocoder {how}")
    scores: dict[str, Any] = {} if arguments.scores is None else read_json(arguments.scores, "scores")
    write_json(
        arguments.out / "card.json",
        {
            "name": "bundled vocoder",
            "data": f"{len(data['train'])} sentences of synthetic speech by Kokoro-82M v1.0 (Apache-2.0), voice "
            "jf_alpha (female, Japanese, 24 kHz); the sentences come from a small grammar",
            "licence": "MIT",
            "training": training,
            "step": stored.origin["step"],
            "max_steps": train.max_steps,
            "seconds": round(float(stored.origin["seconds"])),
            "dev": stored.origin["dev"],
            "scores": scores,
            "limits": "made for this one voice: mels of other voices, of lower pitch above all, sound rougher",
        },
    )
    size = sum(path.stat().st_size for path in arguments.out.iterdir()) / 1e6
    print(json.dumps({"folder": str(arguments.out), "mb": round(size, 2), "largest_rounding": lost}))
    if size > LIMIT_MB:
        raise SystemExit(f"{size:.1f} MB are more than the {LIMIT_MB:.0f} MB that a bundled vocoder may have")


if __name__ == "__main__":
    main()
