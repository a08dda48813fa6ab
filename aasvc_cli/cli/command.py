"""How commands are found, how their options get their values, and how their help looks.

A command is imported when it is asked for, so that help and completion stay quick. An option that is not on the command
line takes its value from a variable, else from a settings file, else its default.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import itertools
import os
from collections.abc import Iterator, Mapping, MutableMapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from aasvc_cli.cli.help import command_help, group_help
from aasvc_cli.cli.options import ITS_OWN, NEEDS, TEXT_RESULTS, YIELDS
from aasvc_cli.cli.output import check_results, check_working_directory, checked_target, is_first_process, say, settings
from aasvc_cli.config.layers import CONFIG_VARIABLE, DEFAULT, ENVIRONMENT, FILE, FLAG, Origin
from aasvc_cli.config.yaml_files import OPTIONS
from aasvc_cli.errors import ConfigError

PREFIX = "AASVC_"
EVERYWHERE = "Everywhere"
"""The panel of the options of the program itself, which may stand after the command, too."""
WORKS_ANYWAY = ("doctor",)
"""Commands that run although a settings file has faults."""


class AasvcCommand(TyperCommand):
    """A command whose options also come from variables and settings files."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, then let the weaker one of two alternatives go."""
        rest = _parse(self, ctx, args, super().parse_args)
        if not ctx.resilient_parsing:
            self._settle_alternatives(ctx)
        return rest

    def _settle_alternatives(self, ctx: typer.Context) -> None:
        """A default from a variable or a file yields to an option on the command line."""
        strength = [DEFAULT, FILE, ENVIRONMENT, FLAG]
        rank = {param.name: strength.index(origin_of(ctx, param).kind) for param in self.params}
        given = {name for name, value in ctx.params.items() if value not in (None, (), [])}
        for one, other in YIELDS.get(str(self.name), ()):
            if {one, other} <= given and rank[one] != rank[other]:
                weaker = min((one, other), key=lambda name: rank[name])
                ctx.params[weaker] = None
                given.discard(weaker)
        for dependent, needed in NEEDS.get(str(self.name), ()):
            if dependent in given and needed not in given and rank[dependent] < strength.index(FLAG):
                ctx.params[dependent] = None

    def invoke(self, ctx: Any) -> Any:
        """Run, unless a settings file has faults."""
        if settings.faults is not None and self.name not in WORKS_ANYWAY:
            raise settings.faults
        if self.name not in WORKS_ANYWAY:
            group = ctx.find_root().command
            if isinstance(group, AasvcGroup):
                check_option_names(group)
        settings.command = str(self.name)
        settings.origins = {param.name: origin_of(ctx, param) for param in self.params if param.expose_value}
        settings.names = {option.name: long_name(option) for option in options_of(self)}
        settings.values = dict(ctx.params)
        settings.start()
        if self.name not in WORKS_ANYWAY:  # which shows them itself
            warn_of_unknown_variables(ctx.find_root().command, self)
        check_working_directory()
        if "json_target" in ctx.params:
            ctx.params["json_target"] = checked_target(ctx.params["json_target"], "--json")
        _check_results(ctx.params)
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        show_file_defaults(self, ctx)
        formatter.write(command_help(self, ctx))


def _check_results(params: Mapping[str, Any]) -> None:
    """Refuse results of text that would take the place of something else that the command line names."""
    results = {option: params[name] for name, option in TEXT_RESULTS.items() if params.get(name) not in (None, "-")}
    if results:
        others = [value for name, value in params.items() if name not in TEXT_RESULTS]
        names = [name for value in others for name in (value if isinstance(value, (list, tuple)) else [value])]
        check_results(results, [name for name in names if isinstance(name, (str, Path))])


class AasvcGroup(TyperGroup):
    """The program: its commands are imported when they are asked for."""

    modules: Mapping[str, str] = {}
    """Summary of each command, in the order of the work; set by the program."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands(self, self.modules)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command."""
        return _parse(self, ctx, args, super().parse_args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Names of commands with their summaries, without importing them."""
        built = self.commands
        self.commands = {name: TyperCommand(name, short_help=text) for name, text in self.modules.items()}
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self.commands = built

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        show_file_defaults(self, ctx)
        formatter.write(group_help(self, ctx, self.modules))


class Commands(MutableMapping[str, Any]):
    """Commands by name, built from their modules when they are first asked for."""

    def __init__(self, group: AasvcGroup, modules: Mapping[str, str]) -> None:
        self._group, self._modules = group, modules
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            if name not in self._modules:
                raise KeyError(name)
            self._built[name] = self._build(name)
        return self._built[name]

    def _build(self, name: str) -> Any:
        function = getattr(importlib.import_module(f"{__package__}.{name}"), name)
        # Typer keeps the line breaks of docstrings; only those between paragraphs are meant
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, cls=AasvcCommand, help=text)(function)
        command: Any = typer.main.get_command(single)
        command.params += [_after_the_command(option) for option in options_of(self._group)]
        return command

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _after_the_command(option: Any) -> Any:
    """A global option that is also accepted after the command, where help does not repeat it."""
    twin = copy.copy(option)
    twin.hidden, twin.expose_value, twin.default, twin.envvar = True, False, None, None

    def keep(ctx: typer.Context, param: Any, value: Any) -> None:
        if origin_of(ctx, param).kind == FLAG:
            setattr(settings, param.name, value)

    twin.callback = keep
    return twin


# --- where values come from ------------------------------------------------------------------------------------------


def _parse(command: Any, ctx: Any, args: list[str], parse: Any) -> list[str]:
    for param in command.get_params(ctx):
        param.get_runtime_param = partial(_Checker, param)
    ctx.default_map = file_defaults(command)
    for option in options_of(command):
        option.envvar = variables(command, option)
        option.show_envvar = False
    try:
        rest: list[str] = parse(ctx, args)
    except typer.BadParameter as error:
        origin = origin_of(ctx, error.param) if error.param is not None else Origin(FLAG)
        if error.param_hint is None and origin.kind == ENVIRONMENT:
            error.param_hint = origin.place
        elif error.param_hint is None and origin.kind == FILE:
            error.param_hint = f"{OPTIONS}.{long_name(error.param)} in {origin.place}"
        raise
    return rest


class _Checker:
    """Checks a value if there is one: what Typer checks with is slow to load."""

    def __init__(self, param: Any) -> None:
        self.param = param

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value in the type of the option."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        kind = param.type_descriptor.annotation
        value = [_at_home(each) for each in value] if isinstance(value, (list, tuple)) else _at_home(value)
        if kind in (Path, list[Path]) and "" in (value if isinstance(value, list) else [value]):
            raise typer.BadParameter("an empty name")  # which would mean the working directory
        if type(value) is kind:  # a default
            return value
        if kind in (list[str], list[Path]) and all(isinstance(each, str) for each in value):
            (single,) = get_args(kind)
            return [single(each) for each in value]
        if isinstance(kind, type) and issubclass(kind, Enum) and value in [choice.value for choice in kind]:
            return kind(value)
        if ctx.resilient_parsing or (kind in (str, Path) and isinstance(value, str)):
            return kind(value) if kind in (str, Path) else value
        return type(param).get_runtime_param(param).coerce(value, param=param, ctx=ctx)


def _at_home(value: Any) -> Any:
    """A value with a leading ``~`` expanded, which shells leave alone in --option=~/x, files and variables."""
    return os.path.expanduser(value) if isinstance(value, str) and value[:2] in ("~", "~/", "~" + os.sep) else value


def options_of(command: Any) -> list[TyperOption]:
    """The options of a command that its function gets."""
    return [
        param
        for param in command.params
        if isinstance(param, TyperOption) and param.expose_value and not param.is_eager
    ]


def long_name(option: Any) -> str:
    """The name that files and variables use: the first long one, without its dashes."""
    return next(name for name in (*option.opts, *option.secondary_opts) if name.startswith("--")).lstrip("-")


def long_names(option: Any) -> list[str]:
    """Every long name of an option, without dashes."""
    return [name.lstrip("-") for name in option.opts if name.startswith("--")]


def variables(command: Any, option: Any) -> list[str]:
    """Variables that an option is read from: ``AASVC_TRAIN_SEED`` for one command, ``AASVC_SEED`` for all."""
    names = [name.replace("-", "_").upper() for name in long_names(option)]
    own = [] if isinstance(command, AasvcGroup) else [f"{PREFIX}{str(command.name).upper()}_{name}" for name in names]
    return own if _is_its_own(command, option) else [*own, *(PREFIX + name for name in names)]


def _is_its_own(command: Any, option: Any) -> bool:
    return not {*long_names(option)}.isdisjoint(ITS_OWN.get(str(command.name), ()))


def file_defaults(command: Any) -> dict[str, Any]:
    """What the settings files say about the options of a command, by parameter."""
    defaults = {}
    for option in options_of(command):
        said = _said(command, option)
        if said is not None:
            defaults[option.name] = said[0]
    return defaults


def _said(command: Any, option: Any) -> tuple[Any, str] | None:
    """What the strongest settings file says about an option, and which file that is."""
    for file in settings.files:
        own = file.options.get(str(command.name))
        shared = {} if _is_its_own(command, option) else file.options
        for section in (own if isinstance(own, Mapping) else {}, shared):
            for name in long_names(option):
                value = section.get(name)
                if value is not None and not isinstance(value, Mapping):
                    return _as_typed(option, value), str(file.layer.origin)
    return None


def _as_typed(option: Any, value: Any) -> Any:
    """A value from YAML as the command line would have it."""
    if option.multiple:
        return [str(each) for each in (value if isinstance(value, list) else [value])]
    return value if isinstance(value, bool) else str(value)


def origin_of(ctx: typer.Context, param: Any) -> Origin:
    """Where the value of a parameter comes from."""
    source = ctx.get_parameter_source(param.name)
    kind = source.name if source is not None else "DEFAULT"
    if kind == "COMMANDLINE":
        return Origin(FLAG, param.opts[0])
    if kind == "ENVIRONMENT":
        names = [param.envvar] if isinstance(param.envvar, str) else param.envvar or []
        return Origin(ENVIRONMENT, next((name for name in names if os.environ.get(name)), ""))
    said = _said(ctx.command, param) if kind == "DEFAULT_MAP" else None
    return Origin(FILE, said[1]) if said else Origin(DEFAULT)


def show_file_defaults(command: Any, ctx: typer.Context) -> None:
    """Show defaults from settings files in the help."""
    for option in options_of(command):
        said = _said(command, option)
        if said is not None:
            option.show_default = f"{said[0]}, from {said[1]}"
    ctx.default_map = None


def check_option_names(group: AasvcGroup) -> None:
    """Refuse settings files that set options that don't exist; raises ConfigError with all of them."""
    if not any(file.options for file in settings.files):
        return
    of_group = {name for option in options_of(group) for name in long_names(option)}
    several = {
        name
        for command in group.commands.values()
        for option in options_of(command)
        if option.multiple
        for name in long_names(option)
    }
    known = {
        command: {name for option in options_of(group.commands[command]) for name in long_names(option)}
        for command in group.commands
    }  # fmt: skip
    for file in settings.files:
        faults = []
        for key, value in file.options.items():
            if key in known and isinstance(value, Mapping):
                faults += [
                    f"{OPTIONS}.{key}.{name}: {fault}"
                    for name, inner in value.items()
                    if (fault := _option_fault(name, inner, known[key], several))
                ]
            elif fault := _option_fault(key, value, of_group.union(*known.values()), several, [*known]):
                faults.append(f"{OPTIONS}.{key}: {fault}")
        if faults:
            raise ConfigError(str(file.layer.origin), faults)


def _option_fault(name: str, value: Any, known: set[str], several: set[str], also: list[str] | None = None) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *(also or [])], n=1)
        return "no such option" + (f"; did you mean {near[0]}?" if near else "")
    if isinstance(value, Mapping) or (isinstance(value, list) and name not in several):
        return f"expected one value, found {'several' if isinstance(value, list) else 'a mapping'}"
    return ""


def warn_of_unknown_variables(group: Any, running: AasvcCommand) -> None:
    """Name variables that look like ours but set nothing."""
    if is_first_process() and isinstance(group, AasvcGroup):
        for name, near in unknown_variables(group, running).items():
            say(f"warning: the variable {name} sets nothing{f'; did you mean {near}?' if near else ''}")


def unknown_variables(group: AasvcGroup, *built: AasvcCommand) -> dict[str, str]:
    """Variables that look like ours but set nothing, with the nearest that does (or nothing).

    Building a command takes time: only a variable that those already built do not know has all of them built.
    """
    ours = [name for name in sorted(os.environ) if name.startswith(PREFIX)]
    known = {CONFIG_VARIABLE}
    for command in itertools.chain([group, *built], group.commands.values()):
        if known.issuperset(ours):
            return {}
        for option in options_of(command):
            known |= set(variables(command, option))
    return {name: next(iter(difflib.get_close_matches(name, known, n=1)), "") for name in ours if name not in known}
