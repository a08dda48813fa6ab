"""From ``--conf`` and flags to one checked configuration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aasvc_cli.config import (
    DEFAULT_PRESET,
    UNNAMED,
    Config,
    override,
    parse_config,
    preset_names,
    read_config_file,
    read_preset,
)
from aasvc_cli.errors import ConfigError
from aasvc_cli.legacy.published import config_from_published, is_published


def resolve_config(conf: str | None, overrides: Mapping[str, Any], fallback: Config | None = None) -> Config:
    """The configuration that a command works with.

    Args:
        conf: name of a preset, or a YAML file of ours or of the published recipe; None takes ``fallback``
        overrides: dotted keys, e.g. ``{"train.batch_size": 4}``; entries that are None are left out
        fallback: configuration without ``conf``; the default preset if None

    Raises:
        ConfigError: lists everything that is wrong.
    """
    if conf is None:
        config = fallback if fallback is not None else read_preset(DEFAULT_PRESET)
    elif conf in preset_names():
        config = read_preset(conf)
    else:
        config = _read_file(Path(conf))
    changes = {key: value for key, value in overrides.items() if value is not None}
    return override(config, changes) if changes else config


def _read_file(path: Path) -> Config:
    if not path.exists():
        names = preset_names()
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(str(path), [f"neither a file nor a preset; {hint}presets are {', '.join(names)}"])
    tree = read_config_file(path)
    config = config_from_published(tree, str(path)) if is_published(tree) else parse_config(tree, str(path))
    return override(config, {"name": path.stem}) if config.name == UNNAMED else config
