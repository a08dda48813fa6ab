"""Options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer


class FeatureKindOption(StrEnum):
    """Feature kinds that the options offer."""

    MEL = "mel"
    MCEP = "mcep"


class SetOption(StrEnum):
    """The sets of a prepared corpus."""

    DEV = "dev"
    EVAL = "eval"
    TRAIN = "train"


class PrecisionOption(StrEnum):
    """Arithmetic of the network."""

    FP32 = "fp32"
    BF16 = "bf16"
    AUTO = "auto"


class TrainedOption(StrEnum):
    """What `train` trains."""

    VOICE = "aas-vc"
    VOCODER = "vocoder"


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


ConfOption = Annotated[
    str | None,
    model_option(
        "--conf",
        metavar="NAME_OR_FILE",
        envvar="AASVC_CONF",
        help="A preset (small, hificaptain) or a YAML file, ours or the published recipe's.",
    ),
]


SourceFeatureOption = Annotated[
    FeatureKindOption | None, model_option("--src-feat", help="What the model hears of the source.")
]


TargetFeatureOption = Annotated[
    FeatureKindOption | None, model_option("--trg-feat", help="What the model writes; only mel becomes sound.")
]


DurationFeatureOption = Annotated[
    FeatureKindOption | None, model_option("--dp-feat", help="What the duration predictor hears of the source.")
]


FramesPerTokenOption = Annotated[
    int | None,
    model_option(
        "--frames-per-token", min=1, help="Reduction factor: source frames in one token. `aasvc prepare` proposes one."
    ),
]


DataOption = Annotated[
    str | None,
    data_option(
        "--data", metavar="NAME", envvar="AASVC_DATA", help="A prepared set; by default the one prepared last."
    ),
]


RunDataOption = Annotated[
    str | None,
    data_option("--data", metavar="NAME", help="The prepared set of --set; by default the one the run was trained on."),
]


NormNameOption = Annotated[
    str,
    data_option(
        "--norm-name",
        metavar="NAME",
        help="Statistics for normalisation: self, or the name of a model whose statistics are taken.",
    ),
]


ModelOption = Annotated[
    str | None,
    model_option(
        "--model",
        metavar="TAG_OR_FOLDER",
        envvar="AASVC_MODEL",
        help="A tag of your training runs or a model folder, ours or published; by default the bundled voice.",
    ),
]


DeviceOption = Annotated[
    str | None, machine_option("--device", metavar="NAME", envvar="AASVC_DEVICE", help="auto, cpu, cuda or cuda:1.")
]


JobsOption = Annotated[
    int | None, machine_option("--jobs", "-j", min=1, envvar="AASVC_JOBS", help="Processes; by default one per core.")
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


def overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by the path of their configuration key."""
    return {
        key: str(value) if isinstance(value, StrEnum) else value for key, value in options.items() if value is not None
    }
