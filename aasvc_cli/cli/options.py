"""Options that several commands share, declared once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aasvc_cli.cli import completion
from aasvc_cli.features.kinds import FOLDER, model_kinds

YIELDS = {
    "convert": (
        ("inputs", "set_name"),
        ("inputs", "from0"),
        ("output", "from0"),
        ("save_mel", "from0"),
        ("set_name", "from0"),
        ("set_name", "format_name"),
        ("set_name", "raw_format"),
        ("output", "out_dir"),
        ("output", "set_name"),
        ("out_dir", "set_name"),
        ("save_mel", "set_name"),
    ),
    "evaluate": (("systems", "model"),),
}
"""Parameters that exclude each other, by command: one from a file or a variable yields to one on the command line."""
NEEDS: dict[str, tuple[tuple[str, str], ...]] = {"convert": (("data", "set_name"),)}
"""Parameters that mean nothing without another: from a file or a variable, they are then left out."""

TEXT_RESULTS = {"json_target": "--json", "jsonl": "--jsonl", "csv_file": "--csv", "report": "--report"}
"""Parameters that name a file of text to write, and their options."""

ITS_OWN = {"train": ("model",)}
"""Names that mean something else in one command, here an old spelling: ``AASVC_MODEL``, or ``model`` for all commands
in a file, does not reach it."""

OLD_SPELLINGS = {"convert": ("--workers",), "evaluate": ("--tag",), "train": ("--workers", "--model")}
"""Names of options that go on working for one release, by command, without being shown."""

THE_CONFIGURATIONS = "the configuration's"
"""Words for a default that ``--conf``, a settings file or the prepared set decides."""

KINDS_OFFERED = ", ".join(kind for kind in model_kinds() if kind != "folder") + ", or a folder of .npy files"
"""Kinds of feature, for the help of the options."""


class SetOption(StrEnum):
    """The sets of a prepared corpus."""

    DEV = "dev"
    EVAL = "eval"
    TRAIN = "train"


class PrecisionOption(StrEnum):
    """Arithmetic of the network."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    AUTO = "auto"


class TrainedOption(StrEnum):
    """What `train` trains."""

    VOICE = "aas-vc"
    VOCODER = "vocoder"
    CONTENT = "content"


class ModeOption(StrEnum):
    """Definitions of the scores."""

    PUBLISHED = "published"
    CORRECTED = "corrected"
    BOTH = "both"


# Shared options, declared once.
data_option = partial(typer.Option, rich_help_panel="Data")

model_option = partial(typer.Option, rich_help_panel="Model")

raw_option = partial(typer.Option, rich_help_panel="Raw input")

training_option = partial(typer.Option, rich_help_panel="Training")

measure_option = partial(typer.Option, rich_help_panel="Measures")

output_option = partial(typer.Option, rich_help_panel="Output")

machine_option = partial(typer.Option, rich_help_panel="Machine")

clean_option = partial(typer.Option, rich_help_panel="Cleaning")

ConfOption = Annotated[
    str | None,
    model_option(
        "--conf",
        metavar="NAME_OR_FILE",
        help="A preset (small, hificaptain) or a YAML file, aasvc's or the published recipe's.",
        show_default="what the prepared set was made with, else small",
        autocompletion=completion.presets,
    ),
]

SourceFeatureOption = Annotated[
    str | None,
    model_option(
        "--src-feat",
        metavar="KIND|DIR",
        help=f"What the model hears of the source: {KINDS_OFFERED}.",
        show_default=THE_CONFIGURATIONS,
        autocompletion=completion.features,
    ),
]

TargetFeatureOption = Annotated[
    str | None,
    model_option(
        "--trg-feat",
        metavar="KIND",
        help="What the model writes; only mel becomes sound.",
        show_default=THE_CONFIGURATIONS,
        autocompletion=completion.features,
    ),
]

DurationFeatureOption = Annotated[
    str | None,
    model_option(
        "--dp-feat",
        metavar="KIND|DIR",
        help=f"What the duration predictor hears of the source: {KINDS_OFFERED}.",
        show_default=THE_CONFIGURATIONS,
        autocompletion=completion.features,
    ),
]

FramesPerTokenOption = Annotated[
    int | None,
    model_option(
        "--frames-per-token",
        min=1,
        help="Reduction factor: source frames in one token. `aasvc prepare` proposes one.",
        show_default=THE_CONFIGURATIONS,
    ),
]

MelodyOption = Annotated[
    bool | None,
    model_option(
        "--melody/--no-melody",
        help="Follow the intonation of the source, or predict one from what is said, as that of two people seldom "
        "agrees. Only where the feature has it (content_f0, whisper_f0).",
        show_default="the configuration's; of a voice that begins with the bundled one, no",
    ),
]

DataOption = Annotated[
    str | None,
    data_option(
        "--data",
        metavar="NAME",
        help="A prepared set.",
        show_default="the one prepared last",
        autocompletion=completion.prepared,
    ),
]

RunDataOption = Annotated[
    str | None,
    data_option(
        "--data",
        metavar="NAME",
        help="The prepared set of --set.",
        show_default="the one the run was trained on",
        autocompletion=completion.prepared,
    ),
]

NormNameOption = Annotated[
    str,
    data_option(
        "--norm-name",
        metavar="NAME",
        help="Statistics for normalisation: self, or the name of a model whose statistics are taken.",
        autocompletion=completion.statistics,
    ),
]

ModelOption = Annotated[
    str | None,
    model_option(
        "--model",
        metavar="TAG_OR_FOLDER",
        help="A tag of your training runs or a model folder, aasvc's or published.",
        show_default="the bundled voice",
        autocompletion=completion.models,
    ),
]

DeviceOption = Annotated[
    str | None,
    machine_option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda or cuda:1.",
        show_default="auto, or the configuration's",
        autocompletion=completion.devices,
    ),
]

JobsOption = Annotated[
    int | None, machine_option("--jobs", "-j", min=1, help="Processes at once.", show_default="one per core")
]

JsonOption = Annotated[
    str | None,
    output_option(
        "--json",
        metavar="FILE|-",
        help="Write the result as JSON to a file, or to standard output in place of the summary.",
    ),
]

OverwriteOption = Annotated[bool, output_option("--overwrite", help="Begin anew and replace what is there.")]


def model_overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options that `prepare` and `train` share say about the configuration, by key."""
    return overrides_of({**_feature_overrides(given), "model.frames_per_token": given["frames_per_token"]})


def _feature_overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the features; a path in place of a kind stands for the folder there."""
    source, duration = given["src_feat"], given["dp_feat"]
    overrides = {"features.source": source, "features.target": given["trg_feat"], "features.duration": duration}
    if source is None or source in model_kinds() or not Path(source).is_dir():
        return overrides
    from aasvc_cli.features.folder import read_description

    described = dataclasses.asdict(read_description(Path(source))) | {"path": str(Path(source).absolute())}
    overrides |= {"features.source": FOLDER, "features.duration": FOLDER if duration == source else duration}
    return overrides | {f"features.folder.{key}": value for key, value in described.items()}


def overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by the path of their configuration key."""
    return {
        key: str(value) if isinstance(value, StrEnum) else value for key, value in options.items() if value is not None
    }
