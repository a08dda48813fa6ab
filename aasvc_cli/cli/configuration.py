"""The configuration of this call: what flags, variables, ``--conf`` and settings files say, in that order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from aasvc_cli.cli.output import settings
from aasvc_cli.config.layers import DEFAULT, ENVIRONMENT, FILE, FLAG, Layer, Origin, Traced
from aasvc_cli.config.yaml_files import OPTIONS

if TYPE_CHECKING:
    from aasvc_cli.config.settings import Config

PARAMETERS = {
    "features.source": "src_feat",
    "features.target": "trg_feat",
    "features.duration": "dp_feat",
    **dict.fromkeys(
        (f"features.folder.{key}" for key in ("path", "name", "channels", "frames_per_second")), "src_feat"
    ),
    "train.auto_batch": "batch_size",
}
"""Parameters that are not named like the last part of their key."""


def traced_config(
    conf: str | None, overrides: Mapping[str, Any], base: Sequence[Layer] = (), *, above: Sequence[Layer] = ()
) -> Traced:
    """The configuration and where each value comes from.

    Args:
        conf: value of ``--conf``
        overrides: values of options by configuration key, those that were given
        base: the defaults, the weakest first; the default preset if empty
        above: what holds whatever is said

    Raises:
        ConfigError: lists everything that is wrong.
    """
    from aasvc_cli.pipeline.configure import trace_config

    files = {file.layer.origin.place: file.layer for file in settings.files}
    by_origin: dict[Origin, dict[str, Any]] = {}
    for key, value in overrides.items():
        by_origin.setdefault(_origin(PARAMETERS.get(key, key.rpartition(".")[2])), {})[key] = value
    for origin, values in by_origin.items():  # an option in a file is as strong as that file
        if origin.kind == FILE:
            files[origin.place] = Layer(files[origin.place].origin, {**files[origin.place].values, **values})
    strong = [Layer(o, v) for kind in (FLAG, ENVIRONMENT) for o, v in by_origin.items() if o.kind == kind]
    named_by = _origin("conf")
    return trace_config(
        base,
        list(files.values()),
        [*above, *strong],
        conf=conf,
        conf_of=files[named_by.place] if named_by.kind == FILE else None,
    )


def configured(conf: str | None, overrides: Mapping[str, Any], base: Sequence[Layer] = ()) -> Config:
    """The configuration alone; see :func:`traced_config`."""
    return traced_config(conf, overrides, base).config


def _origin(parameter: str) -> Origin:
    return settings.origins.get(parameter, Origin(FLAG, "command line"))


@dataclass(frozen=True)
class ShownConfig:
    """A configuration as ``--print-config`` shows it.

    Attributes:
        options: other options of the command that were set somewhere, with their values and origins
    """

    traced: Traced
    options: Mapping[str, tuple[Any, Origin]]

    def lines(self) -> list[str]:
        """A configuration file with the origin of each value beside it, which can be used as one."""
        from aasvc_cli.config.reading import to_tree

        tree = to_tree(self.traced.config)
        lines = list(_yaml(tree, self.traced.origins, ""))
        if self.options:
            lines.append(f"{OPTIONS}:")
            lines += [_line("  ", name, value, origin) for name, (value, origin) in self.options.items()]
        return lines

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        from aasvc_cli.config.reading import to_tree

        return {
            "config": to_tree(self.traced.config),
            "origins": {key: {"kind": o.kind, "place": o.place} for key, o in self.traced.origins.items()},
            "options": {
                name: {"value": value, "kind": o.kind, "place": o.place} for name, (value, o) in self.options.items()
            },
            "files": [str(file.path) for file in settings.files],
        }


def shown_config(traced: Traced, overrides: Mapping[str, Any], *, without: Collection[str] = ()) -> ShownConfig:
    """What ``--print-config`` shows of the running command.

    Args:
        overrides: what options say about configuration keys; these are not listed as options again
        without: further parameters that are not listed
    """
    left_out = {*without, *(PARAMETERS.get(key, key.rpartition(".")[2]) for key in overrides)}
    options = {
        settings.names[name]: (settings.values[name], origin)
        for name, origin in settings.origins.items()
        if origin.kind != DEFAULT and name not in left_out and name in settings.values
    }
    return ShownConfig(traced, options)


def _yaml(tree: Mapping[str, Any], origins: Mapping[str, Origin], prefix: str) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(value, origins, f"{prefix}{key}.")
        else:
            yield _line(indent, key, value, origins[prefix + key])


def _line(indent: str, key: str, value: Any, origin: Origin) -> str:
    import json

    setting = f"{indent}{key}: {json.dumps(value, ensure_ascii=False, default=str)}"
    return f"{setting:<44} # {origin}"


def show_schema() -> None:
    """The JSON schema of configuration files, on standard output."""
    import json

    from aasvc_cli.config.schema import config_schema
    from aasvc_cli.features.kinds import model_kinds

    typer.echo(json.dumps(config_schema(model_kinds()), ensure_ascii=False, indent=1))
