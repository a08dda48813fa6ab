"""Private interfaces of other packages: all of them are listed here, exist, and their packages have an upper bound."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.once import parsed

ROOT = Path(__file__).parents[1]
FOREIGN = ("torch", "typer")
USED = {
    "torch._check": "an exported voice takes any length",
    "torch._foreach_copy_": "weights and gradients of a whole model in one call",
    "torch._foreach_lerp_": "the moving average of the weights",
    "typer.core.TyperOption.get_runtime_param": "values are checked without loading pydantic",
}
"""What is used of them, and what would not work without it."""


def dotted(node: ast.expr) -> str:
    """``a.b.c``; only ``.b.c`` of what is not a name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def private_names(tree: ast.Module) -> set[str]:
    """Dotted names with a private part that begin with one of the packages; typer's are found by their last part."""
    nodes = list(ast.walk(tree))
    names = {dotted(node) for node in nodes if isinstance(node, ast.Attribute)}
    names |= {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    private = re.compile(rf"({'|'.join(FOREIGN)})\.([\w.]+\.)?_(?!_)\w+(\.\w+)*")
    found = {name for name in names if private.fullmatch(name)}
    return found | {name for name in USED if any(each.endswith(f".{name.rpartition('.')[2]}") for each in names)}


def test_every_private_interface_that_is_used_is_listed():
    assert set().union(*map(private_names, parsed().values())) == set(USED)


def test_every_private_interface_that_is_used_exists():
    def exists(name: str) -> bool:
        package, *parts = name.split(".")
        module = importlib.import_module("typer.core" if package == "typer" else package)
        try:
            functools.reduce(getattr, parts[1:] if package == "typer" else parts, module)
        except AttributeError:
            return False
        return True

    broken = {name: use for name, use in USED.items() if not exists(name)}
    assert not broken, "gone from the installed version; what needs them"


def test_their_packages_have_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {each.name: str(each.specifier) for each in map(Requirement, project["dependencies"])}
    assert all("<" in bounds[name.partition(".")[0]] for name in USED)
