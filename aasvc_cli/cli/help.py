"""Formats ``--help``: usage, summary, an example, then the options in groups.

Typer would use rich for this, which takes longer to import than the rest of the command line.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import typer

from aasvc_cli.cli.options import OLD_SPELLINGS

LEFT_MOST = 30
"""The widest column of option names."""
WIDEST = 110
FOOTER = (
    "Global options such as --quiet and --home work here, too; aasvc -h lists them. Every option can also be set by an "
    "environment variable (--batch-size by AASVC_BATCH_SIZE) or in aasvc.yaml."
)


def command_help(command: Any, ctx: typer.Context) -> str:
    """The help of one command."""
    return "".join(
        [
            _usage(command, ctx),
            *_paragraphs(command.help or ""),
            *_panels(command.get_params(ctx), ctx),
            "\n",
            _wrapped(FOOTER),
        ]
    )


def group_help(group: Any, ctx: typer.Context, summaries: Mapping[str, str]) -> str:
    """The help of the program, with its list of commands."""
    return "".join(
        [
            _usage(group, ctx),
            *_paragraphs(group.help or ""),
            "\n",
            _title("Commands"),
            *_columns(summaries.items()),
            *_panels(group.get_params(ctx), ctx),
        ]
    )


def _usage(command: Any, ctx: typer.Context) -> str:
    path = ctx.command_path if ctx.parent is None else f"{ctx.find_root().info_name} {ctx.info_name}"
    return f"{typer.style('Usage:', bold=True)} {path} {' '.join(command.collect_usage_pieces(ctx))}\n"


def _paragraphs(text: str) -> Iterable[str]:
    for paragraph in text.split("\n\n"):
        yield "\n" + _wrapped(paragraph)


def _panels(params: Iterable[Any], ctx: typer.Context) -> Iterable[str]:
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        if getattr(param, "hidden", False):
            continue
        argument = param.param_type_name == "argument"
        panel = param.rich_help_panel or ("Arguments" if argument else "Help")
        panels.setdefault(panel, []).append((_names(param, ctx), _explained(param)))
    for panel, rows in panels.items():
        yield "\n" + _title(panel)
        yield from _columns(rows)


def _names(param: Any, ctx: typer.Context) -> str:
    if param.param_type_name == "argument":
        return str(param.display_name_raw)
    shown = [name for name in param.opts if name not in OLD_SPELLINGS.get(str(ctx.command.name), ())]
    short = [name for name in shown if not name.startswith("--")]
    names = [*short, *(name for name in shown if name not in short), *param.secondary_opts]
    return ", ".join(names) + ("" if param.is_flag or param.count else f" {_value(param, ctx)}")


def _value(param: Any, ctx: typer.Context) -> str:
    if param.metavar is not None:
        return str(param.metavar)
    kind = str(param.display_type(ctx)).strip("<>").removesuffix(" range")
    return {"int": "N", "float": "X", "str": "TEXT", "path": "PATH"}.get(kind, kind)


def _explained(param: Any) -> str:
    notes = []
    worded = isinstance(param.show_default, str)
    default = param.default
    if worded:
        notes.append(f"default: {param.show_default}")
    elif param.show_default and default is not None and default is not False:
        notes.append(f"default: {getattr(default, 'value', default)}")
    low, high = getattr(param, "min", None), getattr(param, "max", None)
    if low is not None and high is not None:
        notes.append(f"{low:g} to {high:g}")
    elif low is not None:
        notes.append(f"at least {low:g}")
    if param.required:
        notes.append("required")
    return (param.help or "") + (f" [{'; '.join(notes)}]" if notes else "")


# --- layout ---------------------------------------------------------------------------------------------------------


def _width() -> int:
    return max(50, min(WIDEST, shutil.get_terminal_size().columns) - 1)


def _title(text: str) -> str:
    return typer.style(f"{text}:", bold=True) + "\n"


def _columns(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    rows = list(rows)
    left = min(LEFT_MOST, max((len(name) for name, _ in rows), default=0)) + 2
    for name, text in rows:
        lines = textwrap.wrap(_plain(text), _width() - left - 2, break_on_hyphens=False) or [""]
        if len(name) > left - 2:
            yield f"  {name}\n"
        else:
            yield f"  {name.ljust(left)}{lines.pop(0)}".rstrip() + "\n"
        yield from (f"  {' ' * left}{line}\n" for line in lines)


def _wrapped(text: str) -> str:
    """A paragraph in lines; commands in it are bold and never broken."""
    spaces = "\u00a0"
    text = " ".join(text.split())
    kept = re.sub(r"\[bold\](.*?)\[/bold\]", lambda match: f"[bold]{match[1].replace(' ', spaces)}[/bold]", text)
    words, lines, length = kept.split(" "), [""], 0
    for word in words:
        size = len(_plain(word))
        if length and length + 1 + size > _width():
            lines, length = [*lines, ""], 0
        lines[-1] += (" " if length else "") + word
        length += size + (1 if length else 0)
    bold = re.sub(r"\[bold\](.*?)\[/bold\]", lambda match: typer.style(match[1], bold=True), "\n".join(lines))
    return bold.replace(spaces, " ") + "\n"


def _plain(text: str) -> str:
    return re.sub(r"\[/?bold\]", "", text)
