"""Layers of settings: which place sets what, and which one wins.

A layer holds the values that one place sets, by dotted key; a stack of layers gives the configuration and the origin of
each value. From the strongest to the weakest: an option on the command line, an ``AASVC_...`` variable,
``--conf``, the project's ``aasvc.yaml``, the user's file, and the base - the sizes of the model that a training begins
with, the configuration of a prepared set, or a preset - on the defaults of :mod:`aasvc_cli.config.settings`. A ``conf``
that a file names under ``options`` is a base, too, which the keys of that file change.

The configuration itself is imported only where needed: help and completion do without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.config.yaml_files import OPTIONS, read_config_file
from aasvc_cli.errors import ConfigError

if TYPE_CHECKING:
    from aasvc_cli.config.settings import Config

PROJECT_FILE = "aasvc.yaml"
"""Settings of a project, in the working directory."""
CONFIG_VARIABLE = "AASVC_CONFIG"
"""Names the user's file; empty for none."""

FLAG, ENVIRONMENT, CONF, FILE = "flag", "environment", "conf", "file"
INIT, PREPARED, PRESET, DEFAULT = "init", "prepared", "preset", "default"


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        kind: ``flag``, ``environment``, ``conf``, ``file``, ``init``, ``prepared``, ``preset`` or ``default``
        place: the option, variable, file, model, prepared set or preset
    """

    kind: str
    place: str = ""

    def __str__(self) -> str:
        if self.kind in (FLAG, ENVIRONMENT, FILE, DEFAULT):
            return self.place or self.kind
        return f"{'--' if self.kind in (CONF, INIT) else ''}{self.kind} {self.place}"


@dataclass(frozen=True)
class Layer:
    """The values that one place sets, by dotted key, e.g. ``train.batch_size``."""

    origin: Origin
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Traced:
    """A configuration, and where each of its values comes from, by dotted key."""

    config: Config
    origins: Mapping[str, Origin]


@dataclass(frozen=True)
class SettingsFile:
    """The project's or the user's file, read strictly.

    Attributes:
        layer: its configuration keys
        options: its defaults of command-line options, by their names with dashes; those of one command only stand
            below the name of the command
    """

    path: Path
    layer: Layer
    options: Mapping[str, Any] = field(default_factory=dict)


def combine(layers: Sequence[Layer], *, check: Callable[[Config], list[str]] | None = None) -> Traced:
    """Merge layers, the weakest first, into a configuration.

    Args:
        check: finds further faults, as for :func:`aasvc_cli.config.reading.parse_config`

    Raises:
        ConfigError: inconsistent values.
    """
    from aasvc_cli.config.reading import parse_config, to_tree
    from aasvc_cli.config.settings import Config

    tree = to_tree(Config())
    origins = {key: Origin(DEFAULT) for key, _ in flatten(tree)}
    for layer in layers:
        for key, value in layer.values.items():
            *parents, leaf = key.split(".")
            node = tree
            for parent in parents:
                node = node[parent]
            node[leaf] = value
            origins[key] = layer.origin
    named = [str(layer.origin) for layer in layers if layer.values and layer.origin.kind not in (PREPARED, PRESET)]
    return Traced(parse_config(tree, ", ".join(dict.fromkeys(named)) or "configuration", check=check), origins)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested dictionaries by dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def config_layer(origin: Origin, config: Config, section: str = "") -> Layer:
    """A whole configuration as a layer, or one section of it."""
    from aasvc_cli.config.reading import to_tree

    tree = to_tree(config)
    return Layer(origin, dict(flatten({section: tree[section]} if section else tree)))


def preset_layer(name: str | None = None) -> Layer:
    """A preset as a layer."""
    from aasvc_cli.config.reading import parse_partial, preset_tree
    from aasvc_cli.config.settings import DEFAULT_PRESET

    name = name or DEFAULT_PRESET
    return Layer(Origin(PRESET, name), dict(flatten(parse_partial(preset_tree(name), f"preset {name}"))))


def read_settings_file(path: Path, shown: str = "") -> SettingsFile:
    """Read the project's or the user's file.

    Args:
        shown: its name in messages

    Raises:
        ConfigError: lists unknown keys and wrong types. Names under ``options`` are checked by the command line, which
            knows them.
    """
    name = shown or str(path)
    tree = dict(read_config_file(path))
    options = tree.pop(OPTIONS, None)
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(name, [f"{OPTIONS}: expected a mapping of option names to values"])
    values: dict[str, Any] = {}
    if tree:
        from aasvc_cli.config.reading import parse_partial

        values = parse_partial(tree, name, also=(OPTIONS,))
    dashed = {
        str(key).replace("_", "-"): {str(k).replace("_", "-"): v for k, v in value.items()}
        if isinstance(value, Mapping)
        else value
        for key, value in (options or {}).items()
    }
    return SettingsFile(path, Layer(Origin(FILE, name), dict(flatten(values))), dashed)


def user_file() -> Path | None:
    """The user's settings file: ``$AASVC_CONFIG`` (empty: none), else ``config.yaml`` in the platform's place.

    Raises:
        ConfigError: the variable names a file that is not there.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named == "":
        return None
    if named is not None:
        path = Path(os.path.expanduser(named))
        if path.is_dir() or not path.exists():
            raise ConfigError(f"{CONFIG_VARIABLE}={named}", ["no such file; correct the variable, or unset it"])
        return path
    path = user_file_place()
    return path if path.is_file() else None


def user_file_place() -> Path:
    """Where the user's settings file belongs on this platform."""
    from platformdirs import user_config_path

    return user_config_path("aasvc", appauthor=False) / "config.yaml"


def settings_files() -> list[SettingsFile]:
    """The settings files that exist: the project's, then the user's.

    Raises:
        ConfigError: lists all faults of the first file that has any.
    """
    files = []
    if Path(PROJECT_FILE).is_file():
        files.append(read_settings_file(Path(PROJECT_FILE), PROJECT_FILE))
    user = user_file()
    if user is not None and not (files and user.resolve() == files[0].path.resolve()):
        files.append(read_settings_file(user))
    return files
