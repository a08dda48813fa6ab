"""From ``--conf``, settings files and flags to one checked configuration."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from aasvc_cli.config.layers import CONF, Layer, Origin, Traced, combine, config_layer, flatten, preset_layer
from aasvc_cli.config.reading import parse_partial, preset_names
from aasvc_cli.config.settings import UNNAMED
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.errors import ConfigError
from aasvc_cli.features.kinds import feature_faults
from aasvc_cli.published.voices import config_from_published, is_published


def trace_config(
    base: Sequence[Layer],
    files: Sequence[Layer],
    overrides: Sequence[Layer],
    *,
    conf: str | None = None,
    conf_of: Layer | None = None,
) -> Traced:
    """The configuration that a command works with, and where each value comes from.

    Args:
        base: the defaults, the weakest first; the default preset if empty. ``conf`` takes its
            place.
        files: settings files, the strongest first
        overrides: what flags and variables say, the strongest first
        conf: name of a preset, or a YAML file of ours or of the published recipe
        conf_of: the settings file that named ``conf``, which makes it a base that the files change; None if the command
            line named it, which makes it beat the files

    Raises:
        ConfigError: lists everything that is wrong.
    """
    chosen = conf_layer(conf) if conf is not None else None
    if chosen is None:
        stack = [*(base or [preset_layer()]), *reversed(files)]
    elif conf_of is None:
        stack = [*reversed(files), chosen]
    else:
        stack = [chosen, *reversed(files)]
    return combine([*stack, *reversed(overrides)], check=feature_faults)


def conf_layer(conf: str) -> Layer:
    """What ``--conf`` says: a preset, or a YAML file of ours or of the published recipe.

    Raises:
        ConfigError: nothing of that name, or faults in the file, all of them listed.
    """
    if conf in preset_names():
        layer = preset_layer(conf)
        return Layer(Origin(CONF, conf), layer.values)
    path = Path(conf)
    if not path.exists():
        names = preset_names()
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(str(path), [f"neither a file nor a preset; {hint}presets are {', '.join(names)}"])
    tree = read_config_file(path)
    origin = Origin(CONF, str(path))
    if is_published(tree):
        layer = config_layer(origin, config_from_published(tree, str(path)))
    else:
        layer = Layer(origin, dict(flatten(parse_partial(tree, str(path)))))
    named = layer.values.get("name", UNNAMED)
    return Layer(origin, {**layer.values, "name": path.stem if named == UNNAMED else named})
