"""``aasvc train --kind content``: from recordings of many people to a content encoder, resumable at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aasvc_cli.audio.f0 import harvest, with_length
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.reading import dump_yaml, to_tree
from aasvc_cli.config.settings import Config
from aasvc_cli.conversion.voice import pick_device
from aasvc_cli.data.readings import Reading, find_readings, held_out
from aasvc_cli.data.waveforms import by_another, elsewhere
from aasvc_cli.errors import ConfigError, DataError, ModelError
from aasvc_cli.features.content import (
    CONTENT_CHANNELS,
    CONTENT_MEL,
    FRAMES_PER_SECOND,
    MELODY_FILE,
    MELODY_MEL,
    PROJECTION_FILE,
    WEIGHTS_FILE,
    content_input,
    encoded,
    load_encoder,
    load_melody_encoder,
    melody_input,
)
from aasvc_cli.features.whisper import WhisperEncoder
from aasvc_cli.model.content import F0_CEIL, F0_FLOOR, ContentEncoder, MelodyEncoder
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import as_bytes, make_folder, write_json
from aasvc_cli.storage.home import BUNDLED, Home, bundled
from aasvc_cli.training.content_trainer import (
    CONTENT_LOSSES,
    ContentTrainer,
    CropSource,
    Example,
    Projection,
    Version,
    discriminant,
    network_sizes,
)
from aasvc_cli.training.initial_weights import INIT_FILE, NO_INIT, check_init
from aasvc_cli.training.optimisation import below, with_precision
from aasvc_cli.training.progress import Meter, TrainingReport
from aasvc_cli.training.run_folder import RunFolder, RunResult, run_name
from aasvc_cli.training.voice_trainer import FREE_TO_CHANGE

Array = npt.NDArray[np.float32]
Teacher = Callable[[Array, int], Array]

SETTINGS = "train.yaml"
SHORTEST_SECONDS = 0.3
DEV_CROPS = 48
"""Crops of the speakers who are kept, always the same."""


def train_content(
    home: Home,
    config: Config,
    *,
    recordings: Path,
    teacher: str,
    init: str | None = None,
    tag: str | None = None,
    overwrite: bool = False,
    on_report: Callable[[TrainingReport], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Train a content encoder, or go on with one.

    The run lives in ``encoders/<tag>``; at its end, that folder holds the encoder.

    Args:
        recordings: ``<group>/<speaker>/**``; all groups are drawn equally often, and recordings of the same name in a
            group are the same sentence, read by several speakers
        teacher: a Whisper model, see :func:`aasvc_cli.features.whisper.load_whisper`
        init: encoders of the same sizes to begin with: ``bundled``, a run that has ended, or a folder. What is written
            then stays as near to what those write as the teacher allows, so a voice that was trained on them need not
            begin anew. None or ``none`` for random weights; a run that goes on has its own.
        tag: name of the folder; the configuration's name if None
        overwrite: start anew, discarding what the folder holds

    Returns:
        how the run ended; ``dev`` is the distance from the teacher for speakers who were not trained on

    Raises:
        DataError: no recordings, no sentence that several people read, no such teacher.
        ModelError: no such encoders to begin with, or of other sizes.
        ConfigError: the folder belongs to a run with other settings, other recordings or another beginning, or is what
            is to be begun with.
        TrainingError: the loss diverged or is not finite; the last good checkpoint is kept.
        StorageError: no permission, no space; the last good checkpoint is kept.
    """
    folder = RunFolder(home.encoders / run_name(tag, config), SETTINGS)
    readings = find_readings(recordings)
    _check_shared(readings)
    begins_with = None if init in (None, NO_INIT) else _find_encoders(home, str(init), folder.path, config)
    run = _Run(folder, config, readings, begins_with, on_message or _ignore)
    with folder.alone():
        if overwrite:
            folder.clear()
        if (folder.path / SETTINGS).exists():
            check_init(folder.path, init, begun=folder.last.exists())
        return run.go(recordings, teacher, on_report or _ignore, should_stop or (lambda: False))


@dataclass(frozen=True, eq=False)
class _Encoders:
    """What a training begins with, as it was asked for and read."""

    name: str
    content: ContentEncoder
    melody: MelodyEncoder


def _find_encoders(home: Home, name: str, run: Path, config: Config) -> _Encoders:
    """Encoders to begin with: those that come with the package, of a run, or in a folder.

    Raises:
        ModelError: none there, or of other sizes than the configuration's.
        ConfigError: they are those of the run that is to begin with them.
    """
    folders = [bundled("content")] if name == BUNDLED else [home.encoders / name, Path(name)]
    found = [each for each in folders if (each / WEIGHTS_FILE).is_file() and (each / MELODY_FILE).is_file()]
    if not found:
        raise ModelError(
            f"--init {name}: no content encoder there; expected {BUNDLED}, the tag of a run that has ended, or a "
            f"folder with {WEIGHTS_FILE} and {MELODY_FILE}"
        )
    if found[0].resolve() == run.resolve():
        raise ConfigError(f"--init {name}", ["is the folder of this training itself; choose another --tag for it"])
    content, melody = load_encoder(found[0] / WEIGHTS_FILE), load_melody_encoder(found[0] / MELODY_FILE)
    wanted = network_sizes(config, n_fine=MELODY_MEL.n_mels, n_out=content.sizes.n_out)
    faults = [
        f"{what} {size} {getattr(sizes, size)}, expected {expected}"
        for what, sizes, other in zip(("content", "melody"), (content.sizes, melody.sizes), wanted, strict=True)
        for size, expected in dataclasses.asdict(other).items()
        if getattr(sizes, size) != expected
    ]
    if faults:
        raise ModelError(f"--init {name}: encoders of other sizes ({'; '.join(faults)}); set theirs in --conf")
    return _Encoders(name, content, melody)


def _check_shared(readings: Sequence[Reading]) -> None:
    """Raise DataError if no sentence is read by several of those who are trained on."""
    kept = held_out(readings)
    readers = {(each.group, each.sentence, each.speaker) for each in readings if (each.group, each.speaker) not in kept}
    spoken = Counter((group, sentence) for group, sentence, _ in readers)
    if max(spoken.values(), default=0) < 2:
        raise DataError(
            "no sentence is read by several speakers; expected recordings of the same path below two of them"
        )


def _ignore(_: Any) -> None:
    """Default callback."""


def _version(spoken: Array, heard: Array) -> Version:
    """What is heard of a recording, and F0 as it was before noise and line."""
    levels, fine_levels = (make(heard, CONTENT_MEL.sample_rate) for make in (content_input, melody_input))
    contour = harvest(
        spoken, CONTENT_MEL.sample_rate, f0_min=F0_FLOOR, f0_max=F0_CEIL, frame_period=1000.0 / FRAMES_PER_SECOND
    )
    f0 = with_length(contour, (len(levels) + 1) // 2)
    return Version(*(array.astype(np.float16) for array in (levels, fine_levels, f0)))


class _Run:
    """One run: its folder, its examples, and the loop."""

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        readings: Sequence[Reading],
        begins_with: _Encoders | None,
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.readings = readings
        self.begins_with = begins_with
        self.say = say
        self.device = pick_device(config.train.device)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.config = with_precision(config, self.device)
        self.dev: dict[str, float] = {}
        self.seconds_before = 0.0

    def go(
        self,
        recordings: Path,
        teacher: str,
        report: Callable[[TrainingReport], None],
        should_stop: Callable[[], bool],
    ) -> RunResult:
        """Train to the last step, or until asked to stop."""
        train, path = self.config.train, make_folder(self.folder.path)
        names = [str(reading.path) for reading in self.readings]
        digest = hashlib.sha256(json.dumps([teacher, names]).encode()).hexdigest()[:16]
        described = {"recordings": str(recordings), "teacher": teacher, "digest": digest}
        used = ("name", "content", "train")
        settings = {name: part for name, part in to_tree(self.config).items() if name in used}
        self.folder.open(settings, described, FREE_TO_CHANGE, other_files=("examples",))
        self.folder.describe(dump_yaml(self.config), described)
        if self.begins_with is not None:
            write_json(path / INIT_FILE, {"model": self.begins_with.name})
        examples = self._examples(teacher, should_stop)
        if examples is None:
            return RunResult(path, 0, {}, True, 0.0)
        kept = held_out(self.readings)
        known, strange = (
            [pair for pair in examples if ((pair[0].group, pair[0].speaker) in kept) is apart]
            for apart in (False, True)
        )
        if not self.folder.last.exists():
            self.folder.cut_log(0)
            projection = self._projection(known)
            trainer = self._trainer(projection)
            if self.begins_with is not None:
                trainer.begin_with(self.begins_with.content, self.begins_with.melody)
        else:
            trainer, projection = self._resumed()
        source, dev_source = (
            CropSource(
                [dataclasses.replace(example, goal=projection(example.goal).astype(np.float16)) for _, example in each],
                n_frames=self.config.content.crop_frames,
                seed=train.seed,
            )
            for each in (known, strange)
        )
        meter = Meter(CONTENT_LOSSES, self.device, seconds_before=self.seconds_before)
        saved, stopped = trainer.step, False
        while trainer.step < train.max_steps:
            if should_stop():
                stopped = True
                break
            losses, norm, rate = trainer.update(source.draw(trainer.step, train.batch_size))
            meter.add(losses, norm)
            step, last = trainer.step, trainer.step == train.max_steps
            measure = bool(strange) and (step % train.eval_every == 0 or last)
            if measure:
                self.dev = trainer.measure(dev_source.draw(0, DEV_CROPS))
            if step % train.log_every == 0 or last:
                current = meter.report(step, train.max_steps, lr=rate, dev=self.dev if measure else None)
                for entry in current.entries():
                    self.folder.log(entry)
                report(current)
            if step % train.save_every == 0 or last:
                self._save(trainer, projection, meter.seconds)
                saved = step
        if saved != trainer.step or not self.folder.last.exists():
            self._save(trainer, projection, meter.seconds)
        if not stopped:
            self._write(trainer, projection)
        return RunResult(path, trainer.step, self.dev, stopped, meter.seconds)

    # --- examples ---------------------------------------------------------------------------------------------------

    def _examples(self, teacher: str, should_stop: Callable[[], bool]) -> list[tuple[Reading, Example]] | None:
        """The training material, kept in the folder of the run; None if stopped on the way."""
        paths = [self._example_path(reading) for reading in self.readings]
        if not all(path.exists() for path in paths):
            encoder = WhisperEncoder(teacher)
            self.say(f"hearing {len(paths)} recordings with {teacher}")
        examples = []
        for reading, path in zip(self.readings, paths, strict=True):
            if should_stop():
                return None
            if not path.exists():
                self._make(reading, path, encoder)
            arrays = {name: tensor.numpy() for name, tensor in load_checkpoint(path)[0].items()}
            if "goal" in arrays:
                versions = [
                    Version(*(arrays[f"{field}{number:02d}"] for field in Version._fields))
                    for number in range(self.config.content.versions + 1)
                ]
                examples.append((reading, Example(reading.group, tuple(versions), arrays["goal"])))
        return examples

    def _example_path(self, reading: Reading) -> Path:
        return self.folder.path / "examples" / reading.group / reading.speaker / f"{reading.sentence}.safetensors"

    def _make(self, reading: Reading, path: Path, encoder: Teacher) -> None:
        """Keep a recording, its versions, and what the teacher writes for it; nothing of one that is too short."""
        wave, rate = read_audio(reading.path, lambda remark: self.say(f"{reading.path}: {remark.message}"))
        wave = resample(wave, rate, CONTENT_MEL.sample_rate)
        arrays: dict[str, Array] = {}
        if len(wave) >= SHORTEST_SECONDS * CONTENT_MEL.sample_rate and wave.any():
            arrays["goal"] = encoder(wave, CONTENT_MEL.sample_rate)
            seed = zlib.crc32(as_bytes(f"{reading.group}/{reading.speaker}/{reading.sentence}"))
            for number in range(self.config.content.versions + 1):
                random = np.random.default_rng([seed, number])
                spoken = by_another(wave, CONTENT_MEL.sample_rate, random) if number else wave
                heard = elsewhere(spoken, CONTENT_MEL.sample_rate, random) if number else wave
                version = _version(spoken, heard)
                arrays |= {f"{field}{number:02d}": array for field, array in version._asdict().items()}
        make_folder(path.parent)
        save_checkpoint(path, {name: torch.from_numpy(array).half() for name, array in arrays.items()}, {})

    # --- files ------------------------------------------------------------------------------------------------------

    def _projection(self, examples: Sequence[tuple[Reading, Example]]) -> Projection:
        """What of the teacher's channels is wanted."""
        readers: dict[tuple[str, str], list[Example]] = defaultdict(list)
        for reading, example in examples:
            readers[reading.group, reading.sentence].append(example)
        shared = [several for several in readers.values() if len(several) > 1]
        if not shared:
            raise DataError(
                f"no sentence is read by several speakers in recordings of at least {SHORTEST_SECONDS} s; expected "
                "recordings of the same name in a group"
            )
        random = np.random.default_rng(self.config.train.seed)
        chosen = [shared[index] for index in random.permutation(len(shared))[: self.config.content.sentences]]
        self.say(f"finding what {len(chosen)} sentences have in common, whoever says them")
        sentences = [[example.goal.astype(np.float32) for example in several] for several in chosen]
        n_channels = sentences[0][0].shape[1]
        projection = discriminant(sentences, min(CONTENT_CHANNELS, n_channels))
        if self.begins_with is None:
            return projection
        before = self.begins_with.content
        if before.sizes.n_out != projection.directions.shape[1]:
            raise ModelError(
                f"--init {self.begins_with.name}: writes {before.sizes.n_out} channels, expected "
                f"{projection.directions.shape[1]} with this teacher, which has {n_channels}"
            )
        return projection.turned(
            (example.goal, encoded(before, example.versions[0].levels.astype(np.float32)))
            for several in chosen
            for example in several
        )

    def _trainer(self, projection: Projection) -> ContentTrainer:
        n_out = projection.directions.shape[1]
        return ContentTrainer(self.config, self.device, n_fine=MELODY_MEL.n_mels, n_out=n_out)

    def _resumed(self) -> tuple[ContentTrainer, Projection]:
        tensors, header = load_checkpoint(self.folder.last)
        try:
            projection = Projection(**{name: value.numpy() for name, value in below(tensors, "projection.").items()})
            trainer = self._trainer(projection)
            trainer.load_state(tensors, header["trainer"])
            self.dev, self.seconds_before = header["dev"], header["seconds"]
        except (KeyError, RuntimeError, TypeError, ValueError):
            raise ModelError(
                f"{self.folder.last}: not a checkpoint of this run; use another --tag, or --overwrite"
            ) from None
        self.folder.cut_log(trainer.step)
        self.say(f"resuming {self.folder.path} at step {trainer.step}")
        return trainer, projection

    def _save(self, trainer: ContentTrainer, projection: Projection, seconds: float) -> None:
        tensors, numbers = trainer.state()
        tensors |= {f"projection.{name}": torch.from_numpy(value) for name, value in vars(projection).items()}
        header = {"trainer": numbers, "step": trainer.step, "dev": self.dev, "seconds": seconds}
        save_checkpoint(self.folder.last, tensors, header)

    def _write(self, trainer: ContentTrainer, projection: Projection) -> None:
        """Write both encoders, and what was learnt of the teacher, in half precision."""
        offset = projection.offset - projection.centre @ projection.directions
        arrays = {"directions": projection.directions, "offset": offset}
        halves = {name: torch.from_numpy(array).half() for name, array in arrays.items()}
        save_checkpoint(self.folder.path / PROJECTION_FILE, halves, {})
        with trainer.average.swapped():
            self._write_one(MELODY_FILE, trainer.networks.melody, trainer.step)
            self._write_one(WEIGHTS_FILE, trainer.networks.content, trainer.step)  # last, as who has it has all

    def _write_one(self, name: str, encoder: ContentEncoder | MelodyEncoder, step: int) -> None:
        halves = {name: value.half() for name, value in encoder.state_dict().items()}
        header = {"sizes": dataclasses.asdict(encoder.sizes), "step": step, "dev": self.dev}
        save_checkpoint(self.folder.path / name, halves, header)
