"""``aasvc train``: from a prepared set to a model folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from aasvc_cli.config.layers import INIT, PREPARED, Layer, Origin, config_layer, preset_layer
from aasvc_cli.config.settings import Config
from aasvc_cli.conversion.voice import find_voice, pick_device, read_voice
from aasvc_cli.data.manifest import Manifest, read_manifest
from aasvc_cli.data.restoring import restore_features
from aasvc_cli.features.kinds import SIDES, readable_keys, with_widths
from aasvc_cli.storage.home import BUNDLED, Home
from aasvc_cli.training.distributed import World
from aasvc_cli.training.initial_weights import NO_INIT, Beginning, begun_with
from aasvc_cli.training.material import check_features, read_stats
from aasvc_cli.training.progress import TrainingReport
from aasvc_cli.training.rehearsal import Plan
from aasvc_cli.training.run_folder import voice_folder
from aasvc_cli.training.voice_run import TrainResult, VoiceRun, run_together
from aasvc_cli.vocoder.pitch import has_pitch
from aasvc_cli.workers import Workers, core_count, each_in_chunks

ADAPTATION = {
    "train.dropout_start_step": 0,
    "train.lr": 1e-3,
    "loss.duration_start_step": 0,
    "loss.variance_weight": 1.0,
    "augment.start_step": 0,
    "model.source_melody": False,
}
"""What a network that speaks already needs to learn another voice: it has found the alignment, what few pairs teach it
is soon learnt by heart, and what they leave open would come out as a mean of all that is possible. Few pairs do not
teach what the melody of one person says about that of the other, and the model would follow it where it should not."""
LEAST_STEPS, STEPS_PER_PAIR, STEPS_PER_EXTRA, MOST_STEPS = 300, 4, 1, 8000
"""How long that takes: with 20 and with 80 pairs, the dev set got no better after 350 and 400 to 600 steps; with 26
pairs of real people and 503 recordings of the target beside them, it got better until the last of 1000."""


def beginning(
    home: Home, manifest: Manifest, config: Config, *, tag: str | None = None, overwrite: bool = False
) -> str | None:
    """The model that a run begins with where nothing is said: the one it began with before; else the bundled voice,
    where it reads and writes such features by a network of the same sizes; None for random weights.

    Args:
        config: of the run, as it is where it begins with random weights

    Raises:
        ConfigError: no name for a run.
        ModelError: the bundled voice is damaged.
    """
    config = with_widths(config)
    folder = voice_folder(home, manifest, config, tag)
    if (folder / "config.yaml").exists() and not overwrite:
        return begun_with(folder)
    known = read_voice(find_voice(home, BUNDLED), home, weights=False).config
    same_sizes = dataclasses.replace(known.model, source_melody=config.model.source_melody) == config.model
    fits = same_sizes and readable_keys(known.features) == readable_keys(config.features)
    return BUNDLED if fits else None


def base_layers(home: Home, manifest: Manifest | None, conf: str | None, init: str | None) -> list[Layer]:
    """The default configuration of a voice, the weakest layer first.

    That is the configuration of the prepared set, but for the sizes of the model that training begins with; ``conf``
    decides both.

    Raises:
        ModelError: no such model, or it cannot be read.
    """
    base = [config_layer(Origin(PREPARED, manifest.name), manifest.config) if manifest else preset_layer()]
    if init not in (None, NO_INIT) and conf is None:
        begun = read_voice(find_voice(home, init), home, weights=False).config
        base.append(config_layer(Origin(INIT, init), _sized_for(manifest, begun), "model"))
        if init == BUNDLED:
            n_pairs, n_extra = (len(manifest.sets.get("train", ())), len(manifest.extra)) if manifest else (0, 0)
            n_steps = min(LEAST_STEPS + STEPS_PER_PAIR * n_pairs + STEPS_PER_EXTRA * n_extra, MOST_STEPS)
            readable = manifest is not None and has_pitch(manifest.config.features.mel)
            changes = {**ADAPTATION, "model.pitch_predictor": readable, "train.max_steps": n_steps}
            base.append(Layer(Origin(INIT, init), changes))
    return base


def _sized_for(manifest: Manifest | None, begun: Config) -> Config:
    """The configuration of a model to begin with, but for the widths of features of another kind.

    What reads these features begins with random weights then, and all behind it with those of the model.
    """
    if manifest is None:
        return begun
    prepared = with_widths(manifest.config).model
    widths = {f"{side}_dim": getattr(prepared, f"{side}_dim") for side in SIDES}
    return dataclasses.replace(begun, model=dataclasses.replace(begun.model, **widths))


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
    Processes that a launcher started train one model together; the first of them writes and reports. Features that are
    not kept any more are computed again.

    Args:
        data: a prepared set; the one prepared last if None
        tag: last part of the folder's name; the configuration's name if None
        norm_name: which statistics, as written by ``stats``
        init: a model, ours or published, whose weights a new run begins with, or ``none``; a run that goes on has its
            own
        overwrite: start anew, discarding what the folder holds
        on_plan: told before the first step what the training will take, which takes three passes to measure

    Raises:
        DataError: nothing prepared, no statistics, recordings or features that have changed, or pairs too long.
        ConfigError: the folder belongs to a run with other settings or other data.
        TrainingError: the loss diverged or is not finite; the last good checkpoint is kept.
        StorageError: no permission, no space; the last good checkpoint is kept.
    """

    def prepare(world: World) -> VoiceRun:
        manifest = read_manifest(home, data)
        check_features(config, manifest)
        with Workers(max(1, core_count() // world.local_size)) as pool:
            spread, say = partial(each_in_chunks, pool), on_message and world.spoken(on_message)
            restore_features(home, manifest, config, spread=spread, on_message=say)
        checked = with_widths(config)
        return VoiceRun(
            home,
            voice_folder(home, manifest, checked, tag),
            checked,
            manifest,
            read_stats(home, manifest, checked, norm_name),
            world,
            pick_device(checked.train.device),
            init=init,
            begin=partial(_beginning, home),
            show=_show,
            tensorboard=tensorboard,
        )

    return run_together(
        prepare,
        overwrite=overwrite,
        on_report=on_report,
        on_message=on_message,
        on_plan=on_plan,
        should_stop=should_stop,
    )


def _beginning(home: Home, init: str | Path) -> Beginning:
    """A model to begin with."""
    voice = find_voice(home, init)
    files = read_voice(voice, home)
    return Beginning(voice, files.weights, readable_keys(files.config.features), files.card, files.origin)


def _show(*arguments: Any, best_step: int | None) -> None:
    from aasvc_cli.report.previews import show  # loads what draws

    show(*arguments, best_step=best_step)
