"""One training of a voice, resumable at any moment: its folder, its data, and the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from aasvc_cli.config.reading import dump_yaml, parse_config, to_tree
from aasvc_cli.config.settings import Config, parse_time
from aasvc_cli.config.yaml_files import read_config_file
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
from aasvc_cli.data.manifest import Manifest
from aasvc_cli.data.ranking import RANKING_FILE, by_loss, write_ranking
from aasvc_cli.errors import ConfigError, DataError, TrainingError
from aasvc_cli.features.kinds import readable_keys, storage_key
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.model.pitch import pitch_range
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import make_folder, write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.training.batch_size import batch_for_memory
from aasvc_cli.training.board import Board
from aasvc_cli.training.distributed import World, is_restart, joined
from aasvc_cli.training.initial_weights import INIT_FILE, NO_INIT, Beginning, check_init, fit_weights
from aasvc_cli.training.material import check_pairs_for
from aasvc_cli.training.optimisation import with_precision
from aasvc_cli.training.previews import preview
from aasvc_cli.training.progress import Meter, TrainingReport
from aasvc_cli.training.rehearsal import Plan, rehearse
from aasvc_cli.training.run_folder import RunFolder
from aasvc_cli.training.voice_trainer import FREE_TO_CHANGE, LOSS_NAMES, PitchOf, Trainer
from aasvc_cli.vocoder.pitch import PitchReader

BEST_BY = "l1"
"""The dev loss that decides which checkpoint is best: the error of the mel itself."""
AS_GOOD = 0.02
"""A state whose loss is at most so much (a share) above the lowest is as good as that one. The latest of them is kept:
few recordings tell them no further apart, and what goes on to be learnt, such as sharp spectra, the loss hardly shows.
"""
PITCH_UTTERANCES = 60
"""About so many target recordings say where the pitch of a voice lies."""

Ending = Literal["done", "stopped", "late", "stale"]
"""Why no more steps are taken: all are, somebody asked for it, time is over, or the dev set no longer got better."""


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


def run_together(
    prepare: Callable[[World], VoiceRun],
    *,
    overwrite: bool,
    on_report: Callable[[TrainingReport], None] | None,
    on_message: Callable[[str], None] | None,
    on_plan: Callable[[Plan], None] | None,
    should_stop: Callable[[], bool] | None,
) -> TrainResult:
    """Do a run, or go on with it; processes that a launcher started train one model together.

    Args:
        prepare: makes the run in each process
        overwrite: start anew, discarding what the folder holds
    """
    began = time.monotonic()
    with joined() as world, contextlib.ExitStack() as held:
        run = world.together(lambda: prepare(world))
        world.by_first(lambda: held.enter_context(run.files.alone()))
        if overwrite and not is_restart():
            world.by_first(run.files.clear)
        run.say = world.spoken(on_message or _ignore)
        run.on_plan = on_plan
        return run.go(began, on_report or _ignore, should_stop or (lambda: False))


def _ignore(_: Any) -> None:
    """Default callback."""


class VoiceRun:
    """One run: its folder, its data, and the loop.

    Args:
        folder: of the run, whether there is one or not
        stats: what to normalise the pairs of ``manifest`` with
        device: to compute on, where there is one process
        init: the model that a new run begins with; ``none`` or None for random weights
        begin: reads that model
        show: shows what the voice makes of a few dev pairs, as :func:`aasvc_cli.report.previews.show` does, every
            ``train.preview_every`` steps
    """

    def __init__(
        self,
        home: Home,
        folder: Path,
        config: Config,
        manifest: Manifest,
        stats: NormStats,
        world: World,
        device: torch.device,
        *,
        init: str | Path | None,
        begin: Callable[[str | Path], Beginning],
        show: Callable[..., None],
        tensorboard: bool,
    ):
        self.home = home
        self.init = init
        self.begin = begin
        self.show = show
        self.folder = folder
        self.files = RunFolder(folder)
        self.manifest = manifest
        self.stats = stats
        self.world = world
        self.say: Callable[[str], None] = _ignore
        self.on_plan: Callable[[Plan], None] | None = None
        self.device = world.device(device)
        world.share_cores(config.train.threads)
        self.config = with_precision(config, self.device)
        store = FeatureStore(home.features, config.features, storage_key)
        trained_on = [*manifest.sets["train"], *manifest.extra]
        check_pairs_for(config, [*trained_on, *manifest.sets["dev"]])
        self.train_set = varied_pairs(trained_on, store.load, stats, config)
        self.plain_set = PairDataset(manifest.sets["train"], store.load, stats)
        self.dev_set = PairDataset(manifest.sets["dev"], store.load, stats)
        for pairs, what in ((self.train_set, "training"), (self.dev_set, "dev")):
            if not len(pairs):
                raise DataError(f"prepared data {manifest.name} has no {what} pairs; run: aasvc prepare")
        self.position = Position()
        self.best_step, self.best_dev = 0, dict[str, float]()
        self.lowest_step, self.lowest_dev = 0, dict[str, float]()
        self.seconds_before = 0.0
        self.saved_step = 0
        self.pitch_of: PitchOf | None = None
        if config.model.pitch_predictor:
            self.pitch_of = PitchReader(config.features.mel, stats.target, self.device)
        self.board = Board() if tensorboard else None
        self._trainer: Trainer | None = None

    # --- files ------------------------------------------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        """What the run was trained on."""
        sets = {name: [pair.utterance_id for pair in self.manifest.sets[name]] for name in ("train", "dev")}
        kept = self.home.kept
        pairs = [*(pair for name in sets for pair in self.manifest.sets[name]), *self.manifest.extra]
        recordings = [(kept(pair.source), kept(pair.target)) for pair in pairs]
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
            check_init(self.folder, self.init, begun=begun)
        if begun:
            return load_checkpoint(self.files.last)
        if self.init is None or self.init == NO_INIT:
            if self.config.train.freeze:
                raise ConfigError("--freeze", ["random weights would stay as they are; say with --init what to keep"])
            return self._pitch_range(), None
        return self._initial_weights(trainer, self.begin(self.init), self.init) | self._pitch_range(), None

    def _pitch_range(self) -> dict[str, torch.Tensor]:
        """Where the pitch of this target lies, in place of that of the voice that the training begins with."""
        if self.pitch_of is None:
            return {}
        voiced = [torch.zeros(0)]
        for index in range(0, len(self.plain_set), max(1, len(self.plain_set) // PITCH_UTTERANCES)):
            target = torch.from_numpy(self.plain_set[index].target).unsqueeze(0).to(self.device)
            f0, is_voiced = self.pitch_of(target)
            voiced.append(f0[is_voiced].cpu())
        middle, spread = pitch_range(torch.cat(voiced))
        return {"pitch_predictor.middle": middle, "pitch_predictor.spread": spread}

    def _initial_weights(self, trainer: Trainer, begun: Beginning, init: str | Path) -> dict[str, torch.Tensor]:
        """The weights of another model that fit this one; says how well, and leaves a note in the folder."""
        fit = fit_weights(begun.weights, trainer.model.state_dict(), begun.origin, init)
        for message in fit.messages(begun.folder):
            self.say(message)
        for side, key in readable_keys(self.config.features).items():
            if begun.readable_keys[side] != key:
                self.say(
                    f"warning: {begun.folder} was trained on {side} features of other settings; it may have to learn "
                    "them anew"
                )
        write_json(self.folder / INIT_FILE, fit.note(init, begun.folder, begun.card))
        return fit.taken

    def _go_on_from(self, trainer: Trainer, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
        with self.files.going_on():
            trainer.load_state(tensors, header["trainer"])
            self.position = Position(**header["position"])
            self.best_step, self.best_dev = header["best_step"], header["best_dev"]
            self.lowest_step, self.lowest_dev = header["lowest_step"], header["lowest_dev"]
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
        if self.board is not None:
            self.board.open(self.folder / "tensorboard", trainer.step)

    def _log(self, entry: dict[str, Any]) -> None:
        self.files.log(entry)
        if self.board is not None:
            self.board.log(entry)

    def _save_last(self, trainer: Trainer, seconds: float) -> None:
        tensors, numbers = trainer.state()
        self.world.by_first(lambda: self._write_last(trainer, tensors, numbers, seconds))
        self.saved_step = trainer.step

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
            "lowest_step": self.lowest_step,
            "lowest_dev": self.lowest_dev,
            "seconds": seconds,
        }
        save_checkpoint(self.files.last, tensors, header)
        self.files.keep_last(trainer.step, self.config.train.keep)
        # for people and programs; training itself reads the header inside the checkpoint
        last = {"step": trainer.step, "max_steps": self.config.train.max_steps, "seconds": seconds}
        best = {"step": self.best_step, "dev": self.best_dev, "by": BEST_BY}
        write_json(self.folder / "checkpoints.json", {"last": last, "best": best})

    def _save_if_good(self, trainer: Trainer, dev: dict[str, float]) -> None:
        if not self.lowest_dev or dev[BEST_BY] < self.lowest_dev[BEST_BY]:
            self.lowest_step, self.lowest_dev = trainer.step, dev
        if dev[BEST_BY] > self.lowest_dev[BEST_BY] * (1.0 + AS_GOOD):
            return
        self.best_step, self.best_dev = trainer.step, dev
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
        trainer = Trainer(self.config, self.device, world=self.world, on_message=self._note, pitch_of=self.pitch_of)
        self._trainer = trainer
        self._open(trainer)
        self._tell_plan(trainer)
        meter = Meter(LOSS_NAMES, self.device, seconds_before=self.seconds_before)
        began_at = self.saved_step = trainer.step
        if self.world.is_first and began_at >= (most := self.config.train.max_steps):
            self.say(f"nothing to do: the run is at step {began_at} of {most}; a larger --max-steps trains on")
        ending = self._take_steps(trainer, meter, began, report, should_stop)
        ended = trainer.step == self.config.train.max_steps > began_at
        if self.world.is_first and ended:
            self._rank(trainer, should_stop)
        seconds = meter.seconds
        unsaved = self.saved_step != trainer.step or (self.world.is_first and not self.files.last.exists())
        if any(self.world.any(unsaved)):
            self._save_last(trainer, seconds)
        if self.board is not None:
            self.board.close()
        return TrainResult(
            self.folder, trainer.step, self.best_step, self.best_dev, ending in ("stopped", "late"), seconds,
            out_of_time=ending == "late", out_of_patience=ending == "stale",
        )  # fmt: skip

    def _take_steps(
        self,
        trainer: Trainer,
        meter: Meter,
        began: float,
        report: Callable[[TrainingReport], None],
        should_stop: Callable[[], bool],
    ) -> Ending:
        """Steps up to the last, or until something ends them early; says what."""
        config = self.config.train
        stream = self._batches()
        limit = parse_time(config.time_limit) if config.time_limit else float("inf")
        turn = time.monotonic()
        slowest = 0.0
        while trainer.step < config.max_steps:
            now = time.monotonic()
            slowest, turn = max(slowest, now - turn), now
            # one more turn must fit, and it may be one that measures and saves
            stopped, late, stale = self.world.any(
                should_stop(), now - began + slowest >= limit, self._is_stale(trainer)
            )
            if stopped or late or stale:
                return "stopped" if stopped else "late" if late else "stale"
            losses, norm, rate = trainer.update([next(stream) for _ in range(config.accum)])
            meter.add(losses, norm)
            self._after_step(trainer, meter, rate, report)
        return "done"

    def _after_step(
        self, trainer: Trainer, meter: Meter, rate: float, report: Callable[[TrainingReport], None]
    ) -> None:
        """Measure, log, save and show, each when its turn has come."""
        config, step = self.config.train, trainer.step
        last = step == config.max_steps
        measure = step % config.eval_every == 0 or last
        dev = self._measure_dev(trainer) if measure and self.world.is_first else None
        if step % config.log_every == 0 or measure:
            summary = meter.report(step, config.max_steps, lr=rate, dev=dev, epoch=self.position.epoch)
            if self.world.is_first:
                for entry in summary.entries():
                    self._log(entry)
                report(summary)
        if dev is not None:
            self._save_if_good(trainer, dev)
        if step % config.save_every == 0 or last:
            self._save_last(trainer, meter.seconds)
        if self.world.is_first and config.preview_every and (step % config.preview_every == 0 or last):
            self._show(trainer)

    def _is_stale(self, trainer: Trainer) -> bool:
        """Whether so many measurements in a row as patience has brought nothing better; the first process knows."""
        patience, every = self.config.train.patience, self.config.train.eval_every
        if patience is None or not self.best_dev or not self.world.is_first:
            return False
        return trainer.step // every - self.lowest_step // every >= patience

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
            self.say("recordings are not varied (augment): features.source and features.duration are not the same")
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
        return batch_for_memory(self.config, self.device, self.train_set, self.say, processes=self.world.local_size)

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
        alone = (collate([self.plain_set[index]]) for index in range(len(self.plain_set)))
        with contextlib.closing(trainer.alignment_losses(alone)) as found:  # also a stop gives the weights back
            for pair, loss in zip(self.plain_set.pairs, found, strict=True):
                if should_stop():
                    return
                losses[pair.utterance_id] = loss
        write_ranking(self.folder / RANKING_FILE, by_loss(losses))

    def _show(self, trainer: Trainer) -> None:
        made = preview(trainer, self.dev_set, self.stats, self.config)
        rate = self.config.features.mel.sample_rate
        self.show(self.folder, trainer.step, made, rate, best_step=self.best_step or None)
