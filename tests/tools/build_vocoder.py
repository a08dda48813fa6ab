"""Make the bundled vocoder from a training run: half-precision weights, configuration, model card.

python tests/tools/build_vocoder.py VOCODER_FOLDER... [--mean N] [--before CARD] [--noise-gain G] [--scores FILE]

Of several runs, each of which began with the one before, the last is taken, or the mean of the weights of the last N:
one that spoke recordings and one that spoke what a voice wrote. Adversarial training leaves more noise in
voiced sounds than recordings have: ``--noise-gain`` makes it softer, by as much as the measures call for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from average_runs import mean_weights

from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.storage.files import read_json, write_json
from aasvc_cli.storage.home import bundled
from aasvc_cli.vocoder.build import read_vocoder, write_vocoder
from aasvc_cli.vocoder.folder import StoredVocoder

LIMIT_MB = 12.0


def mean_of(runs: list[Path]) -> StoredVocoder:
    """The last of some vocoders of one network, with the mean of the weights of all."""
    stored = [read_vocoder(run) for run in runs]
    return dataclasses.replace(stored[-1], tensors=mean_weights([each.tensors for each in stored]))


def with_noise_gain(stored: StoredVocoder, gain: float) -> StoredVocoder:
    """The same vocoder with its noise made louder by a factor: the second quarter of what its head writes."""
    bias = stored.tensors["backbone.head.bias"].clone()
    quarter = len(bias) // 4
    bias[quarter : 2 * quarter] += math.log(gain)
    return dataclasses.replace(stored, tensors={**stored.tensors, "backbone.head.bias": bias})


def command(run: Path) -> str:
    """What was called for a run."""
    data = read_json(run / "data.json", "the data of the run")
    train = parse_config(read_config_file(run / "train.yaml"), "train.yaml").train
    step = read_vocoder(run).origin["step"]
    told = "aasvc train --kind vocoder"
    told += " --init VOCODER" if "init" in data else ""
    told += " --mels-from VOICE" if "mels_from" in data else ""
    told += f" --lr {train.lr:g} --max-steps {train.max_steps}"
    return told if step == train.max_steps else f"{told} (stopped after {step})"


def main() -> None:
    """Write the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--before", type=Path, help="card of the vocoder that the first run began with")
    parser.add_argument("--mean", type=int, default=1, help="of how many runs, the last ones, to take the mean")
    parser.add_argument("--noise-gain", type=float, default=1.0)
    parser.add_argument("--scores", type=Path, help="JSON with what was measured; its `dev` replaces that of the run")
    parser.add_argument("--out", type=Path, default=bundled("vocoder"))
    arguments = parser.parse_args()

    stored = with_noise_gain(mean_of(arguments.runs[-arguments.mean :]), arguments.noise_gain)
    half = {name: t.half() if t.is_floating_point() else t for name, t in stored.tensors.items()}
    # the statistics are few numbers, and all of the input goes through them
    half |= {name: stored.tensors[name] for name in ("mean", "scale")}
    lost = max(float((stored.tensors[name].float() - t.float()).abs().max()) for name, t in half.items())
    write_vocoder(arguments.out, dataclasses.replace(stored, tensors=half))
    data = read_json(arguments.runs[-1] / "data.json", "the data of the run")
    training = read_json(arguments.before, "a card")["training"] if arguments.before else []
    training += [command(run) for run in arguments.runs]
    if arguments.mean > 1:
        training.append(f"mean of the weights of the last {arguments.mean}")
    if arguments.noise_gain != 1.0:
        training.append(f"noise times {arguments.noise_gain:g}")
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
            "seconds": round(float(stored.origin["seconds"])),
            "dev": scores.pop("dev", stored.origin["dev"]),
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
