"""What each setting is worth: short trainings that differ in one of them.

    python tests/benchmarks/ablation.py faithful small small+train.lr=8e-4 --steps 300 [--convert] [--json]

Trains on the first pairs of a prepared set, one variant after the other, each in a process of its own. A variant is
a base and changes to it: ``small`` is the preset, ``faithful`` the published behaviour at the same size, and
``small+train.warmup_steps=200+train.lr=8e-4`` the preset with two settings replaced. ``+dropout=0`` sets all dropouts
but those of the durations, ``+optimizer=muon`` takes torch's Muon for the matrices inside the blocks.
``faithful@model.max_duration=null`` is no training of its own: the weights of ``faithful`` convert with another
setting. What is finished is kept in ``--out`` and not trained again; a training that was interrupted goes on.

All variants are measured alike: L1 (before and after the postnet), forward sum and binarisation as the published code
reports them, means over the latest epoch; L1 of the dev pairs, one by one and teacher-forced, in float32, with the
weights that the variant would keep, and with averages of other decays. Cost is processor time of the steps alone,
without measuring; the target counts as reached when all three means of an epoch lie below it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from aasvc_cli.audio.dtw import exact_path
from aasvc_cli.config.reading import dump_yaml, override, parse_config, read_preset
from aasvc_cli.config.settings import AugmentConfig, Config, LossConfig, ModelConfig, TrainConfig
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.data.dataset import Batch, PairDataset, Position, batch_stream, collate, varied_pairs
from aasvc_cli.data.manifest import Manifest, read_manifest
from aasvc_cli.features.kinds import feature_key, with_widths
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import read_json, write_json, write_text
from aasvc_cli.storage.home import Home, find_home
from aasvc_cli.training.losses import WHOLE, Losses, Share, total_loss
from aasvc_cli.training.optimisation import Averaged, learning_rate, with_precision
from aasvc_cli.training.voice_trainer import Trainer

MEASURES = ("l1", "forward_sum", "binarisation")
TARGET = {"l1": 0.70, "forward_sum": 3.86, "binarisation": 0.27}
"""What the published code comes to in 300 steps."""
DECAYS = (0.98, 0.995)
"""Averages of the weights that every variant is also measured with; they change nothing about the training."""
SAVE_EVERY = 25
SIZES = ("width", "n_heads", "encoder_layers", "decoder_layers", "encoder_hidden", "decoder_hidden", "postnet_channels")
DROPOUTS = (
    *(f"model.{part}_{kind}" for part in ("encoder", "decoder") for kind in ("dropout", "positional_dropout")),
    *(f"model.{part}_attention_dropout" for part in ("encoder", "decoder")),
    "model.postnet_dropout",
)
"""What ``dropout`` in the name of a variant sets."""


@dataclass(frozen=True)
class Variant:
    """A configuration to train, and what configurations cannot say."""

    name: str
    config: Config
    optimizer: str = "adam"


def faithful() -> Config:
    """The published behaviour at the size of the preset."""
    small = read_preset("small")
    return replace(
        small,
        name="faithful",
        model=replace(ModelConfig(), **{name: getattr(small.model, name) for name in SIZES}),
        loss=LossConfig(),
        augment=AugmentConfig(),
        train=TrainConfig(batch_size=8, accum=1, lr=8e-4, warmup_steps=200, max_steps=300),
    )


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Settings by dotted name from ``key=value``."""
    return {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in changes)}


def parse_variant(text: str, everywhere: Sequence[str] = ()) -> Variant:
    """The variant that a name like ``small+train.lr=2e-3`` says; ``everywhere`` are changes to all variants."""
    base, *changes = text.split("+")
    config = faithful() if base == "faithful" else read_preset(base)
    given = parse_changes([*everywhere, *changes])
    if "dropout" in given:
        given = {**dict.fromkeys(DROPOUTS, given["dropout"]), **given}
        del given["dropout"]
    optimizer = given.pop("optimizer", "adam")
    return Variant(text, with_widths(override(config, given, text)), optimizer)


class Muon:
    """Muon for the matrices of the blocks, Adam for everything else, in the place of one optimiser."""

    def __init__(self, trainer: Trainer):
        blocks = ("encoder.conformer.", "decoder.")
        matrices = [p for name, p in trainer.model.named_parameters() if name.startswith(blocks) and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in trainer.model.parameters() if id(p) not in chosen]
        train = trainer.config.train
        # scaled to the root mean square of Adam's updates, so that both take the same learning rate
        muon = torch.optim.Muon(matrices, lr=train.lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.Adam(rest, lr=train.lr, betas=(train.adam_beta1, train.adam_beta2), fused=True)
        self.parts = (muon, adam)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """Of both."""
        return {key: value for part in self.parts for key, value in part.state.items()}

    def step(self) -> None:
        """One update by both."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of both."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


class Measured(Trainer):
    """A trainer that also notes the losses as the published code would report them."""

    def __init__(self, config: Config):
        super().__init__(config, torch.device("cpu"))
        self.noted: list[dict[str, float]] = []
        self.aside = 0.0
        """Processor seconds that noting took."""

    def losses(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        share: Share = WHOLE,
    ) -> Losses:
        """The losses of the variant; notes the published ones."""
        result = self.forward(batch, generator, noise)
        began = time.process_time()
        with torch.no_grad():
            published = total_loss(result, LossConfig(), self.step).named()
        self.noted.append({name: float(published[name]) for name in MEASURES})
        self.aside += time.process_time() - began
        return total_loss(result, self.config.loss, self.step, share)


@dataclass
class Progress:
    """What is known of a variant so far."""

    step: int = 0
    costs: list[float] = field(default_factory=list)
    """Processor seconds of each step."""
    noted: list[dict[str, float]] = field(default_factory=list)
    """Published losses of each step."""
    dev: dict[str, dict[str, float]] = field(default_factory=dict)
    """Losses on the dev pairs by step."""
    position: dict[str, int] = field(default_factory=lambda: asdict(Position()))


class Ablation:
    """One variant: its training and its figures."""

    def __init__(self, variant: Variant, home: Home, data: str | None, n_pairs: int, steps: int, out: Path):
        self.variant, self.steps = variant, steps
        self.config = with_precision(variant.config, torch.device("cpu"))
        self.manifest: Manifest = read_manifest(home, data)
        self.home = home
        self.stats = NormStats.from_tree(read_json(home.stats / self.manifest.name / "self.json", "statistics"), "self")
        store = FeatureStore(home.features, self.config.features, feature_key)
        self.train_set = varied_pairs(self.manifest.sets["train"][:n_pairs], store.load, self.stats, self.config)
        self.dev_set = PairDataset(self.manifest.sets["dev"], store.load, self.stats)
        self.folder = out / variant.name
        self.epoch = max(1, len(self.train_set) // self.config.train.batch_size)
        self.trainer = Measured(self.config)
        if variant.optimizer == "muon":
            self.trainer.optimizer = Muon(self.trainer)  # type: ignore[assignment]
        self.averages = {decay: Averaged(self.trainer.model, decay) for decay in DECAYS}
        self.progress = Progress()

    def run(self, eval_every: int) -> dict[str, Any]:
        """Train to the last step, or go on with it, and say what came out."""
        self._load()
        trainer, progress, train = self.trainer, self.progress, self.config.train
        position = Position(**progress.position)
        stream = batch_stream(
            self.train_set,
            position,
            batch_size=train.batch_size,
            seed=train.seed,
            bucket=train.bucket,
            n_workers=0,
            pin_memory=False,
            varied_from=self.config.augment.start_step * train.accum,
        )
        while trainer.step < self.steps:
            began = time.process_time()
            trainer.noted, trainer.aside = [], 0.0
            trainer.update([next(stream) for _ in range(train.accum)])
            progress.costs.append(time.process_time() - began - trainer.aside)
            progress.noted.append(_mean(trainer.noted))
            for average in self.averages.values():
                average.update(trainer.step)
            last = trainer.step == self.steps
            if trainer.step % eval_every == 0 or last:
                progress.dev[str(trainer.step)] = self._dev(last)
                self._tell()
            if trainer.step % SAVE_EVERY == 0 or last:
                progress.step, progress.position = trainer.step, asdict(position)
                self._save()
        self._write_voice()
        return self._figures()

    def _tell(self) -> None:
        progress, step = self.progress, self.trainer.step
        train, dev = self._means(step), progress.dev[str(step)]
        told = [" ".join(f"{name} {value:.3f}" for name, value in each.items()) for each in (train, dev)]
        print(f"{self.variant.name} {step}, {sum(progress.costs):.0f} s: {told[0]}; dev {told[1]}", flush=True)

    # --- measuring --------------------------------------------------------------------------------------------------

    def _means(self, step: int) -> dict[str, float]:
        """Published losses, means over the epoch up to a step."""
        return _mean(self.progress.noted[max(0, step - self.epoch) : step])

    def _reached(self) -> int | None:
        """The first step at which all three means lie below the target."""
        for step in range(self.epoch, len(self.progress.noted) + 1):
            means = self._means(step)
            if all(means[name] <= level for name, level in TARGET.items()):
                return step
        return None

    def _dev(self, last: bool) -> dict[str, float]:
        """Mean losses of the dev pairs, each by itself: ``l1`` and others with the weights that would be kept."""
        found = self._dev_losses(self.trainer.average)
        if last:
            found["l1_live"] = self._dev_losses(Averaged(self.trainer.model, 0.0))["l1"]
            for decay, average in self.averages.items():
                found[f"l1_{decay}"] = self._dev_losses(average)["l1"]
        return found

    def _dev_losses(self, average: Averaged) -> dict[str, float]:
        trainer, kept = self.trainer, (self.trainer.average, self.trainer.config)
        trainer.noted = []
        trainer.average, trainer.config = average, override(self.config, {"train.precision": "fp32"})
        try:
            trainer.evaluate(collate([self.dev_set[i]]) for i in range(len(self.dev_set)))
        finally:
            trainer.average, trainer.config = kept
        return _mean(trainer.noted)

    def _figures(self) -> dict[str, Any]:
        progress, reached = self.progress, self._reached()
        until = sum(progress.costs[:reached]) if reached else None
        return {
            "variant": self.variant.name,
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "precision": self.config.train.precision,
            "steps": self.steps,
            "seconds_per_step": round(statistics.median(progress.costs), 3),
            "seconds": round(sum(progress.costs), 1),
            "train": {name: round(value, 4) for name, value in self._means(self.steps).items()},
            "reached_step": reached,
            "reached_seconds": None if until is None else round(until, 1),
            "lr": learning_rate(self.steps - 1, self.config.train),
            "dev": {step: {name: round(value, 4) for name, value in dev.items()} for step, dev in progress.dev.items()},
        }

    # --- files ------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors, numbers = self.trainer.state()
        for decay, average in self.averages.items():
            tensors |= {f"decay.{decay}.{name}": tensor for name, tensor in average.state().items()}
        save_checkpoint(
            self.folder / "last.safetensors", tensors, {"trainer": numbers, "progress": asdict(self.progress)}
        )

    def _load(self) -> None:
        path = self.folder / "last.safetensors"
        if not path.exists():
            return
        tensors, header = load_checkpoint(path)
        if self.variant.optimizer != "adam":
            return  # the other optimisers are not read back: the training begins anew
        self.trainer.load_state(tensors, header["trainer"])
        for decay, average in self.averages.items():
            prefix = f"decay.{decay}."
            average.load_state({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self.progress = Progress(**header["progress"])

    def _write_voice(self) -> None:
        """A model folder, to convert with."""
        write_text(self.folder / "config.yaml", dump_yaml(self.config))
        write_json(self.folder / "stats.json", self.stats.to_tree())
        weights = {f"model.{name}": tensor for name, tensor in self.trainer.weights().items()}
        save_checkpoint(self.folder / "best.safetensors", weights, {"step": self.trainer.step})


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.mean(entry[name] for entry in entries) for name in MEASURES}


def free_running(folder: Path, home: Home, data: str | None, seeds: int = 3) -> dict[str, Any]:
    """Convert the dev pairs with predicted durations.

    Args:
        seeds: of models that draw their rhythm; the figures are means over them

    Returns:
        ``length_ratio``: all frames written over all frames of the targets; ``length_error_s``: mean absolute
        difference of each pair, in seconds; ``mel_distance``: mean absolute difference of the log-mels along the best
        warping path
    """
    from aasvc_cli.conversion.voice import load_voice

    voice = load_voice(folder)
    model = voice.model
    manifest = read_manifest(home, data)
    store = FeatureStore(home.features, voice.config.features, feature_key)
    stats = NormStats.from_tree(read_json(folder / "stats.json", "statistics"), str(folder))
    pairs = PairDataset(manifest.sets["dev"], store.load, stats)
    seconds = 1.0 / voice.config.features.mel.frames_per_second
    n_seeds = seeds if model.config.duration_predictor == "stochastic" else 1
    written = wanted = 0
    errors, distances = [], []
    for item in pairs:
        target = stats.target.denormalise(item.target)
        for seed in range(n_seeds):
            generator = torch.Generator().manual_seed(seed)
            source, feature = torch.from_numpy(item.source), torch.from_numpy(item.duration_feature)
            mel = stats.target.denormalise(model.convert(source, feature, generator=generator).mel.numpy())
            written, wanted = written + len(mel), wanted + len(target)
            errors.append(abs(len(mel) - len(target)) * seconds)
            if seed == 0:
                path = exact_path(mel, target)
                distances.append(float(abs(mel[path[:, 0]] - target[path[:, 1]]).mean()))
    return {
        "length_ratio": round(written / wanted, 4),
        "length_error_s": round(statistics.mean(errors), 4),
        "mel_distance": round(statistics.mean(distances), 4),
    }


def scores(folder: Path, home: Home, data: str | None, jobs: int) -> dict[str, float]:
    """Published measures of the dev pairs, converted to sound by the bundled vocoder."""
    from aasvc_cli.pipeline.convert import LoadOptions, convert_set
    from aasvc_cli.pipeline.evaluate import Options, evaluate_run

    convert_set(LoadOptions(home, folder, "cpu", "bundled", data=data), "dev")
    options = Options(mode="published", measures=["signal"], jobs=jobs)
    result = evaluate_run(home, model=folder, set_name="dev", data=data, options=options)
    return {name: round(summary.mean, 3) for name, summary in result.corpus.items()}


@dataclass(frozen=True)
class Task:
    """What one process does."""

    name: str
    arguments: argparse.Namespace

    def run(self) -> dict[str, Any]:
        """Train the variant unless that is done, convert with it if asked to, and give the figures."""
        given = self.arguments
        torch.set_num_threads(given.threads)
        home = Home(given.home) if given.home else find_home()
        trained, _, changed = self.name.partition("@")
        changes = changed.split("+") if changed else []
        done = given.out / self.name / "figures.json"
        figures: dict[str, Any] = read_json(done, "figures") if done.exists() else {}
        if figures.get("steps") != given.steps and not changes:
            ablation = Ablation(
                parse_variant(trained, given.set), home, given.data, given.pairs, given.steps, given.out
            )
            figures = ablation.run(given.eval_every)
        if given.convert and "mel_distance" not in figures:
            folder = given.out / self.name
            if changes:
                figures = {"variant": self.name, "steps": given.steps}
                origin = given.out / trained
                config = parse_config(read_config_file(origin / "config.yaml"), str(origin))
                write_text(folder / "config.yaml", dump_yaml(override(config, parse_changes(changes), self.name)))
                for name in ("stats.json", "best.safetensors"):
                    shutil.copy(origin / name, folder / name)
            figures |= free_running(folder, home, given.data)
        if given.scores and "MCD" not in figures:
            figures |= scores(given.out / self.name, home, given.data, given.threads)
        write_json(done, figures)
        return figures


COLUMNS = {
    "steps": "steps",
    "seconds_per_step": "s/step",
    "reached_step": "target at step",
    "reached_seconds": "after s",
    "l1": "train L1",
    "forward_sum": "forward sum",
    "binarisation": "binarisation",
    "dev_l1": "dev L1",
    "length_ratio": "length ratio",
    "length_error_s": "length error s",
    "mel_distance": "mel distance",
    "MCD": "MCD",
    "DDUR": "DDUR",
}


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """The figures as a Markdown table, without the columns that nobody has."""
    flat = []
    for figures in found:
        dev = list(figures.get("dev", {}).values())
        flat.append({**figures, **figures.get("train", {}), **({"dev_l1": dev[-1]["l1"]} if dev else {})})
    columns = {key: title for key, title in COLUMNS.items() if any(row.get(key) is not None for row in flat)}
    lines = ["| variant | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in flat:
        cells = ["–" if row.get(key) is None else f"{row[key]:.4g}" for key in columns]
        lines.append(f"| {row['variant']} | " + " | ".join(cells) + " |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="VARIANT")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=88, help="the first so many training pairs")
    parser.add_argument("--home", type=Path, help="data folder with a prepared set; that of the program by default")
    parser.add_argument("--data", help="prepared set; the one prepared last by default")
    parser.add_argument("--out", type=Path, default=Path("ablation"), help="where trainings and figures are kept")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in all variants")
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--convert", action="store_true", help="also convert the dev pairs with predicted durations")
    parser.add_argument("--scores", action="store_true", help="also score these conversions as sound")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    found = []
    for name in arguments.variants:
        # a process of its own each, so that none inherits memory or warmth of another
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(Task(name, arguments).run).result())
    print("\n".join(table(found)))
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
