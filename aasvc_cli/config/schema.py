"""A JSON schema of the configuration, with which editors complete keys and underline mistakes.

It is made from the dataclasses of :mod:`aasvc_cli.config.settings`, their ranges and what is written below their
fields.
``presets/schema.json`` is a copy for editors that want a file.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from aasvc_cli.config import settings as config
from aasvc_cli.config.layers import OPTIONS
from aasvc_cli.config.settings import Config

NUMBER_AS_TEXT = r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$"
"""Numbers such as 8e-5, which YAML 1.1 reads as text."""


def config_schema(feature_kinds: Sequence[str]) -> dict[str, Any]:
    """The schema of configuration files, of ``aasvc.yaml`` and of the user's file.

    Args:
        feature_kinds: what ``source``, ``target`` and ``duration`` below ``features`` may be
    """
    schema = _section(Config)
    features = schema["properties"]["features"]["properties"]
    for side in ("source", "target", "duration"):
        features[side]["enum"] = list(feature_kinds)
    schema["properties"][OPTIONS] = {
        "type": "object",
        "description": "Defaults of command-line options by their names without dashes, e.g. {device: cuda}; only in "
        "aasvc.yaml and the user's file. Those of one command stand below its name.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "aasvc configuration", **schema}


def _section(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    notes = _notes(cls)
    properties = {}
    for entry in fields(cls):
        kind = hints[entry.name]
        schema = _leaf(kind, entry) if not is_dataclass(kind) else _section(typing.cast(type, kind))
        if entry.name in notes:
            schema["description"] = notes[entry.name]
        properties[entry.name] = schema
    return {
        "type": "object",
        "description": _line(cls.__doc__ or ""),
        "additionalProperties": False,
        "properties": properties,
    }


def _leaf(kind: Any, entry: Field[Any]) -> dict[str, Any]:
    schema = _kind(kind)
    for limit in ("minimum", "maximum"):
        if entry.metadata.get(limit) is not None:
            schema[limit] = entry.metadata[limit]
    if entry.default is not MISSING:
        schema["default"] = entry.default
    return schema


def _kind(kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if origin in (types.UnionType, typing.Union):
        inner, *more = [_kind(part) for part in get_args(kind) if part is not type(None)]
        assert not more and "type" in inner, f"{kind}: only one type or null can be described"
        given = inner["type"] if isinstance(inner["type"], list) else [inner["type"]]
        return {**inner, "type": [*given, "null"]}
    if kind is float:
        return {"type": ["number", "string"], "pattern": NUMBER_AS_TEXT}
    return {"type": {int: "integer", bool: "boolean", str: "string"}[kind]}


def _notes(cls: type[Any]) -> dict[str, str]:
    """What is written below the fields of a dataclass, by field."""
    body = _classes().get(cls.__name__, [])
    return {
        before.target.id: _line(after.value.value)
        for before, after in itertools.pairwise(body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


@cache
def _classes() -> dict[str, list[ast.stmt]]:
    tree = ast.parse(inspect.getsource(config))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
