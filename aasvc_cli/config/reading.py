"""The configuration: frozen dataclasses, read strictly from YAML.

A configuration file only overrides defaults. Everything that is wrong with it is reported at once, each fault with the
path of its key. PyYAML implements YAML 1.1, which reads ``8e-5`` as text; a float field therefore accepts any text that
Python reads as a float.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from aasvc_cli.config.settings import Config
from aasvc_cli.errors import ConfigError

T = TypeVar("T")


def preset_names() -> list[str]:
    """Names of the configurations that ship with the package."""
    folder = resources.files("aasvc_cli") / "presets"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> Config:
    """One of the configurations that ship with the package."""
    return parse_config(preset_tree(name), f"preset {name}")


def preset_tree(name: str) -> dict[str, Any]:
    """What the file of a preset says, which is less than a whole configuration."""
    text = (resources.files("aasvc_cli") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return read_yaml(text, f"preset {name}")


def read_yaml(text: str, origin: str) -> dict[str, Any]:
    """A YAML mapping. Raises ConfigError if the text is not YAML or not a mapping."""
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(origin, ["not valid YAML: " + " ".join(str(error).split())]) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(origin, [f"expected a mapping of keys to values, found {type(tree).__name__}"])
    return tree


def read_config_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), ["is not a text file in UTF-8"]) from None
    return read_yaml(text, str(path))


def parse_config(tree: Mapping[str, Any], origin: str, *, check: Callable[[Config], list[str]] | None = None) -> Config:
    """Check a mapping against the configuration and build it.

    Args:
        check: finds further faults, of what this folder knows nothing about

    Raises:
        ConfigError: lists every unknown key, wrong type and impossible value.
    """
    faults: list[str] = []
    config = _parse(Config, tree, "", faults)
    faults += check(config) if check else []
    if faults:
        raise ConfigError(origin, faults)
    return config


def parse_partial(tree: Mapping[str, Any], origin: str, *, also: Sequence[str] = ()) -> dict[str, Any]:
    """Check a mapping that says only some things: its keys, types and ranges.

    What is impossible together is left to :func:`parse_config`, when everything is known.

    Args:
        also: keys that may stand beside ours, for guesses at what a misspelt one means

    Returns:
        the mapping with every value as the configuration will hold it

    Raises:
        ConfigError: lists every unknown key and wrong value.
    """
    faults: list[str] = []
    config = _parse(Config, tree, "", faults, together=False, also=also)
    if faults:
        raise ConfigError(origin, faults)
    return _given(tree, config)


def _given(tree: Mapping[str, Any], config: Any) -> dict[str, Any]:
    values = {key: getattr(config, key) for key in tree}
    return {key: _given(tree[key], value) if is_dataclass(value) else value for key, value in values.items()}


def override(config: Config, changes: Mapping[str, Any], origin: str = "command line") -> Config:
    """A configuration with dotted keys replaced, e.g. ``{"train.batch_size": 4}``, and checked again."""
    tree = to_tree(config)
    for path, value in changes.items():
        node = tree
        *parents, leaf = path.split(".")
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return parse_config(tree, origin)


def to_tree(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries of a configuration, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def parse_section(cls: type[T], tree: Any, path: str, origin: str) -> T:
    """Check a mapping against one of the dataclasses of a configuration and build it; raises ConfigError."""
    faults: list[str] = []
    section = _parse(cls, tree, path, faults)
    if faults:
        raise ConfigError(origin, faults)
    return section


def dump_yaml(config: Any) -> str:
    """A configuration as YAML text that :func:`parse_config` reads back to an equal object."""
    import yaml

    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def _parse(
    cls: type[T], tree: Any, path: str, faults: list[str], *, together: bool = True, also: Sequence[str] = ()
) -> T:
    if not isinstance(tree, Mapping):
        faults.append(f"{path or 'file'}: expected a mapping, found {_show(tree)}")
        return cls()
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    before = len(faults)
    for key, value in tree.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), [*known, *also], n=1)
            faults.append(f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        kind = hints[key]
        if is_dataclass(kind):
            values[key] = _parse(typing.cast(type, kind), value, where, faults, together=together)
            continue
        ok, parsed = _coerce(kind, value)
        if not ok:
            faults.append(f"{where}: expected {_describe(kind)}, found {_show(value)}")
            continue
        limits = known[key].metadata
        low, high = limits.get("minimum"), limits.get("maximum")
        if parsed is not None and low is not None and parsed < low:
            faults.append(f"{where}: {parsed} is below the smallest possible value, {low}")
        elif parsed is not None and high is not None and parsed > high:
            faults.append(f"{where}: {parsed} is above the largest possible value, {high}")
        else:
            values[key] = parsed
    result = cls(**values)
    if together and len(faults) == before and hasattr(result, "faults"):
        faults.extend(f"{path}.{fault}" if path else fault for fault in result.faults())
    return result


def _coerce(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether ``value`` fits the annotation, and the value to store."""
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind), value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return type(None) in get_args(kind), None
        return next((r for r in (_coerce(k, value) for k in get_args(kind) if k is not type(None)) if r[0]), (False, 0))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False, value
        entries = [_coerce(get_args(kind)[0], entry) for entry in value]
        return all(ok for ok, _ in entries), tuple(entry for _, entry in entries)
    if kind is float:
        if isinstance(value, bool):
            return False, value
        if isinstance(value, (int, float, str)):
            try:
                number = float(value)
            except ValueError:
                return False, value
            return math.isfinite(number), number
        return False, value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, kind), value


def _describe(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if k is type(None) else _describe(k) for k in get_args(kind))
    if origin is tuple:
        return "a list of " + _describe(get_args(kind)[0]).removeprefix("a ") + "s"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))


def _show(value: Any) -> str:
    kinds: dict[type, str] = {str: "text", bool: "boolean", int: "number", float: "number", dict: "mapping"}
    kind = "null" if value is None else kinds.get(type(value), type(value).__name__)
    return f"{kind} {value!r}" if value is not None else "null"
