"""YAML files of settings, read strictly: keys once, numbers as they are written, bounded in size.

PyYAML implements YAML 1.1, where ``010`` is 8, ``1:30`` is 90, ``1_0`` is 10 and ``8e-5`` is text. Here only what YAML
1.2 calls a number is one, and dates are text.
"""

from __future__ import annotations

import copy
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from aasvc_cli.errors import ConfigError

OPTIONS = "options"
"""The section of a settings file with defaults of command-line options."""
MOST_BYTES = 1 << 18
MOST_VALUES = 10_000
"""Values of a file after its aliases are expanded."""


def read_config_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MOST_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), ["is not a text file in UTF-8"]) from None
    return read_yaml(text, str(path))


def read_yaml(text: str, origin: str) -> dict[str, Any]:
    """A YAML mapping; below ``options``, numbers stay text, as on the command line.

    Raises:
        ConfigError: not YAML, not a mapping, too large, or a key is given twice.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(origin, [f"larger than {MOST_BYTES >> 10} KiB, which no settings file is"])
    try:
        tree, repeated = copy.deepcopy(_parsed(text))
    except Exception as error:  # besides YAMLError: ValueError, IndexError, AttributeError, RecursionError, ...
        raise ConfigError(origin, [f"not valid YAML: {' '.join(str(error).split())[:300]}"]) from None
    if repeated:
        raise ConfigError(origin, repeated)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(origin, [f"expected a mapping of keys to values, found {type(tree).__name__}"])
    return tree


@lru_cache(maxsize=16)
def _parsed(text: str) -> tuple[Any, list[str]]:
    """The value of a text, and what is given twice in it; a run reads the same few files again and again."""
    loader = _loader()(text)
    node = loader.get_single_node()
    _bound(node, {})
    _keep_options_as_text(node)
    return None if node is None else loader.construct_document(node), loader.repeated


@cache
def _loader() -> Any:
    """A loader that reports repeated keys and knows the numbers of YAML 1.2."""
    import yaml

    class Loader(yaml.SafeLoader):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.repeated: list[str] = []

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            first: dict[str, Any] = {}
            for key, _ in node.value:
                if isinstance(key.value, str) and first.setdefault(key.value, key) is not key:
                    lines = [each.start_mark.line + 1 for each in (first[key.value], key)]
                    where = "line {}" if lines[0] == lines[1] else "lines {} and {}"
                    self.repeated.append(f"{key.value}: given twice, in {where.format(*lines)}")
            return super().construct_mapping(node, deep)

    unwanted = [f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")]
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in unwanted]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    whole = r"[-+]?(?:0|[1-9][0-9]*)"
    real = rf"(?:{whole}(?:\.[0-9]*)?|[-+]?\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    Loader.add_implicit_resolver(unwanted[0], re.compile(rf"(?:{whole})\Z"), list("-+0123456789"))
    Loader.add_implicit_resolver(unwanted[1], re.compile(rf"(?:{real})\Z"), list("-+.0123456789"))
    return Loader


def _bound(node: Any, sizes: dict[int, int]) -> int:
    """How many values a node has once its aliases are expanded; raises ValueError if they are too many."""
    size = 1
    sizes[id(node)] = MOST_VALUES  # until it is known: a node that holds itself is endless
    for child in node.value if node is not None and not isinstance(node.value, str) else ():
        for part in child if isinstance(child, tuple) else (child,):
            size += sizes[id(part)] if id(part) in sizes else _bound(part, sizes)
    if size > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values, aliases expanded")
    sizes[id(node)] = size
    return size


def _keep_options_as_text(root: Any) -> None:
    waiting = [value for key, value in _pairs(root) if key.value == OPTIONS]
    while waiting:
        node = waiting.pop()
        if isinstance(node.value, str):
            if node.tag.endswith((":int", ":float")):
                node.tag = "tag:yaml.org,2002:str"
        else:
            waiting += [value for _, value in _pairs(node)] or [each for each in node.value if hasattr(each, "value")]


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    return [each for each in getattr(node, "value", ()) if isinstance(each, tuple)]
