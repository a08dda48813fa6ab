"""``aasvc train``: from a prepared set to a model folder, resumable at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aasvc_cli.audio.files import write_audio
from aasvc_cli.config.layers import INIT, PREPARED, Layer, Origin, config_layer, preset_layer
from aasvc_cli.config.reading import dump_yaml, parse_config, to_tree
from aasvc_cli.config.settings import Config, parse_memory, parse_time
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.conversion.voice import find_voice, pick_device, read_voice
from aasvc_cli.data.dataset import (
    Batch,
    PairDataset,
    Position,
    batch_stream,
    can_vary,
    collate,
    filled,
    varied_pairs,
)
from aasvc_cli.data.manifest import Manifest, ParallelPair, read_manifest
from aasvc_cli.data.ranking import RANKING_FILE, by_loss, write_ranking
from aasvc_cli.errors import ConfigError, DataError, MissingExtraError, ModelError, TrainingError
from aasvc_cli.features.kinds import feature_keys, storage_key, with_widths
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import (
    make_folder,
    read_json,
    reading,
    write_bytes,
    write_json,
)
from aasvc_cli.storage.home import Home
from aasvc_cli.training.batch_size import in_batches_of, largest_batch
from aasvc_cli.training.distributed import World, is_restart, joined
from aasvc_cli.training.memory import usable_memory
from aasvc_cli.training.optimisation import with_precision
from aasvc_cli.training.progress import Meter, TrainingReport
from aasvc_cli.training.rehearsal import Plan, rehearse
from aasvc_cli.training.run_folder import RunFolder, run_name
from aasvc_cli.training.voice_trainer import FREE_TO_CHANGE, LOSS_NAMES, Trainer

BEST_BY = "l1"
"""The dev loss that decides which checkpoint is best: the error of the mel itself."""
INIT_FILE = "init.json"
"""What a run began with, if not with random weights."""
SHOWN_TENSORS = 8
"""Names of tensors that a message lists; ``init.json`` has all."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        stopped: whether it was stopped before ``max_steps``
        out_of_time: whether that was because of ``time_limit``
        out_of_patience: whether it ended because the dev set no longer got better
    """

    folder: Path
    step: int
    best_step: int
    best_dev: dict[str, float]
    stopped: bool
    seconds: float
    out_of_time: bool = False
    out_of_patience: bool = False

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}


def base_layers(home: Home, manifest: Manifest | None, conf: str | None, init: str | None) -> list[Layer]:
    """The default configuration of a voice, the weakest layer first.

    That is the configuration of the prepared set, but for the sizes of the model that training begins with; ``conf``
    decides both.

    Raises:
        ModelError: no such model, or it cannot be read.
    """
    base = [config_layer(Origin(PREPARED, manifest.name), manifest.config) if manifest else preset_layer()]
    if init is not None and conf is None:
        begun = read_voice(find_voice(home, init), home, weights=False).config
        base.append(config_layer(Origin(INIT, init), begun, "model"))
    return base


def train(
    home: Home,
    config: Config,
    *,
    data: str | None = None,
    tag: str | None = None,
    norm_name: str = "self",
    init: str | Path | None = None,
    overwrite: bool = False,
    tensorboard: bool = False,
    on_report: Callable[[TrainingReport], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train a model, or go on with one.

    The run lives in ``exp/<source>_<target>_<tag>``. If that folder has a checkpoint, training continues from it
    exactly as if it had never stopped. When ``should_stop`` returns True, the run is saved and the function returns.
    Processes that a launcher started train one model together; the first of them writes and reports.

    Args:
        data: a prepared set; the one prepared last if None
        tag: last part of the folder's name; the configuration's name if None
        norm_name: which statistics, as written by ``stats``
        init: a model, ours or published, whose weights a new run begins with; a run that goes on has its own
        overwrite: start anew, discarding what the folder holds
        on_plan: told before the first step what the training will take, which takes three passes to measure

    Raises:
        DataError: nothing prepared, no statistics, features that are missing or stale, or pairs that are too long.
        ConfigError: the folder belongs to a run with other settings or other data.
        TrainingError: the loss diverged or is not finite; the last good checkpoint is kept.
        StorageError: no permission, no space; the last good checkpoint is kept.
    """
    began = time.monotonic()
    with joined() as world, contextlib.ExitStack() as held:

        def prepare() -> _Run:
            manifest = read_manifest(home, data)
            checked = with_widths(_with_data_features(config, manifest))
            stats = _read_stats(home, manifest, checked, norm_name)
            folder = home.exp / f"{manifest.source_speaker}_{manifest.target_speaker}_{run_name(tag, checked)}"
            return _Run(home, folder, checked, manifest, stats, world, init=init, tensorboard=tensorboard)

        run = world.together(prepare)
        world.by_first(lambda: held.enter_context(run.files.alone()))
        if overwrite and not is_restart():
            world.by_first(run.files.clear)
        run.say = _spoken_by(world, on_message or _ignore)
        run.on_plan = on_plan
        return run.go(began, on_report or _ignore, should_stop or (lambda: False))


def _spoken_by(world: World, say: Callable[[str], None]) -> Callable[[str], None]:
    """Messages with the process that they come from, if it is not the first."""
    return say if world.is_first else lambda message: say(f"process {world.rank}: {message}")


def _ignore(_: Any) -> None:
    """Default callback."""


def _with_data_features(config: Config, manifest: Manifest) -> Config:
    """Check that the configuration asks for features that were prepared."""
    wanted, prepared = feature_keys(config.features), feature_keys(manifest.config.features)
    for side, key in wanted.items():
        if key not in prepared.values():
            raise DataError(
                f"prepared data {manifest.name} has no {getattr(config.features, side)} features with the settings of "
                f"configuration {config.name}; run: aasvc prepare with the same --conf"
            )
    return config


def _read_stats(home: Home, manifest: Manifest, config: Config, norm_name: str) -> NormStats:
    path = home.stats / manifest.name / f"{norm_name}.json"
    if not path.is_file():
        raise DataError(f"no statistics {norm_name} for {manifest.name}; run: aasvc stats --data {manifest.name}")
    stats = NormStats.from_tree(read_json(path, "statistics"), str(path))
    for side, key in feature_keys(config.features).items():
        if stats.keys[side] != key:
            raise DataError(
                f"{path}: statistics of {side} were computed with other feature settings; "
                f"run: aasvc stats --data {manifest.name}"
            )
    return stats


class _Run:
    """One run: its folder, its data, and the loop."""

    def __init__(
        self,
        home: Home,
        folder: Path,
        config: Config,
        manifest: Manifest,
        stats: NormStats,
        world: World,
        *,
        init: str | Path | None,
        tensorboard: bool,
    ):
        self.home = home
        self.init = init
        self.folder = folder
        self.files = RunFolder(folder)
        self.manifest = manifest
        self.stats = stats
        self.world = world
        self.say: Callable[[str], None] = _ignore
        self.on_plan: Callable[[Plan], None] | None = None
        self.device = world.device(pick_device(config.train.device))
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        elif world.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))
        self.config = with_precision(config, self.device)
        store = FeatureStore(home.features, config.features, storage_key)
        for set_name in ("train", "dev"):
            for pair in manifest.sets[set_name]:
                tokens = config.model.n_tokens(pair.source_frames)
                if tokens > pair.target_frames:
                    raise DataError(
                        f"pair {pair.utterance_id}: {tokens} source tokens do not fit into {pair.target_frames} target "
                        "frames; raise model.frames_per_token, or run: aasvc prepare with this configuration, "
                        "which leaves such pairs out"
                    )
                _check_length(pair, config)
                _check_there(store, pair, config)
        self.train_set = varied_pairs(manifest.sets["train"], store.load, stats, config)
        self.plain_set = PairDataset(manifest.sets["train"], store.load, stats)
        self.dev_set = PairDataset(manifest.sets["dev"], store.load, stats)
        for pairs, what in ((self.train_set, "training"), (self.dev_set, "dev")):
            if not len(pairs):
                raise DataError(f"prepared data {manifest.name} has no {what} pairs; run: aasvc prepare")
        self.position = Position()
        self.best_step, self.best_dev = 0, dict[str, float]()
        self.seconds_before = 0.0
        self.tensorboard_writer = _tensorboard_writer() if tensorboard else None
        self.writer: Any = None
        self._trainer: Trainer | None = None

    # --- files ------------------------------------------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        """What the run was trained on."""
        sets = {name: [pair.utterance_id for pair in self.manifest.sets[name]] for name in ("train", "dev")}
        kept = self.home.kept
        recordings = [(kept(p.source), kept(p.target)) for name in sets for p in self.manifest.sets[name]]
        digest = hashlib.sha256(json.dumps([recordings, self.stats.to_tree()]).encode()).hexdigest()[:16]
        return {
            "prepared": self.manifest.name,
            "source_speaker": self.manifest.source_speaker,
            "target_speaker": self.manifest.target_speaker,
            "digest": digest,
            **sets,
        }

    def _open(self, trainer: Trainer) -> None:
        """Start a new folder, or go on where the run stopped; the first process reads for all."""
        described = self._describe()
        tensors, header = self.world.shared_state(lambda: self._read(trainer, described))
        if header is not None:
            self.world.together(lambda: self._go_on_from(trainer, tensors, header))
        elif tensors:
            trainer.start_from(tensors)
        if self.world.is_first:
            if header is not None:
                self.say(f"resuming {self.folder} at step {trainer.step}")
            self._write_down(trainer, described)

    def _read(
        self, trainer: Trainer, described: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
        """The checkpoint to go on from with its header, or the weights to begin with and None."""
        settings = {name: part for name, part in to_tree(self.config).items() if name != "vocoder"}
        self.files.open(settings, described, FREE_TO_CHANGE, other_files=(INIT_FILE,))
        begun = self.files.last.exists()
        if (self.folder / "config.yaml").exists():
            self._check_init(begun)
        if begun:
            return load_checkpoint(self.files.last)
        if self.init is None:
            if self.config.train.freeze:
                raise ConfigError("--freeze", ["random weights would stay as they are; say with --init what to keep"])
            return {}, None
        fitting, note = self._fitting_weights(trainer, self.init)
        write_json(self.folder / INIT_FILE, note)
        return fitting, None

    def _go_on_from(self, trainer: Trainer, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
        with self.files.going_on():
            trainer.load_state(tensors, header["trainer"])
            self.position = Position(**header["position"])
            self.best_step, self.best_dev = header["best_step"], header["best_dev"]
            self.seconds_before = header["seconds"]
            before = int(header.get("processes", 1))
        now = self.world.size
        if before != now:
            self.position.batch = self.position.batch * before // now
            if self.world.is_first:
                self.say(
                    f"the run had {before} processes and now has {now}: its effective batch changes with them, unless "
                    "another --batch-size makes up for it in a run of its own"
                )

    def _write_down(self, trainer: Trainer, described: dict[str, Any]) -> None:
        """What the run is, for those who come after it."""
        self.files.cut_log(trainer.step)
        self.files.describe(dump_yaml(self.config), described)
        write_json(self.folder / "stats.json", self.stats.to_tree())
        if self.tensorboard_writer is not None:
            self.writer = self.tensorboard_writer(self.folder / "tensorboard", purge_step=trainer.step + 1)

    def _check_init(self, begun: bool) -> None:
        """Refuse an ``init`` that is not the one that this run began with."""
        path = self.folder / INIT_FILE
        with reading(path, "what the run began with"):
            begun_with = read_json(path, "what the run began with")["model"] if path.exists() else None
        if self.init is not None and begun_with != str(self.init):
            what = "random weights" if begun_with is None else begun_with
            fault = f"the run in this folder began with {what}, not with {self.init}; use another --tag, or --overwrite"
            raise ConfigError(str(self.folder), [fault])
        if self.init is None and begun_with is not None and not begun:
            fault = (
                f"the run was begun with --init {begun_with} and has no checkpoint yet; give that again, or --overwrite"
            )
            raise ConfigError(str(self.folder), [fault])

    def _fitting_weights(self, trainer: Trainer, init: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The weights of another model that fit this one, and a note on it for :data:`INIT_FILE`; says how well.

        Raises:
            ModelError: no such model, it cannot be read, or it has too little in common with this one.
        """
        voice = find_voice(self.home, init)
        files = read_voice(voice, self.home)
        expected = trainer.model.state_dict()
        fitting = {
            name: tensor
            for name, tensor in files.weights.items()
            if name in expected and tensor.shape == expected[name].shape
        }
        broken = [name for name, tensor in fitting.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            raise ModelError(f"{files.origin}: {len(broken)} tensors hold NaN or infinity (first: {broken[0]})")
        reshaped = {
            name: f"{name} {tuple(files.weights[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in files.weights and name not in fitting
        }
        new = [reshaped.get(name, name) for name in expected if name not in fitting]
        left_over = [name for name in files.weights if name not in expected]
        taken, total = (sum(t.numel() for t in tensors.values()) for tensors in (fitting, expected))
        if taken < total / 2:
            raise ModelError(
                f"--init {init}: only {len(fitting)} of {len(expected)} tensors fit this model (first that does not: "
                f"{new[0]}); leave --conf out to take its sizes, or choose another model"
            )
        self.say(f"begins with the weights of {voice}: {len(fitting)} of {len(expected)} tensors")
        for what, names in (("new, random", new), ("left over, not used", left_over)):
            if names:
                more = f", and {len(names) - SHOWN_TENSORS} more" if len(names) > SHOWN_TENSORS else ""
                self.say(f"{what}: {', '.join(names[:SHOWN_TENSORS])}{more}")
        for side, key in feature_keys(files.config.features).items():
            if feature_keys(self.config.features)[side] != key:
                self.say(
                    f"warning: {voice} was trained on {side} features of other settings; it may have to learn them anew"
                )
        note = {"model": str(init), "name": voice.absolute().name, "card": dict(files.card), "taken": len(fitting)}
        return fitting, note | {"new": new, "left_over": left_over}

    def _log(self, entry: dict[str, Any]) -> None:
        self.files.log(entry)
        if self.writer is not None:
            for name, value in entry.items():
                if name != "step" and isinstance(value, (int, float)):
                    self.writer.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])

    def _save_last(self, trainer: Trainer, seconds: float) -> None:
        tensors, numbers = trainer.state()
        self.world.by_first(lambda: self._write_last(trainer, tensors, numbers, seconds))

    def _write_last(
        self, trainer: Trainer, tensors: dict[str, torch.Tensor], numbers: dict[str, Any], seconds: float
    ) -> None:
        header = {
            "trainer": numbers,
            "step": trainer.step,
            "position": dataclasses.asdict(self.position),
            "processes": self.world.size,
            "best_step": self.best_step,
            "best_dev": self.best_dev,
            "seconds": seconds,
        }
        save_checkpoint(self.files.last, tensors, header)
        self.files.keep_last(trainer.step, self.config.train.keep)
        # for people and programs; training itself reads the header inside the checkpoint
        last = {"step": trainer.step, "max_steps": self.config.train.max_steps, "seconds": seconds}
        best = {"step": self.best_step, "dev": self.best_dev, "by": BEST_BY}
        write_json(self.folder / "checkpoints.json", {"last": last, "best": best})

    def _save_best(self, trainer: Trainer, dev: dict[str, float]) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in trainer.weights().items()}
        save_checkpoint(self.folder / "best.safetensors", tensors, {"step": trainer.step, "dev": dev})

    # --- the loop ---------------------------------------------------------------------------------------------------

    def go(
        self, began: float, report: Callable[[TrainingReport], None], should_stop: Callable[[], bool]
    ) -> TrainResult:
        """Train to the last step, or until asked to stop.

        Args:
            began: when the time of ``time_limit`` began to run
        """
        self.world.by_first(lambda: make_folder(self.folder))
        self.config = self._with_batch_that_fits()
        config = self.config.train
        trainer = Trainer(self.config, self.device, world=self.world, on_message=self._note)
        self._trainer = trainer
        self._open(trainer)
        self._tell_plan(trainer)
        stream = self._batches()
        limit = parse_time(config.time_limit) if config.time_limit else float("inf")
        meter = Meter(LOSS_NAMES, self.device, seconds_before=self.seconds_before)
        turn = time.monotonic()
        began_at = trainer.step
        saved, stopped, late, stale = trainer.step, False, False, False
        slowest = 0.0
        while trainer.step < config.max_steps:
            now = time.monotonic()
            slowest, turn = max(slowest, now - turn), now
            # one more turn must fit, and it may be one that measures and saves
            stopped, late, stale = self.world.any(
                should_stop(), now - began + slowest >= limit, self._is_stale(trainer)
            )
            if stopped or late or stale:
                break
            losses, norm, rate = trainer.update([next(stream) for _ in range(config.accum)])
            meter.add(losses, norm)
            step, last = trainer.step, trainer.step == config.max_steps
            measure = step % config.eval_every == 0 or last
            dev = self._measure_dev(trainer) if measure and self.world.is_first else None
            if step % config.log_every == 0 or measure:
                summary = meter.report(step, config.max_steps, lr=rate, dev=dev, epoch=self.position.epoch)
                if self.world.is_first:
                    for entry in summary.entries():
                        self._log(entry)
                    report(summary)
            if dev is not None and (not self.best_dev or dev[BEST_BY] < self.best_dev[BEST_BY]):
                self.best_step, self.best_dev = step, dev
                self._save_best(trainer, dev)
            if step % config.save_every == 0 or last:
                self._save_last(trainer, meter.seconds)
                saved = step
            if self.world.is_first and config.preview_every and (step % config.preview_every == 0 or last):
                self._preview(trainer)
        if self.world.is_first and trainer.step == config.max_steps > began_at:
            self._rank(trainer, should_stop)
        seconds = meter.seconds
        if any(self.world.any(saved != trainer.step or (self.world.is_first and not self.files.last.exists()))):
            self._save_last(trainer, seconds)
        if self.writer is not None:
            self.writer.close()
        return TrainResult(
            self.folder, trainer.step, self.best_step, self.best_dev, stopped or late, seconds,
            out_of_time=late and not stopped, out_of_patience=stale and not stopped and not late,
        )  # fmt: skip

    def _is_stale(self, trainer: Trainer) -> bool:
        """Whether so many measurements in a row as patience has brought nothing better; the first process knows."""
        patience, every = self.config.train.patience, self.config.train.eval_every
        if patience is None or not self.best_dev or not self.world.is_first:
            return False
        return trainer.step // every - self.best_step // every >= patience

    def _tell_plan(self, trainer: Trainer) -> None:
        """Tell what the training will take, if anybody wants to know and there is something to do."""
        if self.on_plan is None or not self.world.is_first or trainer.step >= self.config.train.max_steps:
            return
        longest = self.train_set.at_longest()
        self.on_plan(
            rehearse(
                trainer,
                lambda indices: collate([longest[index] for index in indices]),
                self.train_set.pairs,
                self.dev_set.pairs,
                processes=self.world.size,
            )
        )

    def _batches(self) -> Iterator[Batch]:
        """The batches of this process from the position on, without end."""
        train = self.config.train
        if self.config.augment.share > 0 and not can_vary(self.config) and self.world.is_first:
            self.say("recordings are not varied (augment): that takes mels as features.source and features.duration")
        return batch_stream(
            self.train_set,
            self.position,
            batch_size=train.batch_size,
            max_frames=train.max_frames,
            seed=train.seed,
            bucket=train.bucket,
            n_workers=train.n_workers,
            pin_memory=self.device.type == "cuda",
            rank=self.world.rank,
            processes=self.world.size,
            varied_from=self.config.augment.start_step * train.accum,
        )

    def _note(self, message: str) -> None:
        """Tell and log that the trainer changes how it computes."""
        self.say(message)
        if self.world.is_first and self._trainer is not None:
            self._log({"kind": "note", "step": self._trainer.step + 1, "message": message})

    def _with_batch_that_fits(self) -> Config:
        """The configuration with batch size and accumulation in place of ``auto_batch``."""
        train = self.config.train
        if train.auto_batch == "off":
            return self.config
        batch_size, accum, checkpointing = self.world.shared(self._fitting_batch)
        changed = dataclasses.replace(
            train, batch_size=batch_size, accum=accum, max_frames=None, checkpointing=checkpointing, auto_batch="off"
        )
        return dataclasses.replace(self.config, train=changed)

    def _fitting_batch(self) -> tuple[int, int, bool]:
        """Batch size, accumulation and checkpointing: those of the run if there is one, else the largest that fit."""
        train, path = self.config.train, self.folder / "config.yaml"
        if path.exists():  # what was chosen when it began belongs to the run
            before = parse_config(read_config_file(path), str(path)).train
            return before.batch_size, before.accum, train.checkpointing or before.checkpointing
        limit = parse_memory(train.memory) if train.memory else usable_memory(self.device)
        if self.device.type == "cpu":
            limit //= self.world.local_size
        longest_set = self.train_set.at_longest()
        pairs = longest_set.pairs
        order = sorted(range(len(pairs)), key=lambda i: -(pairs[i].source_frames + pairs[i].target_frames))

        def longest(size: int) -> Batch:
            return collate([longest_set[i] for i in order[:size]])

        effective = train.batch_size * train.accum
        most = len(order) if train.auto_batch == "fill" else min(effective, len(order))
        fit = largest_batch(self.config, self.device, longest, limit, most)
        batch_size, accum = fit.batch_size, train.accum
        if train.auto_batch == "keep":
            batch_size, accum = in_batches_of(effective, fit.batch_size)
        self.say(
            f"{batch_size} utterances at once, {accum} times per step: {fit.batch_size} of the longest fit into "
            f"{limit / 1e9:.1f} GB (they take {fit.needed / 1e9:.1f} GB)"
            + (", with activation checkpointing" if fit.checkpointing and not train.checkpointing else "")
        )
        return batch_size, accum, fit.checkpointing

    def _measure_dev(self, trainer: Trainer) -> dict[str, float]:
        train, pairs = self.config.train, self.dev_set.pairs
        order = sorted(range(len(pairs)), key=lambda i: pairs[i].target_frames)
        lengths = [max(pair.source_frames, pair.target_frames) for pair in pairs]
        batches = filled(order, lengths, train.batch_size, train.max_frames)
        dev = trainer.evaluate(collate([self.dev_set[i] for i in batch]) for batch in batches)
        if not all(np.isfinite(value) for value in dev.values()):
            raise TrainingError(
                f"the loss on the dev set is not a finite number at step {trainer.step}; the checkpoints from before "
                "are kept - lower --lr"
            )
        return dev

    def _rank(self, trainer: Trainer, should_stop: Callable[[], bool]) -> None:
        """List the training pairs by how badly they align, for ``prepare --drop``; a stop costs only the list."""
        losses = {}
        for index, pair in enumerate(self.plain_set.pairs):
            if should_stop():
                return
            losses[pair.utterance_id] = trainer.evaluate([collate([self.plain_set[index]])])["forward_sum"]
        write_ranking(self.folder / RANKING_FILE, by_loss(losses))

    def _preview(self, trainer: Trainer) -> None:
        """Pictures and sounds of the first dev pairs."""
        from aasvc_cli.report import drawing
        from aasvc_cli.report.collect import preview_name, write_previews
        from aasvc_cli.report.content import Alignment
        from aasvc_cli.vocoder.build import build_vocoder, default_vocoder, speak

        mel_config = self.config.features.mel
        vocoder = build_vocoder(default_vocoder(mel_config), mel_config)
        trainer.model.eval()
        alignments = {}
        with trainer.average.swapped():
            for index in range(min(self.config.train.n_previews, len(self.dev_set))):
                item = self.dev_set[index]
                name = preview_name(trainer.step, item.utterance_id)
                source, said, rhythm = item.tensors(self.device)
                forced = trainer.model.align(source, said, rhythm)
                generator = torch.Generator().manual_seed(self.config.train.seed)
                converted = trainer.model.convert(source, rhythm, generator=generator)
                log_mel = self.stats.target.restore(converted.mel.cpu().numpy())
                wave = speak(vocoder, log_mel, "cpu")
                target = self.stats.target.denormalise(item.target)
                mels = [log_mel, target]
                if self.stats.kinds["source"] == "mel":
                    mels.insert(0, self.stats.source.denormalise(item.source))
                weights = forced.log_alignment[0].exp().cpu().numpy()
                alignment = Alignment(f"step {trainer.step:,}", weights, forced.path[0].tolist())
                alignments[item.utterance_id] = alignment
                pictures = self.folder / "previews"
                write_bytes(pictures / f"{name}-mel.png", drawing.spectrograms(mels))
                write_bytes(pictures / f"{name}-alignment.png", drawing.alignment(alignment))
                write_audio(pictures / f"{name}.wav", np.clip(wave, -1.0, 1.0), mel_config.sample_rate)
        pairs = self.dev_set.pairs[: self.config.train.n_previews]
        recordings: dict[str, tuple[Path | None, Path]] = {p.utterance_id: (p.source, p.target) for p in pairs}
        write_previews(self.folder, recordings, trainer.step, alignments, best_step=self.best_step or None)


def _check_length(pair: ParallelPair, config: Config) -> None:
    """Raise DataError if a pair is longer than a batch may be."""
    longest, most = max(pair.source_frames, pair.target_frames), config.train.max_frames
    if most is not None and config.train.auto_batch == "off" and longest > most:
        raise DataError(
            f"pair {pair.utterance_id} ({pair.source}) has {longest} frames, and train.max_frames allows {most} at "
            f"once; run aasvc prepare again, which cuts such pairs, or give --max-frames {longest}"
        )


def _check_there(store: FeatureStore, pair: ParallelPair, config: Config) -> None:
    """Raise DataError, before a folder is made, if a feature of a pair is gone."""
    features = config.features
    for kind, recording in (
        (features.source, pair.source),
        (features.duration, pair.source),
        (features.target, pair.target),
        *((("content", pair.source), ("content", pair.target)) if config.loss.prior == "content" else ()),
    ):
        if not store.has(kind, recording):
            store.load(kind, recording)  # says what is missing and what to do


def _tensorboard_writer() -> Any:
    """The class that writes logs for TensorBoard; loaded early, so that its absence is known before any work."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("TensorBoard is not installed; run: pip install 'aasvc[tensorboard]'") from None
    return SummaryWriter
