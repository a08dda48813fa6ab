"""``aasvc train --kind vocoder``: from the target's recordings to a vocoder folder, resumable at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.mono import Remark
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.layers import FLAG, INIT, PREPARED, Layer, Origin, config_layer, preset_layer
from aasvc_cli.config.reading import dump_yaml, override, parse_section, to_tree
from aasvc_cli.config.settings import Config, FeatureConfig, MelConfig
from aasvc_cli.conversion.voice import (
    CARD_FILE,
    WEIGHT_FILES,
    find_voice,
    load_voice,
    pick_device,
    prepared_name,
    read_card,
)
from aasvc_cli.data.dataset import PairDataset
from aasvc_cli.data.manifest import Manifest, ParallelPair, read_manifest
from aasvc_cli.data.readings import many_speakers
from aasvc_cli.data.restoring import restore_features
from aasvc_cli.data.waveforms import repitched, rerecorded
from aasvc_cli.errors import ConfigError, DataError, ModelError, TrainingError
from aasvc_cli.features.kinds import extract, feature_key, storage_key, with_widths
from aasvc_cli.features.stats import RunningStats
from aasvc_cli.features.store import FeatureStore, recording_stamp
from aasvc_cli.measures.judges import missing_for, opinions
from aasvc_cli.measures.signal import PUBLISHED_MAX_RATE, estimate_f0_range, recipe_f0_range, score_pair, voiced_f0
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import as_bytes, make_folder, read_json, reading, write_bytes, write_json
from aasvc_cli.storage.home import UNIVERSAL, Home
from aasvc_cli.training.initial_weights import NO_INIT
from aasvc_cli.training.optimisation import with_precision
from aasvc_cli.training.progress import Meter, TrainingReport
from aasvc_cli.training.run_folder import DATA_FILE, LAST, RunFolder, RunResult, run_name, voice_folder
from aasvc_cli.training.vocoder_trainer import (
    VOCODER_LOSSES,
    CropSource,
    Recording,
    VocoderTrainer,
    generator_sizes,
    pitch_errors,
)
from aasvc_cli.training.voice_trainer import FREE_TO_CHANGE
from aasvc_cli.vocoder.build import (
    default_vocoder,
    load_vocoder,
    read_vocoder,
    read_vocoder_config,
    refuse_mismatch,
    speak,
    write_vocoder,
)
from aasvc_cli.vocoder.folder import CONFIG_FILE, StoredVocoder, find_vocoder
from aasvc_cli.vocoder.istft import IstftSizes, IstftVocoder
from aasvc_cli.vocoder.pitch import PitchReader
from aasvc_cli.workers import Workers, core_count, each_in_chunks

SETTINGS = "train.yaml"
"""The configuration of the run; ``config.yaml`` describes the vocoder."""
ADAPTATION = {"train.max_steps": 1000, "train.lr": 2.0e-4}
"""What a vocoder that can speak already needs to get used to one speaker."""
DISCRIMINATORS = "discriminators.safetensors"
"""The discriminators of a vocoder that is no run, for those who go on from it."""
_REPITCHED = 1_000_000
"""Seeds a version at another pitch, in place of the number of a version."""


def train_vocoder(
    home: Home,
    config: Config,
    *,
    data: str | None = None,
    recordings: Path | None = None,
    tag: str | None = None,
    init: str | Path | None = None,
    mels_from: str | Path | None = None,
    overwrite: bool = False,
    on_report: Callable[[TrainingReport], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Train a vocoder on the target's recordings of a prepared set, or on those of many people, or go on with one.

    The run lives in ``vocoders/<target>_<tag>``, or ``vocoders/<folder>_<tag>`` for a folder of recordings, which is a
    vocoder from the first checkpoint on. If that folder has a checkpoint, training continues from it exactly as if it
    had never stopped. When ``should_stop`` returns True, the run is saved and the function returns.

    Args:
        data: a prepared set; the one prepared last if None
        recordings: ``<group>/<speaker>/**`` in place of a prepared set; of groups with four speakers and more, one
            speaker is kept for measuring
        tag: last part of the folder's name; the configuration's name if None
        init: a vocoder of ours of the same sizes to begin with; its pitch network stays, discriminators join at once.
            None for the universal one where it fits, ``none`` for random weights
        mels_from: a voice for the pairs of the prepared set. Half of the examples are then the mels that it writes for
            them, held to the timing of the recordings; and if it is a run of ours, it speaks through this vocoder from
            then on. None for the run on the same set with the same tag, if there is one; ``none`` for recordings alone
        overwrite: start anew, discarding what the folder holds

    Returns:
        how the run ended; ``dev`` is the copy synthesis of the dev set with the last weights

    Raises:
        DataError: nothing prepared, no recordings long enough.
        ConfigError: the folder belongs to a run with other settings or other data.
        TrainingError: the loss diverged or is not finite; the last good checkpoint is kept.
        StorageError: no permission, no space; the last good checkpoint is kept.
    """
    if recordings is None:
        manifest = read_manifest(home, data)
        mels_from = voice_heard(home, manifest, config, tag, mels_from, overwrite=overwrite)
    else:
        manifest = many_speakers(recordings, config)
    folder = _folder(home, manifest, config, tag)
    begun = beginning(init, config)
    adapted = with_widths(override(config, settings_of(home, begun, mels_from)))
    run = _Run(home, folder, adapted, manifest, init=begun, mels_from=mels_from)
    with folder.alone():
        if overwrite:
            folder.clear()
        return run.go(on_message or _ignore, on_report or _ignore, should_stop or (lambda: False))


def _ignore(_: Any) -> None:
    """Default callback."""


def beginning(init: str | Path | None, config: Config) -> str | Path | None:
    """What a run begins with: what is asked for, else the universal vocoder where its mels and sizes are those of the
    configuration; None for random weights."""
    if init is not None:
        return None if init == NO_INIT else init
    if default_vocoder(config.features.mel) != UNIVERSAL:
        return None
    tree = read_vocoder_config(find_vocoder(None, UNIVERSAL) / CONFIG_FILE)[2]
    sizes = parse_section(IstftSizes, tree, "generator", UNIVERSAL)
    ours = generator_sizes(config)
    same = dataclasses.replace(ours, f0_floor=sizes.f0_floor, f0_ceil=sizes.f0_ceil, correct_mel=sizes.correct_mel)
    return UNIVERSAL if same == sizes else None


def voice_heard(
    home: Home, manifest: Manifest, config: Config, tag: str | None, mels_from: str | Path | None, *, overwrite: bool
) -> str | Path | None:
    """The voice whose mels a run learns from: the one asked for; else, of a run that goes on, the one that it had; else
    that of the same set and tag, if it has been trained. None for recordings alone.

    Raises:
        ConfigError: no name for a run.
        DataError: a record of what a run was trained on is damaged.
    """
    if mels_from is not None:
        return None if mels_from == NO_INIT else mels_from
    record = _folder(home, manifest, config, tag).path / DATA_FILE
    if record.exists() and not overwrite:
        with reading(record, "the data of the run", advice="use another --tag, or --overwrite"):
            known: str | None = read_json(record, "the data of the run").get("mels_from")
            return known
    voice = voice_folder(home, manifest, manifest.config, tag)
    trained = any((voice / weights).is_file() for weights in WEIGHT_FILES)
    return voice.name if trained and prepared_name(voice) == manifest.name else None


def _folder(home: Home, manifest: Manifest, config: Config, tag: str | None) -> RunFolder:
    """Where a run lives; raises ConfigError for a tag that cannot be part of a name."""
    return RunFolder(home.vocoders / f"{manifest.target_speaker}_{run_name(tag, config)}", SETTINGS)


def base_layers(manifest: Manifest | None, init: str | Path | None = None) -> list[Layer]:
    """What a vocoder is trained with where nothing is said: features are those of the prepared set."""
    base = [preset_layer("vocoder")]
    if init is not None:
        base.append(Layer(Origin(INIT, str(init)), ADAPTATION))
    if manifest is not None:
        base.append(config_layer(Origin(PREPARED, manifest.name), manifest.config, "features"))
    return base


def layers_above(home: Home, init: str | Path | None, mels_from: str | Path | None) -> list[Layer]:
    """What beginning with a vocoder, or hearing a voice, decides whatever else is said."""
    layers = [
        Layer(Origin(FLAG, "--mels-from"), settings_of(home, None, mels_from)),
        Layer(Origin(INIT, str(init)), settings_of(home, init, None)),
    ]
    return [layer for layer in layers if layer.values]


def settings_of(home: Home, init: str | Path | None, mels_from: str | Path | None) -> dict[str, Any]:
    """What follows for the settings, by dotted key, from where a run begins and what it hears."""
    settings: dict[str, Any] = {}
    if init is not None:
        settings |= {"vocoder.pitch_steps": 0, "vocoder.adversarial_start_step": 0}
        sizes = read_vocoder(find_vocoder(home, init)).generator
        # the bins of its pitch network lie in this range
        settings |= {f"features.mcep.{end}": sizes[end] for end in ("f0_floor", "f0_ceil") if end in sizes}
    if init is not None or mels_from is not None:  # the vocoder to begin with may have heard a voice itself
        settings |= {"vocoder.correct_mel": True}
    return settings


class _Run:
    """One run: its folder, its data, and the loop."""

    def __init__(
        self,
        home: Home,
        folder: RunFolder,
        config: Config,
        manifest: Manifest,
        *,
        init: str | Path | None,
        mels_from: str | Path | None,
    ) -> None:
        self.home = home
        self.init = init
        self.mels_from = mels_from
        self.folder = folder
        self.manifest = manifest
        self.device = pick_device(config.train.device)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.config = with_precision(config, self.device)
        self.mel = config.features.mel
        self.store = FeatureStore(home.features, config.features, storage_key)
        self.dev: dict[str, float] = {}
        self.seconds_before = 0.0

    def go(
        self,
        say: Callable[[str], None],
        report: Callable[[TrainingReport], None],
        should_stop: Callable[[], bool],
    ) -> RunResult:
        """Train to the last step, or until asked to stop."""
        train, settings = self.config.train, self.config.vocoder
        make_folder(self.folder.path)
        described = self._describe()
        unused = ("model", "loss", "augment")
        settings_tree = {name: part for name, part in to_tree(self.config).items() if name not in unused}
        self.folder.open(settings_tree, described, FREE_TO_CHANGE)
        say(f"reading the recordings of {self.manifest.target_speaker}")
        n_pitch = settings.pitch_recordings
        unchanged = self._load("train", n_pitch if settings.pitch_steps else 0, say)
        versions = [self._version(each, number) for number in range(settings.versions) for each in unchanged]
        recordings = [*unchanged, *versions]
        self.dev_recordings = self._load("dev", n_pitch, say)
        trainer = self._trainer(recordings)
        if self.mels_from is not None:
            say(f"writing mels with {self.mels_from}")
            forced = _Forced(self.home, self.mels_from, self.manifest.name, self.mel, self.device)
            with Workers(core_count()) as pool:
                spread = partial(each_in_chunks, pool)
                restore_features(self.home, self.manifest, forced.voice.config, spread=spread, on_message=say)
            recordings = [*recordings, *forced.replaced(unchanged, self._pairs("train"))]
            self.dev_recordings = forced.replaced(self.dev_recordings, self._pairs("dev"))
        self._resume(trainer, say)
        self.folder.describe(dump_yaml(self.config), described)
        for_pitch = [each for each in recordings if each.f0 is not None]
        if settings.versions and trainer.stage() == "pitch":
            for_pitch += [self._repitched(each) for each in unchanged if each.f0 is not None]
        sources = {
            stage: CropSource(chosen, self.mel, n_frames=settings.crop_frames, margin=trainer.margin, seed=train.seed)
            for stage, chosen in (("pitch", for_pitch), ("other", recordings))
        }
        meter = Meter(VOCODER_LOSSES, self.device, seconds_before=self.seconds_before)
        saved, stopped = trainer.step, False
        while trainer.step < train.max_steps:
            if should_stop():
                stopped = True
                break
            stage = trainer.stage()
            done = trainer.update(
                sources["pitch" if stage == "pitch" else "other"].draw(trainer.step, train.batch_size)
            )
            meter.add(done.losses, done.grad_norm)
            step, last = trainer.step, trainer.step == train.max_steps
            measure = step % train.eval_every == 0 or last
            dev = self._measure(trainer) if measure else None
            if dev is not None and last and settings.final_scores:
                dev |= self._score(trainer, say)
            if step % train.log_every == 0 or measure:
                summary = meter.report(step, train.max_steps, lr=done.lr, dev=dev, stage=stage)
                for entry in summary.entries():
                    self.folder.log(entry)
                report(summary)
            if step % train.save_every == 0 or last:
                self._save(trainer, meter.seconds)
                saved = step
            if train.preview_every and (step % train.preview_every == 0 or last):
                self._preview(trainer)
        seconds = meter.seconds
        if saved != trainer.step or not self.folder.last.exists():
            self._save(trainer, seconds)
        if not stopped and self.mels_from is not None:
            self._serve(find_voice(self.home, self.mels_from), say)
        return RunResult(self.folder.path, trainer.step, self.dev, stopped, seconds)

    def _serve(self, voice: Path, say: Callable[[str], None]) -> None:
        """Have the voice speak through this vocoder, if the voice is ours to change."""
        if voice.parent != self.home.exp:
            return
        write_json(voice / CARD_FILE, {**read_card(voice), "vocoder": self.folder.path.name})
        say(f"{voice.name} speaks through it from now on, where --vocoder names no other")

    # --- data -------------------------------------------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        """What the run is trained on."""
        pairs = {name: self._pairs(name) for name in ("train", "dev")}
        sets = {name: [pair.utterance_id for pair in own] for name, own in pairs.items()}
        recordings = [self.home.kept(pair.target) for own in pairs.values() for pair in own]
        begun = {
            name: str(value)
            for name, value in (("init", self.init), ("mels_from", self.mels_from))
            if value is not None
        }
        described = [recordings, begun] if begun else recordings
        digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
        names = {"prepared": self.manifest.name, "speaker": self.manifest.target_speaker, **begun}
        return {**names, "digest": digest, **sets}

    def _load(self, name: str, n_pitch: int, say: Callable[[str], None]) -> list[Recording]:
        """The recordings of a set; some, evenly spread, with their pitch."""
        pairs = self._pairs(name)
        if not pairs:
            raise DataError(f"prepared data {self.manifest.name} has no {name} pairs; run: aasvc prepare")
        analysed = set(np.linspace(0, len(pairs) - 1, min(n_pitch, len(pairs))).round().astype(int).tolist())
        return [self._recording(pair, say, pitch=index in analysed) for index, pair in enumerate(pairs)]

    def _pairs(self, name: str) -> tuple[ParallelPair, ...]:
        """Those of a set; a vocoder learns from the targets that have no partner, too."""
        return self.manifest.sets[name] + (self.manifest.alone if name == "train" else ())

    def _recording(self, pair: ParallelPair, say: Callable[[str], None], *, pitch: bool) -> Recording:
        remarks: list[Remark] = []
        wave, rate = read_audio(pair.target, remarks.append)
        for remark in remarks:
            if remark.code == "truncated":  # since it was prepared, which tells all else
                say(f"{pair.target}: {remark.message}")
        wave = resample(wave, rate, self.mel.sample_rate)
        mel = self._feature("mel", pair.target, wave)
        f0 = self._feature("f0", pair.target, wave)[:, 0] if pitch else None
        # 16 bits are what recordings have, and half the memory
        whole = np.round(np.clip(wave, -1.0, 32767.0 / 32768.0) * 32768.0).astype(np.int16)
        return Recording(pair.utterance_id, whole, mel, f0)

    def _version(self, recording: Recording, number: int) -> Recording:
        """A changed version, with the pitch if that of the recording is known."""
        random = np.random.default_rng([zlib.crc32(as_bytes(recording.utterance_id)), number])
        wave = rerecorded(recording.wave.astype(np.float32) / np.float32(32768.0), self.mel.sample_rate, random)
        f0 = None if recording.f0 is None else extract("f0", wave, self.config.features)[:, 0]
        whole = np.round(wave * 32768.0).astype(np.int16)
        return Recording(f"{recording.utterance_id}-{number}", whole, extract("mel", wave, self.config.features), f0)

    def _repitched(self, recording: Recording) -> Recording:
        """The same at another pitch, for the pitch network alone: what WORLD says is no example of natural speech."""
        assert recording.f0 is not None
        random = np.random.default_rng([zlib.crc32(as_bytes(recording.utterance_id)), _REPITCHED])
        wave, bounds = recording.wave.astype(np.float32) / np.float32(32768.0), self.config.features.mcep
        wave, f0 = repitched(
            wave, recording.f0, self.mel.sample_rate, self.mel.hop_length, random,
            f0_min=bounds.f0_floor, f0_max=bounds.f0_ceil,
        )  # fmt: skip
        whole = np.round(wave * 32767.0).astype(np.int16)
        return Recording(f"{recording.utterance_id}-pitch", whole, extract("mel", wave, self.config.features), f0)

    def _feature(self, kind: str, recording: Path, wave: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
        if self.store.facts(kind, recording) is not None:
            return self.store.load(kind, recording)
        stamp = recording_stamp(recording)
        feature = extract(kind, wave, self.config.features)
        self.store.save(kind, recording, feature, stamp=stamp)
        return feature

    # --- files ------------------------------------------------------------------------------------------------------

    def _trainer(self, recordings: Sequence[Recording]) -> VocoderTrainer:
        running = RunningStats()
        for recording in recordings:
            running.update(recording.mel)
        stats = running.result()
        return VocoderTrainer(self.config, self.device, mean=stats.mean, scale=stats.scale)

    def _resume(self, trainer: VocoderTrainer, say: Callable[[str], None]) -> None:
        if not self.folder.last.exists():
            self.folder.cut_log(0)
            if self.init is not None:
                self._begin_with(trainer, find_vocoder(self.home, self.init), say)
            return
        tensors, header = load_checkpoint(self.folder.last)
        with self.folder.going_on():
            trainer.load_state(tensors, header["trainer"])
            self.dev, self.seconds_before = header["dev"], header["seconds"]
        self.folder.cut_log(trainer.step)
        say(f"resuming {self.folder.path} at step {trainer.step}")

    def _begin_with(self, trainer: VocoderTrainer, folder: Path, say: Callable[[str], None]) -> None:
        stored = read_vocoder(folder)
        vocoder = load_vocoder(folder, home=self.home)
        refuse_mismatch(str(self.init), vocoder, self.mel)
        try:
            trainer.start_from({name: tensor.to(self.device) for name, tensor in stored.tensors.items()})
        except ModelError as error:
            raise ModelError(f"--init {self.init}: {error}; choose another vocoder, or its --conf") from None
        say(f"begins with the weights of {folder}{self._discriminators_of(trainer, folder)}")

    def _discriminators_of(self, trainer: VocoderTrainer, folder: Path) -> str:
        """Begin with those that a vocoder comes with, if it does; how to go on to say so."""
        for name in (LAST, DISCRIMINATORS):
            if (folder / name).is_file():
                try:
                    trainer.start_discriminators_from(load_checkpoint(folder / name)[0])
                except RuntimeError:  # of other sizes; new ones soon learn
                    break
                return " and its discriminators"
        return ""

    def _save(self, trainer: VocoderTrainer, seconds: float) -> None:
        tensors, numbers = trainer.state()
        header = {"trainer": numbers, "step": trainer.step, "dev": self.dev, "seconds": seconds}
        save_checkpoint(self.folder.last, tensors, header)
        origin = {"step": trainer.step, "seconds": seconds, "dev": self.dev, "data": self.manifest.name}
        sizes = dataclasses.asdict(generator_sizes(self.config))
        write_vocoder(self.folder.path, StoredVocoder("istft", self.mel, sizes, trainer.weights(), origin))
        last = {"step": trainer.step, "max_steps": self.config.train.max_steps, "seconds": seconds}
        write_json(self.folder.path / "checkpoints.json", {"last": last | {"dev": self.dev}})

    # --- measuring --------------------------------------------------------------------------------------------------

    def _measure(self, trainer: VocoderTrainer) -> dict[str, float]:
        """Copy synthesis of the dev set: distance of log-mels, and how well the pitch network reads the pitch."""
        distance = total = 0.0
        pitches: list[np.ndarray[Any, Any]] = []
        with trainer.average.swapped():
            vocoder = IstftVocoder(trainer.generator)
            for recording in self.dev_recordings:
                wave = speak(vocoder, recording.mel, self.device)
                wanted = self._true_mel(recording)
                made = log_mel(wave, self.mel)[: len(wanted)]
                difference = np.abs(np.maximum(made, -5.0) - np.maximum(wanted, -5.0))
                distance += float(difference.mean()) * len(made)
                total += len(made)
                if recording.f0 is None:
                    continue
                mel = torch.from_numpy(recording.mel).to(self.device).unsqueeze(0)
                with torch.inference_mode():
                    f0, voiced = trainer.generator.pitch.decode(trainer.generator.normalise(mel))
                read = np.where(voiced[0].cpu().numpy(), f0[0].cpu().numpy(), 0.0)
                pitches.append(np.stack([read, recording.f0], axis=1))
            trainer.generator.train()
        dev = {"log_mel": distance / total, **pitch_errors(pitches)}
        if not np.isfinite(dev["log_mel"]):
            raise TrainingError(
                f"the synthesis of the dev set is not a finite number at step {trainer.step}; the checkpoints from "
                "before are kept - lower --lr"
            )
        self.dev = dev
        return dev

    def _true_mel(self, recording: Recording) -> Any:
        """That of the recording itself, of the frames that the vocoder is given."""
        return log_mel(recording.wave.astype(np.float32) / np.float32(32768.0), self.mel)[: len(recording.mel)]

    def _score(self, trainer: VocoderTrainer, say: Callable[[str], None]) -> dict[str, float]:
        """Copy synthesis of the dev set by the measures of ``evaluate``, which take their time."""
        say("measuring the copy synthesis of the dev set")
        rate = self.mel.sample_rate
        waves = [recording.wave.astype(np.float32) / np.float32(32768.0) for recording in self.dev_recordings]
        known_range = recipe_f0_range(self.manifest.target_speaker)
        rows: list[dict[str, float]] = []
        opinions_missing = missing_for("mos")
        with trainer.average.swapped():
            vocoder = IstftVocoder(trainer.generator)
            for recording, wave in zip(self.dev_recordings, waves, strict=True):
                try:
                    f0_range = known_range or estimate_f0_range([voiced_f0(wave, rate)])
                    copy = np.clip(speak(vocoder, recording.mel, self.device)[: len(wave)], -1.0, 1.0)
                    scores = score_pair(
                        copy, rate, wave, rate, f0_min=f0_range.minimum, f0_max=f0_range.maximum,
                        mode="published" if rate <= PUBLISHED_MAX_RATE else "corrected",
                    )  # fmt: skip
                except DataError:  # nothing voiced, or silence: no measure is defined
                    continue
                row = {"mcd": scores.mcd, "f0_corr": scores.f0_corr, "f0_rmse": scores.f0_rmse}
                if opinions_missing is None:
                    row["dnsmos"] = opinions(copy, rate)["DNSMOS"]
                    row["dnsmos_recordings"] = opinions(wave, rate)["DNSMOS"]
                rows.append(row)
            trainer.generator.train()
        if opinions_missing is not None:
            say(f"no opinion scores: {opinions_missing}")
        means = {name: [row[name] for row in rows if np.isfinite(row[name])] for name in (rows[0] if rows else {})}
        return {name: float(np.mean(values)) for name, values in means.items() if values}

    def _preview(self, trainer: VocoderTrainer) -> None:
        """Pictures and sounds of the first dev recordings."""
        from aasvc_cli.report import drawing
        from aasvc_cli.report.collect import preview_name, write_previews

        with trainer.average.swapped():
            vocoder = IstftVocoder(trainer.generator)
            for recording in self.dev_recordings[: self.config.train.n_previews]:
                wave = speak(vocoder, recording.mel, self.device)
                base = self.folder.path / "previews" / preview_name(trainer.step, recording.utterance_id)
                mels = [log_mel(wave, self.mel)[: len(recording.mel)], self._true_mel(recording)]
                if self.mels_from is not None:
                    mels.insert(0, recording.mel)
                write_bytes(base.with_name(base.name + "-mel.png"), drawing.spectrograms(mels))
                write_audio(base.with_name(base.name + ".wav"), np.clip(wave, -1.0, 1.0), self.mel.sample_rate)
            trainer.generator.train()
        pairs = self.manifest.sets["dev"][: self.config.train.n_previews]
        write_previews(
            self.folder.path, {p.utterance_id: (None, p.target) for p in pairs}, trainer.step, done="synthesised"
        )


class _Forced:
    """The mels that a voice writes for pairs when it is held to the timing and the pitch of the target."""

    def __init__(self, home: Home, name: str | Path, prepared: str, mel: MelConfig, device: torch.device) -> None:
        # published voices come without the statistics of their source speaker; those of the pairs take their place
        self.voice = load_voice(find_voice(home, name), str(device), home=home, data=prepared)
        if feature_key("mel", FeatureConfig(mel=mel)) != feature_key("mel", self.voice.config.features):
            raise ConfigError(str(name), ["its mels have other settings than those of the vocoder; give its --conf"])
        self.pitch_of = None
        if self.voice.model.pitch_predictor is not None:
            self.pitch_of = PitchReader(mel, self.voice.stats.target, device)
        self.store = FeatureStore(home.features, self.voice.config.features, storage_key)

    def replaced(self, recordings: Sequence[Recording], pairs: Sequence[ParallelPair]) -> list[Recording]:
        """The recordings with these mels in place of their own."""
        replaced = []
        for recording, pair in zip(recordings, pairs, strict=True):
            mel = self._mel(pair)[: len(recording.mel)]
            replaced.append(dataclasses.replace(recording, mel=mel, own_mel=recording.mel[: len(mel)], f0=None))
        return replaced

    def _mel(self, pair: ParallelPair) -> Any:
        voice = self.voice
        item = PairDataset([pair], self.store.load, voice.stats)[0]
        source, target, rhythm = item.tensors(voice.device)
        pitch, predictor = None, voice.model.pitch_predictor
        if self.pitch_of is not None and predictor is not None:  # else the sound would not be at the pitch of the mel
            pitch = predictor.normalise(*self.pitch_of(target.unsqueeze(0)))[0]
        aligned = voice.model.align(source, target, rhythm, pitch)
        return voice.stats.target.restore(aligned.after[0].float().cpu().numpy())
