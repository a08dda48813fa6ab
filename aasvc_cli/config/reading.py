"""The configuration, read strictly: pydantic checks types and ranges, ``faults()`` what values mean together.

A configuration file only overrides defaults. Everything that is wrong with it is reported at once, each fault with the
path of its key.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from aasvc_cli.config.settings import Config, Section
from aasvc_cli.config.yaml_files import read_yaml
from aasvc_cli.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T", bound=Section)
Path = tuple[int | str, ...]
_MOST_FAULTS = 50
_LONGEST_FAULT = 300
_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 60, 60


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # takes a fifth of a second of a conversion that does without it

    return TypeAdapter(cls)


def preset_names() -> list[str]:
    """Names of the configurations that ship with the package."""
    folder = resources.files("aasvc_cli") / "presets"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> Config:
    """One of the configurations that ship with the package."""
    return parse_config(preset_tree(name), f"preset {name}")


def preset_tree(name: str) -> dict[str, Any]:
    """The content of a preset's file, a partial configuration."""
    text = (resources.files("aasvc_cli") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return read_yaml(text, f"preset {name}")


def parse_config(tree: Any, origin: str, *, check: Callable[[Config], list[str]] | None = None) -> Config:
    """Check a mapping against the configuration and build it.

    Args:
        check: finds further faults, of what this folder knows nothing about

    Raises:
        ConfigError: lists every unknown key, wrong type and inconsistent value.
    """
    config, faults = _checked(Config, tree)
    _refuse([*faults, *((("",), fault) for fault in (check(config) if check else ()))], "", origin)
    return config


def parse_section(cls: type[T], tree: Any, path: str, origin: str) -> T:
    """Check a mapping against one section of a configuration and build it.

    Args:
        path: of the section in its file, for messages

    Raises:
        ConfigError: lists every unknown key, wrong type and inconsistent value.
    """
    section: T
    section, faults = _checked(cls, tree)
    _refuse(faults, path, origin)
    return section


def parse_partial(tree: Any, origin: str, *, also: Sequence[str] = ()) -> dict[str, Any]:
    """Check the keys, types and ranges of a partial configuration.

    Whether values are consistent is left to :func:`parse_config`, when everything is known.

    Args:
        also: keys that may stand beside ours, for guesses at what a misspelt one means

    Returns:
        the mapping with every value as the configuration will hold it

    Raises:
        ConfigError: lists every unknown key and wrong value.
    """
    config, faults = _check(Config, tree, also)
    _refuse(faults, "", origin)
    return _given(tree, config)


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


def from_tree(cls: type[T], tree: Mapping[str, Any]) -> T:
    """The section that :func:`to_tree` made a tree of; what nobody has edited needs no pydantic.

    Raises:
        TypeError, AttributeError: it is no such tree.
    """
    kinds: dict[str, Any] = {entry.name: entry.default_factory for entry in dataclasses.fields(cls)}
    inner = {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}
    return cls(**{name: from_tree(inner[name], value) if name in inner else value for name, value in tree.items()})


def dump_yaml(config: Any) -> str:
    """A configuration as YAML text that :func:`parse_config` reads back to an equal object."""
    import yaml

    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def _check(cls: Any, tree: Any, also: Sequence[str] = ()) -> tuple[Any, list[tuple[Path, str]]]:
    """A section built from the valid part of a mapping, and the faults of the rest."""
    from pydantic import ValidationError

    try:
        return _adapter(cls).validate_python(tree), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    faults = [(detail["loc"], _sentence(cls, detail, also)) for detail in details]
    return _adapter(cls).validate_python(_without(tree, [place for place, _ in faults])), faults


def _checked(cls: Any, tree: Any) -> tuple[Any, list[tuple[Path, str]]]:
    """A section built from the valid part of a mapping, and all faults, inconsistent values among them."""
    section, faults = _check(cls, tree)
    inconsistent = [
        ((*where, ""), fault)
        for where, part in _sections(section)
        if not any(place[: len(where)] == where for place, _ in faults)
        for fault in part.faults()
    ]
    return section, faults + inconsistent


def _sentence(cls: type[Section], detail: Any, also: Sequence[str]) -> str:
    """A fault in the words of pydantic, with the value found."""
    *parents, key = detail["loc"] or ("",)
    if detail["type"] in ("unexpected_keyword_argument", "invalid_key"):
        section: Any = cls()
        for parent in parents:
            section = getattr(section, str(parent))
        names = [*(entry.name for entry in dataclasses.fields(section)), *also]
        near = difflib.get_close_matches(str(key)[:60], names, n=1)
        return f"unknown key; did you mean {near[0]}?" if near else "unknown key"
    value = "null" if detail["input"] is None else _short.repr(detail["input"])
    if detail["type"] == "dataclass_type":
        return f"expected a mapping, found {value}"
    wanted = detail["msg"].removeprefix("Input ").removesuffix(", unable to parse string as a number")
    return f"{wanted}, found {value}"


def _without(tree: Any, places: Sequence[Path]) -> dict[Any, Any]:
    """A mapping without the values at some paths."""
    kept = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        inner = [place[1:] for place in places if place[:1] == (key,)]
        if not inner and isinstance(key, str):
            kept[key] = value
        elif inner and isinstance(value, Mapping) and () not in inner:
            kept[key] = _without(value, inner)
    return kept


def _sections(section: Section, where: Path = ()) -> Iterator[tuple[Path, Section]]:
    """A section and those inside it, the innermost first."""
    for entry in dataclasses.fields(section):
        if isinstance(value := getattr(section, entry.name), Section):
            yield from _sections(value, (*where, entry.name))
    yield where, section


def _refuse(faults: Sequence[tuple[Path, str]], path: str, origin: str) -> None:
    """Raise ConfigError if there are faults, each cut to a line."""
    lines = []
    for place, fault in faults[:_MOST_FAULTS]:
        *parents, leaf = [" ".join(str(key).split())[:60] for key in (*([path] if path else []), *place)] or ["file"]
        line = f"{'.'.join([*parents, leaf])}: {fault}" if leaf else ".".join([*parents, fault])
        lines.append(line if len(line) <= _LONGEST_FAULT else f"{line[:_LONGEST_FAULT]}...")
    if len(faults) > _MOST_FAULTS:
        lines.append(f"and {len(faults) - _MOST_FAULTS} more")
    if lines:
        raise ConfigError(origin, lines)


def _given(tree: Mapping[str, Any], config: Any) -> dict[str, Any]:
    values = {key: getattr(config, key) for key in tree}
    return {key: _given(tree[key], value) if isinstance(value, Section) else value for key, value in values.items()}
