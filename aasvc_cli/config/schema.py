"""A JSON schema of the configuration, with which editors complete keys and underline mistakes.

``presets/schema.json`` is a copy for editors that want a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from aasvc_cli.config.settings import Config, Section
from aasvc_cli.config.yaml_files import OPTIONS


def config_schema(feature_kinds: Sequence[str]) -> dict[str, Any]:
    """The schema of configuration files, of ``aasvc.yaml`` and of the user's file.

    Args:
        feature_kinds: what ``source``, ``target`` and ``duration`` below ``features`` may be
    """
    plain = Section.__pydantic_config__
    # only here: finding what is written below the fields takes longer than reading a configuration
    Section.__pydantic_config__ = {**plain, "use_attribute_docstrings": True}
    try:
        schema = TypeAdapter(Config).json_schema()
    finally:
        Section.__pydantic_config__ = plain
    for side in ("source", "target", "duration"):
        schema["$defs"]["FeatureConfig"]["properties"][side]["enum"] = list(feature_kinds)
    schema["properties"][OPTIONS] = {
        "type": "object",
        "description": "Defaults of command-line options by their names without dashes, e.g. {device: cuda}; only in "
        "aasvc.yaml and the user's file. Those of one command stand below its name.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "aasvc configuration"}
